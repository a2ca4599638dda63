"""`bibwatch compare`: presets compared on the same photos."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from bibwatch.cli import stage_options
from bibwatch.cli.options import as_json, for_reading, printable
from bibwatch.cli.stage_options import StageCommand
from bibwatch.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bibwatch.comparison import Trial
    from bibwatch.settings import Settings

Labels = Mapping[str, frozenset[str]]
_MIN_WIDTH = 80  # characters; narrower tables are unreadable
_DIGITS = 4  # after the decimal point, in JSON
_LABELS = {
    "model": "model",
    "device": "device",
    "batch_size": "batch",
    "load_seconds": "load, s",
    "seconds_an_image": "one by one, s/image",
    "images_a_second": "batched, images/s",
    "memory_mb": "memory, MB",
    "cuda_memory_mb": "CUDA memory, MB",
    "failed": "failed",
    "exact_photos": "exact photos",
    "precision": "precision",
    "recall": "recall",
    "f": "F",
}


class _CompareCommand(StageCommand):
    several_presets: ClassVar[bool] = True


@click.command("compare", cls=_CompareCommand, short_help="Compare presets on the same photos.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=str), metavar="FILE...")
@click.option(
    "--labels",
    "labels_file",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="The true bibs of each photo: a CSV with columns file and bibs, bibs separated by spaces.",
)
@as_json
@for_reading
def command(
    *, settings: Settings, presets: tuple[str, ...], files: tuple[str, ...], labels_file: Path | None, as_json: bool
) -> None:
    """Read the same photos with several presets and compare time, memory and readings; nothing is recorded.

    Each preset runs in its own process and reads the photos in batches, as the daemon does, and one by one. A preset
    that cannot run is reported with the reason. Exits with 1 if a preset cannot run or a photo could not be read.
    """
    from bibwatch import comparison

    if "model_options" in stage_options.given(click.get_current_context()).get(settings.stage, {}):
        raise click.UsageError(f"--preset and {stage_options.model_flag(settings.stage)} set the same option; drop it")
    paths = tuple(dict.fromkeys(files))
    labels = comparison.read_labels(labels_file, paths) if labels_file else {}
    if labels_file and not labels:
        raise click.UsageError(f"--labels {labels_file} names none of the photos")
    trials = [_trial(settings, preset, paths) for preset in dict.fromkeys(presets)]
    ran = [trial for trial in trials if trial.error is None]
    unreadable = {path: answer.error for trial in ran for path, answer in trial.answers.items() if answer.unreadable}
    if as_json:
        for record in _records(trials, paths, labels):
            click.echo(json.dumps(record))
    else:
        _print(trials, [path for path in paths if path not in unreadable], labels)
    for path, error in unreadable.items():
        click.echo(f"{printable(path)}: {error}", err=True)
    if unreadable or len(ran) < len(trials) or any(trial.failed for trial in ran):
        click.get_current_context().exit(1)


def _trial(settings: Settings, preset: str, paths: tuple[str, ...]) -> Trial:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from bibwatch import comparison

    try:
        options = settings.registry().stage_options(settings.stage, preset, instead=True)
    except ConfigurationError as exc:
        return comparison.Trial(preset, error=" ".join(str(exc).split()))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(preset, total=len(paths))
        return comparison.run_trial(
            options,
            paths,
            plugins=settings.plugins,
            limits=settings.images,
            judge=settings.judge(),
            on_photos=lambda number: progress.update(bar, completed=number),
        )


def _records(trials: list[Trial], paths: tuple[str, ...], labels: Labels) -> Iterator[dict[str, Any]]:
    """Yield the comparison as objects: one per preset, one per file, one per pair of presets."""
    for trial in trials:
        yield _facts(trial, labels)
    ran = [trial for trial in trials if trial.error is None]
    for path in paths if ran else ():
        answers = {trial.preset: trial.answers[path] for trial in ran}
        record: dict[str, Any] = {"path": path}
        if path in labels:
            record["label"] = sorted(labels[path])
        yield record | {
            "found": {preset: list(answer.found) for preset, answer in answers.items() if answer.error is None},
            "errors": {preset: answer.error for preset, answer in answers.items() if answer.error is not None},
        }
    for one, other, same, photos in _agreements(ran):
        yield {"presets": [one, other], "same": same, "photos": photos, "agreement": _rounded(same / photos)}


def _facts(trial: Trial, labels: Labels) -> dict[str, Any]:
    from bibwatch import comparison

    if trial.error is not None:
        return {"preset": trial.preset, "error": trial.error}
    facts = {
        "preset": trial.preset,
        "model": trial.model,
        "device": trial.device,
        "batch_size": trial.batch_size,
        "photos": trial.photos,
        "failed": trial.failed,
        "load_seconds": _rounded(trial.load_seconds),
        "seconds_an_image": _rounded(_ratio(trial.alone_seconds, trial.photos)),
        "images_a_second": _rounded(_ratio(trial.photos, trial.batched_seconds)),
        "memory_mb": round(trial.memory_mb),
        "cuda_memory_mb": None if trial.cuda_memory_mb is None else round(trial.cuda_memory_mb),
    }
    if not labels:
        return facts
    score = comparison.score(trial, labels)
    shares = {name: _rounded(getattr(score, name)) for name in ("precision", "recall", "f")}
    return facts | {"labelled_photos": score.photos, "exact_photos": score.exact, **shares}


def _agreements(ran: list[Trial]) -> Iterator[tuple[str, str, int, int]]:
    from bibwatch import comparison

    for one, other in combinations(ran, 2):
        same, photos = comparison.agreement(one, other)
        if photos:
            yield one.preset, other.preset, same, photos


def _print(trials: list[Trial], readable: list[str], labels: Labels) -> None:
    from rich.console import Console

    console = Console()
    console.width = max(console.width, _MIN_WIDTH)
    ran = [trial for trial in trials if trial.error is None]
    if ran:
        _print_facts(console, ran, labels)
    if ran and readable:
        _print_readings(console, ran, readable, labels)
    for one, other, same, photos in _agreements(ran):
        console.print(f"{one} and {other} agree on {same} of {photos} photos ({same / photos:.0%})")
    for trial in trials:
        if trial.error is not None:
            console.print(f"{trial.preset} cannot run: {trial.error}", soft_wrap=True, markup=False, highlight=False)


def _print_facts(console: Console, ran: list[Trial], labels: Labels) -> None:
    from rich.markup import escape

    facts = [_facts(trial, labels) for trial in ran]
    table = _side_by_side("", ran)
    for key, label in _LABELS.items():
        if any(fact.get(key) is not None for fact in facts):
            table.add_row(label, *(escape(_text(fact[key])) for fact in facts))
    console.print(table)


def _print_readings(console: Console, ran: list[Trial], readable: list[str], labels: Labels) -> None:
    from rich.markup import escape

    table = _side_by_side("file", ran, *["label"] * bool(labels))
    for path in readable:
        known = labels.get(path)
        label = [] if not labels else ["" if known is None else " ".join(sorted(known)) or "no bib"]
        answers = [trial.answers[path] for trial in ran]
        cells = [answer.text if answer.error is None else f"error: {answer.error}" for answer in answers]
        table.add_row(escape(printable(path)), *(escape(cell) for cell in (*label, *cells)))
    console.print(table)


def _side_by_side(head: str, ran: list[Trial], *heads: str) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Column, Table

    names = (*heads, *(trial.preset for trial in ran))
    return Table(
        Column(head, overflow="fold"), *(Column(escape(name), overflow="fold") for name in names), box=box.SIMPLE_HEAD
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def _text(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
