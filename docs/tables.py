"""The parts of the docs that are made from the code: `make docs` writes them, a test holds them to it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bibwatch import cli, errors, telemetry
from bibwatch.cli.stage_options import options_of, write_options
from bibwatch.domain import states
from bibwatch.registry import Registry
from bibwatch.runtimes.base import ModelOptions
from bibwatch.settings import CameraSettings, Settings
from bibwatch.store import schema

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def settings() -> str:
    """Make a table of every setting: as in config.toml, in the environment, default, meaning."""
    return _table(("setting", "environment", "default", "meaning"), _settings(Settings, ()))


def _settings(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        path = (*above, name)
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, path)
            continue
        variable = "BIBWATCH_" + "__".join(path).upper()
        yield f"`{'.'.join(path)}`", f"`{variable}`", _default(field), field.description or ""
        if name == "cameras":
            yield from (
                (
                    f"`cameras.NAME.{key}`",
                    f"`BIBWATCH_CAMERAS__NAME__{key.upper()}`",
                    _default(each),
                    each.description or "",
                )
                for key, each in CameraSettings.model_fields.items()
            )


def options(kind: str, group: str) -> str:
    """Make a table of the options of a built-in runtime, interpreter or stage."""
    model = Registry().class_of(group, kind).options_type
    rows = [
        (f"`{name}`", _default(field), field.description or "")
        for name, field in model.model_fields.items()
        if field.description and name not in ModelOptions.about_fields
    ]
    return _table(("option", "default", "meaning"), rows)


def memory() -> str:
    """Make a table of what benchmarks/memory.py measured."""
    found = json.loads((RESULTS / "memory.json").read_text())
    keys = {"batch": "pictures at once", "most_gb": "most that the process held, GB"}
    keys |= {"weights_gb": "of it weights", "before_gb": "of it Python and torch"}
    return _table(tuple(keys.values()), [tuple(str(each[key]) for key in keys) for each in found["batches"]])


def speed() -> str:
    """Make a table of what benchmarks/local_vlm.py measured."""
    found = json.loads((RESULTS / "local_vlm.json").read_text())
    rows = [
        (
            f"`{name}`",
            f"{case['parameters'] / 1e6:,.0f} M",
            f"{case['guide']['seconds_an_image']:.3g} s",
            f"{own['seconds_an_image']:.3g} s",
            f"{way.removeprefix('batch ')}, {own['dtype'].removeprefix('torch.')}",
            f"{own['times_as_fast']:.1f}",
        )
        for name, case in found["cases"].items()
        for way, own in case["runtime"].items()
    ]
    heads = ("model", "parameters", "guide, an image", "`predict_batch`, an image", "batch, precision", "times as fast")
    return _table(heads, rows)


def reliability() -> str:
    """Make a table of what benchmarks/reliability.py counted."""
    found = json.loads((RESULTS / "reliability.json").read_text())
    kinds = [(name, kind) for kind in ("closeups", "photos") for name in found if kind in found[name]]
    rows = []
    for span in sorted({(row["from"], row["to"]) for name, kind in kinds for row in found[name][kind]["readings"]}):
        counted = [
            next((row for row in found[name][kind]["readings"] if (row["from"], row["to"]) == span), None)
            for name, kind in kinds
        ]
        said = f"{span[0]:.0%} to {span[1]:.0%}"
        rows.append((said, *(f"{row['right']} of {row['readings']}" if row else "" for row in counted)))
    all_found = (f"{found[name][kind]['found']} of {found[name][kind]['bibs']}" for name, kind in kinds)
    heads = ("said to be sure", *(f"{name}, {kind}: right" for name, kind in kinds))
    accepted = (f"{found[name][kind]['accepted_right']} of {found[name][kind]['accepted']}" for name, kind in kinds)
    return _table(heads, [*rows, ("accepted", *accepted), ("bibs found", *all_found)])


def commands() -> str:
    """Print the help of every command, and the options of every stage."""
    parts = []
    group = cli.cli
    for path, command in _commands("bibwatch", group):
        context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```\n")
    registry = Registry()
    for stage in registry.stages:
        formatter = click.HelpFormatter(width=100)
        write_options(formatter, click.Context(group), options_of(registry, stage))
        parts.append(f"## bibwatch stages {stage}\n\n```text\n{formatter.getvalue()}```\n")
    return "\n".join(parts)


def _commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and all below it, each with what is written to call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None  # noqa: S101
            yield from _commands(f"{path} {name}", below)


def state_table() -> str:
    """Make a table of the states: meaning, and what may follow."""
    rows = []
    for state in states.State:
        following = ", ".join(f"`{after}`" for after in states.State if after in states.TRANSITIONS[state])
        rows.append((f"`{state}`", states.MEANING[state], following))
    return _table(("state", "meaning", "may be followed by"), rows)


def exit_codes() -> str:
    """Make a table of the exit codes and the errors that end with them."""
    meaning = {
        0: "done",
        errors.BibwatchError.exit_code: "failed, or a photo could not be read; a line on stderr says what",
        click.UsageError.exit_code: "usage: the command line is wrong",
        errors.AlreadyRunningError.exit_code: "another instance runs on the same database",
        errors.ConfigurationError.exit_code: "configuration: a setting, the database or a folder cannot be used",
    }
    return _table(("code", "meaning"), [(str(code), text) for code, text in meaning.items()])


def views() -> str:
    """Print the definition of each view."""
    return "\n".join(f"### {name}\n\n```sql\n{inspect.cleandoc(sql)}\n```\n" for name, sql in schema.VIEWS.items())


def metrics() -> str:
    """Make a table of the metrics."""
    rows = []
    for metric in telemetry.METRICS:
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append((f"`{name}`", family.type, family.documentation))
    return _table(("metric", "type", "meaning"), rows)


def file(path: str, language: str = "python", after: str = "") -> str:
    """Print a file of the repository, from the table after `after` on, without its module docstring."""
    text = (Path(__file__).parents[1] / path).read_text()
    if after:
        text = text[text.index("\n\n", text.index(after)) :]
    return f"```{language}\n{text.strip()}\n```\n"


def presets() -> str:
    """Make a table of the built-in presets."""
    registry = Registry()
    rows = []
    for name in registry.presets:
        options = registry.model_options(name)
        size, memory = (f"{value:g}" if value is not None else "" for value in (options.download_gb, options.memory_gb))
        rows.append((f"`{name}`", f"`{options.kind}`", options.model, options.licence or "", size, memory))
    return _table(("preset", "kind", "model", "licence", "download, GB", "memory, GB"), rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    value = getattr(value, "pattern", value)  # of a compiled regular expression
    if isinstance(value, BaseModel):
        return f"`{value.model_dump()['kind']}`"
    return f"`{value}`".replace("|", "\\|") if value != "" else "empty"


def _table(head: tuple[str, ...], rows: object) -> str:
    lines = [head, ("---",) * len(head), *rows]  # type: ignore[misc]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def reading_figures() -> str:
    """Make a table of how well photos are read by a judge that has not seen them, by training/judge.py."""
    sets = json.loads((RESULTS / "judge.json").read_text())["sets"]
    rows = [
        (name, *(f"{figures[verdicts][figure]:.3f}" for verdicts, figure in _FIGURES)) for name, figures in sets.items()
    ]
    return _table(("photos", "accepted: right", "of all bibs", "accepted and review: right", "of all bibs"), rows)


_FIGURES = (
    ("accepted", "precision"),
    ("accepted", "recall"),
    ("accepted+review", "precision"),
    ("accepted+review", "recall"),
)


def model_errors() -> str:
    """Make a table of what may go wrong with a model, whose fault it is, and what is done."""
    rows = [
        (f"`{kind.__name__}`", inspect.getdoc(kind) or "", kind.blame.value, kind.retry.value, _consequence(kind))
        for kind in (errors.ModelError, *_below(errors.ModelError))
    ]
    return _table(("error", "meaning", "to blame", "tried again", "the photo"), rows)


def other_errors() -> str:
    """Make a table of all other errors."""
    rows = [
        (f"`{kind.__name__}`", inspect.getdoc(kind) or "", kind.blame.value, kind.retry.value, str(kind.exit_code))
        for kind in _below(errors.BibwatchError)
        if not issubclass(kind, errors.ModelError)
    ]
    return _table(("error", "meaning", "to blame", "tried again", "exit code"), rows)


def _below(kind: type[errors.BibwatchError]) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def _consequence(kind: type[errors.ModelError]) -> str:
    if kind.blame is errors.Blame.PHOTO:
        return "loses an attempt"
    if kind.blame is errors.Blame.SERVER:
        return "waits"
    proofs = {errors.Proof.ALONE: "it fails alone too", errors.Proof.PROBE: "a probe is answered"}
    return "waits; loses an attempt if " + " while ".join(text for proof, text in proofs.items() if proof in kind.proof)
