"""`--stage`, `--preset` and `--stage-NAME-OPTION`: built from the registry, including plugins and config.toml.

Knows how a stage's option becomes a command-line option. Knows no particular stage.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from bibwatch.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from bibwatch.registry import Registry

_REGISTRY, _GIVEN = f"{__name__}.registry", f"{__name__}.given"
_INTERPRETER = "model_interpreter_options"
_SPECIAL = ("kind", "model_options", _INTERPRETER)  # fields with no option of their own name


class StageCommand(click.Command):
    """A command that reads photos, with a command-line option for every option of every stage.

    Those are too many for --help, which refers to `bibwatch stages NAME` instead.
    """

    several_presets: ClassVar[bool] = False  # --preset may be repeated; the command gets `presets`

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_REGISTRY] = _registry(_config_named_in(args))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        # Built once per context: click calls this several times and compares the results.
        made = ctx.meta.setdefault(f"{__name__}.options", [])
        if not made:
            registry = ctx.meta.setdefault(_REGISTRY, _registry(None))
            made.extend(_options(registry, several_presets=self.several_presets))
        return [*self.params, *made, *filter(None, [self.get_help_option(ctx)])]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all options except those of the stages."""
        write_options(formatter, ctx, (each for each in self.get_params(ctx) if not isinstance(each, StageOption)))


class StageOption(click.Option):
    """One option of one stage. Its value goes into the configuration's tables, not to the command."""

    def __init__(self, stage: str, key: tuple[str, ...], name: str, **attributes: Any) -> None:
        flag = f"--stage-{stage}-{name}".replace("_", "-")
        if attributes.get("is_flag"):
            flag = f"{flag}/{flag.replace('--stage-', '--no-stage-', 1)}"
        name = re.sub(r"\W", "_", f"stage_{stage}_{'_'.join(key)}")
        super().__init__([flag, name], expose_value=False, callback=self._keep, **attributes)
        self.stage = stage
        self.key = key

    def _keep(self, ctx: click.Context, _: click.Parameter, value: Any) -> Any:
        if value is not None:
            table = given(ctx).setdefault(self.stage, {})
            for name in self.key[:-1]:
                table = table.setdefault(name, {})
            table[self.key[-1]] = value
        return value


class FieldType(click.ParamType[Any]):
    """A value that pydantic accepts for a field; lists and tables are given as JSON."""

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
    """A name in the registry; for an unknown one, the error suggests the nearest."""

    def __init__(self, registry: Registry, what: str, names: list[str]) -> None:
        super().__init__(names)
        self._registry = registry
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from bibwatch.messages import alike

        found = next((name for name in self.choices if alike(name, str(value))), None)
        return found or self.fail(self._registry.unknown(self._what, str(value), self.choices), param, ctx)


def write_options(formatter: click.HelpFormatter, ctx: click.Context, params: Iterable[click.Parameter]) -> None:
    """Write the help of options."""
    with formatter.section("Options"):
        options = (param for param in params if isinstance(param, click.Option))
        formatter.write_dl([record for option in options if (record := option.get_help_record(ctx))])


def given(ctx: click.Context) -> dict[str, dict[str, Any]]:
    """Return the stage options given on the command line, by stage."""
    found: dict[str, dict[str, Any]] = ctx.meta.setdefault(_GIVEN, {})
    return found


def model_flag(stage: str) -> str:
    """Return the flag that sets a stage's model."""
    return f"--stage-{stage}-model".replace("_", "-")


def _options(registry: Registry, *, several_presets: bool) -> Iterator[click.Option]:
    presets, stages = registry.presets, registry.stages
    yield click.Option(
        ["--stage"],
        type=NameType(registry, "stage", stages),
        metavar="NAME",
        help=f"What to do with the photos: {', '.join(stages)}. A stage has its own options, --stage-NAME-OPTION; "
        "list them with `bibwatch stages NAME`.",
    )
    yield click.Option(
        ["--preset", "presets" if several_presets else "preset"],
        type=NameType(registry, "preset", presets),
        multiple=several_presets,
        required=several_presets,
        metavar="NAME",
        help=f"Model to use{'; repeat for each model' * several_presets} (see `bibwatch presets`).",
    )
    for stage in stages:
        try:
            yield from options_of(registry, stage)
        except ConfigurationError:  # a broken plugin, or a mistake in config.toml: the command reports it
            continue


def options_of(registry: Registry, stage: str) -> Iterator[StageOption]:
    """Yield a stage's options: its model, its interpreter, its own fields, and those of the interpreters it can use.

    Raises ConfigurationError for a stage that cannot be used.
    """
    options_type = registry.stage_class(stage).options_type
    configured = registry.stage_table(stage)
    interpreters = registry.interpreters_for(options_type)
    preset = NameType(registry, "preset", registry.presets)
    yield StageOption(
        stage, ("model_options",), "model", type=preset, metavar="PRESET", help="Model to use, as with --preset."
    )
    yield StageOption(
        stage,
        (_INTERPRETER, "kind"),
        "interpreter",
        type=NameType(registry, "kind of interpreter", list(interpreters)),
        metavar="KIND",
        help=f"How replies are parsed: {', '.join(interpreters)}. [default: the one that suits the model]",
    )
    for key, field in options_type.model_fields.items():
        if key in options_type.submodels:
            name = key.removesuffix("_options")
            yield StageOption(stage, (key,), name, type=preset, metavar="PRESET", help=field.description)
        elif key not in _SPECIAL:
            yield _option(stage, (key,), field, configured)
    inner = configured.get(_INTERPRETER)
    fields = {key: field for each in interpreters.values() for key, field in each.model_fields.items()}
    for key, field in fields.items():
        if key != "kind" and key not in options_type.model_fields:
            yield _option(stage, (_INTERPRETER, key), field, inner if isinstance(inner, Mapping) else {})


def _option(stage: str, key: tuple[str, ...], field: FieldInfo, configured: Mapping[str, Any]) -> StageOption:
    name = key[-1]
    default = configured.get(name, field.get_default(call_default_factory=True))
    text = f"{field.description or ''} {_default(default)}".strip()
    if field.annotation is bool:
        return StageOption(stage, key, name, is_flag=True, default=None, help=text)
    return StageOption(stage, key, name, type=FieldType(field), help=text)


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
    """Return the configuration's registry; if it is broken, an empty one: the command will report the mistake."""
    from bibwatch import settings
    from bibwatch.registry import Registry

    try:
        return settings.load(config).registry()
    except ConfigurationError:
        return Registry()


def _config_named_in(args: list[str]) -> Path | None:
    """Find `--config FILE` before the command line is parsed: the available options depend on it."""
    for number, word in enumerate(args):
        if word == "--":
            break
        if word == "--config" and number + 1 < len(args):
            return Path(args[number + 1])
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
    return None
