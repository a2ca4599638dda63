"""`--stage`, `--preset` and `--stage-NAME-OPTION`: made from the registry, plugins and config.toml included.

Knows how an option of a stage becomes an option of a command. Does not know any stage.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from bibwatch.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from bibwatch.registry import Registry

_REGISTRY, _GIVEN = f"{__name__}.registry", f"{__name__}.given"
_OWN = ("kind", "model_options", "model_interpreter_options")  # fields that are not set as they are


class StageCommand(click.Command):
    """A command that reads photos: it has an option for every option of every stage."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_REGISTRY] = _registry(_config_named_in(args))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        # Made once for each context: click asks several times, and compares what it gets.
        made = ctx.meta.setdefault(f"{__name__}.options", [])
        if not made:
            made.extend(_options(ctx.meta.setdefault(_REGISTRY, _registry(None))))
        return [*self.params, *made, *filter(None, [self.get_help_option(ctx)])]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the stages' options below the others, a chapter for each stage."""
        chapters: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                title = option.chapter if isinstance(option, StageOption) else "Options"
                chapters.setdefault(title, []).append(record)
        for title, records in sorted(chapters.items(), key=lambda chapter: chapter[0] != "Options"):
            with formatter.section(title):
                formatter.write_dl(records)


class StageOption(click.Option):
    """One option of one stage; its value goes to the tables of the configuration, not to the command."""

    def __init__(self, stage: str, key: str, name: str, **attributes: Any) -> None:
        flag = f"--stage-{stage}-{name}".replace("_", "-")
        if attributes.get("is_flag"):
            flag = f"{flag}/{flag.replace('--stage-', '--no-stage-', 1)}"
        name = re.sub(r"\W", "_", f"stage_{stage}_{key}")
        super().__init__([flag, name], expose_value=False, callback=self._keep, **attributes)
        self.stage = stage
        self.key = key
        self.chapter = f"Options of stage {stage}"

    def _keep(self, ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        if value is not None:
            given(ctx).setdefault(self.stage, {})[self.key] = value
        return value


class FieldType(click.ParamType[Any]):
    """A value that pydantic takes for a field; lists and tables are written as JSON."""

    def __init__(self, field: FieldInfo) -> None:
        from pydantic import TypeAdapter

        self.name = _type_name(field.annotation)
        annotation: Any = Annotated[field.annotation, field]
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pydantic import ValidationError

        reason = ""
        for candidate in (value, *_from_json(value)):
            try:
                self._adapter.validate_python(candidate)
            except ValidationError as exc:
                reason = reason or exc.errors()[0]["msg"]
            else:
                return candidate
        return self.fail(f"{value!r}: {reason}", param, ctx)


class NameType(click.Choice[str]):
    """A name of the registry; help shows the word for it, a mistake the nearest name."""

    def __init__(self, registry: Registry, what: str, names: list[str]) -> None:
        super().__init__(names)
        self._registry = registry
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        alike = [name for name in self.choices if name.replace("_", "-") == str(value).replace("_", "-")]
        if value not in self.choices and len(alike) != 1:
            self.fail(self._registry.unknown(self._what, str(value), self.choices), param, ctx)
        return value if value in self.choices else alike[0]


def given(ctx: click.Context) -> dict[str, dict[str, Any]]:
    """Return what the command line says of each stage."""
    found: dict[str, dict[str, Any]] = ctx.meta.setdefault(_GIVEN, {})
    return found


def _options(registry: Registry) -> Iterator[click.Option]:
    presets, stages = registry.presets, registry.stages
    yield click.Option(
        ["--stage"],
        type=NameType(registry, "stage", stages),
        metavar="NAME",
        help=f"What is done with the photos: {', '.join(stages)}.",
    )
    yield click.Option(
        ["--preset"],
        type=NameType(registry, "preset", presets),
        metavar="NAME",
        help=f"Which model does it (`bibwatch presets` tells of each): {', '.join(presets)}.",
    )
    for stage in stages:
        try:
            options_type = registry.stage_class(stage).options_type
        except ConfigurationError:  # a broken plugin: `bibwatch plugins` tells of it
            continue
        configured = registry.stage_table(stage)
        yield StageOption(
            stage,
            "model_options",
            "model",
            type=NameType(registry, "preset", presets),
            metavar="PRESET",
            help="Which model does it.",
        )
        yield StageOption(
            stage,
            "model_interpreter_options",
            "interpreter",
            type=NameType(registry, "kind of interpreter", registry.kinds("interpreters")),
            metavar="KIND",
            help="How the model's answers are understood. [default: what suits the model]",
        )
        for key, field in options_type.model_fields.items():
            if key not in _OWN:
                yield _option(stage, key, field, configured.get(key, field.get_default(call_default_factory=True)))


def _option(stage: str, key: str, field: FieldInfo, default: Any) -> StageOption:
    text = f"{field.description or ''} {_default(default)}".strip()
    if field.annotation is bool:
        return StageOption(stage, key, key, is_flag=True, default=None, help=text)
    return StageOption(stage, key, key, type=FieldType(field), help=text)


def _default(value: Any) -> str:
    value = getattr(value, "pattern", value)  # of a compiled regular expression
    if value in (None, "", (), [], {}) or repr(value) == "PydanticUndefined":
        return ""
    return f"[default: {value.value if isinstance(value, Enum) else value}]"


def _type_name(annotation: Any) -> str:
    names = {str: "text", int: "integer", float: "number", Path: "path"}
    if annotation in names:
        return names[annotation]
    if typing.get_origin(annotation) is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    if (typing.get_origin(annotation) or annotation) is re.Pattern:
        return "regex"
    inner = [each for each in typing.get_args(annotation) if each is not type(None)]
    if type(None) in typing.get_args(annotation) and len(inner) == 1:
        return _type_name(inner[0])
    return "json"


def _from_json(text: Any) -> Iterator[Any]:
    try:
        yield json.loads(text)
    except (TypeError, ValueError):
        return


def _registry(config: Path | None) -> Registry:
    """Return the registry of the configuration; if that is broken, of none: the command itself will tell."""
    from bibwatch import settings
    from bibwatch.registry import Registry

    try:
        return settings.load(config).registry()
    except ConfigurationError:
        return Registry()


def _config_named_in(args: list[str]) -> Path | None:
    """Find `--config FILE` before the command line is parsed: which options there are depends on it."""
    for number, word in enumerate(args):
        if word == "--":
            break
        if word == "--config" and number + 1 < len(args):
            return Path(args[number + 1])
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
    return None
