"""From names to things: kind -> class, preset name -> model options, stage name -> stage.

Knows entry points; built-ins come through the same door as plugins. A plugin is imported only when its
distribution is allowed by name, and only when something of it is asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bibwatch.errors import ConfigurationError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.presets import BUILT_IN
from bibwatch.runtimes.base import ModelOptions, Runtime
from bibwatch.stages.base import Stage, StageOptions

_BASES: dict[str, type] = {"runtimes": Runtime, "interpreters": Interpreter, "stages": Stage}
ModelT = TypeVar("ModelT", bound=BaseModel)
Table = Mapping[str, Mapping[str, Any]]


class Registry:
    """Everything that can be chosen by name in this installation and this configuration."""

    def __init__(self, plugins: Collection[str] = (), presets: Table | None = None, stages: Table | None = None):
        self._allowed = {_canonical(name) for name in ("bibwatch", *plugins)}
        self._plugins = plugins
        self._own: Table = presets or {}
        self._presets: Table = {**BUILT_IN, **self._own}
        self._stages: Table = stages or {}

    @property
    def presets(self) -> list[str]:
        """The names of all presets, sorted."""
        return sorted(self._presets)

    @property
    def stages(self) -> list[str]:
        """The names of all stages, sorted: the kinds, and the configured ones."""
        return sorted({*(door.name for door in self._doors("stages")), *self._stages})

    def model_options(self, preset: str) -> ModelOptions:
        """Return the options of a preset. Raises ConfigurationError for an unknown name or a bad option."""
        table = self._inherited(preset, ())
        if "kind" not in table:
            raise ConfigurationError(f"presets.{preset}: neither `kind` nor `base` is given")
        runtime: type[Runtime[Any]] = self.class_of("runtimes", str(table["kind"]))
        return _validate(runtime.options_type, {**table, "name": preset}, f"presets.{preset}")

    def stage(self, name: str, preset: str) -> Stage[Any]:
        """Return the stage `name` bound to a runtime for `preset`; nothing heavy is loaded yet."""
        stage, options = self._stage_options(name, self.model_options(preset))
        return stage(options, self._runtime(options.model_options), self._interpreter(options))

    def check(self) -> None:
        """Raise ConfigurationError if anything that the configuration names cannot be."""
        for plugin in self._plugins:
            try:
                distribution(plugin)
            except PackageNotFoundError as exc:
                raise ConfigurationError(f"plugins: {plugin} is not installed; pip install {plugin}") from exc
        for name in self._own:
            self.model_options(name)
        for name in self._stages:
            self._stage_options(name, self.model_options(min(BUILT_IN)))

    def _stage_options(self, name: str, model_options: ModelOptions) -> tuple[type[Stage[Any]], StageOptions]:
        table = dict(self._stages.get(name, {}))
        stage: type[Stage[Any]] = self.class_of("stages", str(table.setdefault("kind", name)))
        if "model_options" in table:
            raise ConfigurationError(f"stages.{name}.model_options: the model is chosen with `preset`")
        table["model_options"] = model_options
        interpreter = table.pop("model_interpreter_options", None)
        if interpreter is not None:
            table["model_interpreter_options"] = self._interpreter_options(interpreter, name)
        return stage, _validate(stage.options_type, table, f"stages.{name}")

    def _runtime(self, options: ModelOptions) -> Runtime[Any]:
        runtime: Runtime[Any] = self.class_of("runtimes", options.kind)(options)
        return runtime

    def _interpreter(self, options: StageOptions) -> Interpreter[Any, Any]:
        chosen = options.model_interpreter_options
        interpreter: Interpreter[Any, Any] = self.class_of("interpreters", chosen.kind)(chosen)
        return interpreter

    def _interpreter_options(self, table: Mapping[str, Any], stage: str) -> InterpreterOptions:
        if "kind" not in table:
            raise ConfigurationError(f"stages.{stage}.model_interpreter_options: `kind` is not given")
        interpreter: type[Interpreter[Any, Any]] = self.class_of("interpreters", str(table["kind"]))
        return _validate(interpreter.options_type, table, f"stages.{stage}.model_interpreter_options")

    def _inherited(self, preset: str, via: tuple[str, ...]) -> dict[str, Any]:
        if preset in via:
            raise ConfigurationError(f"presets.{preset}: base leads back to itself ({' -> '.join(via)})")
        if preset not in self._presets:
            raise ConfigurationError(unknown("preset", preset, self.presets))
        table = dict(self._presets[preset])
        base = table.pop("base", None)
        if base is None:
            return table
        if base == preset and preset in BUILT_IN:  # a changed built-in: [presets.rapidocr] base = "rapidocr"
            return {**BUILT_IN[preset], **table}
        return {**self._inherited(str(base), (*via, preset)), **table}

    def class_of(self, group: str, kind: str) -> Any:
        """Import and return the class of a kind: of `runtimes`, `interpreters` or `stages`.

        Raises ConfigurationError for a kind that is not there, is there twice, or does not work.
        """
        doors = [door for door in self._doors(group) if door.name == kind]
        if not doors:
            raise ConfigurationError(
                unknown(f"kind of {group[:-1]}", kind, sorted({door.name for door in self._doors(group)}))
            )
        door = doors[0]
        if len(doors) > 1:
            raise ConfigurationError(f"{group[:-1]} {kind} is there twice: {', '.join(each.value for each in doors)}")
        try:
            found = door.load()
        except (Exception, SystemExit) as exc:
            raise ConfigurationError(f"{group[:-1]} {kind} ({door.value}) cannot be imported: {exc}") from exc
        if not (isinstance(found, type) and issubclass(found, _BASES[group])):
            raise ConfigurationError(f"{group[:-1]} {kind} ({door.value}) is no {_BASES[group].__name__}")
        return found

    def _doors(self, group: str) -> list[EntryPoint]:
        return [
            door
            for door in entry_points(group=f"bibwatch.{group}")
            if door.dist is not None and _canonical(door.dist.name) in self._allowed
        ]


def _canonical(distribution: str) -> str:
    """Write a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _validate(model: type[ModelT], table: Mapping[str, Any], where: str) -> ModelT:
    try:
        return model.model_validate(dict(table))
    except ValidationError as exc:
        raise ConfigurationError(explain(exc, lambda _: model.model_fields, where)) from exc


def explain(
    exc: ValidationError, names_at: Callable[[Sequence[int | str]], Collection[str] | None], where: str = ""
) -> str:
    """Put a validation error into words: one line per mistake, with the nearest known name for a misspelt key.

    `names_at` tells which keys are allowed at a place; `where` is the place of the whole.
    """
    lines = []
    for error in exc.errors(include_url=False):
        *above, last = error["loc"] or ("",)
        place = ".".join(filter(None, [where, *map(str, error["loc"])]))
        if error["type"] == "extra_forbidden":
            lines.append(unknown("key", place, names_at(above) or (), str(last)))
        else:
            lines.append(f"{place}: {error['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def unknown(what: str, name: str, names: Collection[str], word: str | None = None) -> str:
    """Say that a name is not known, and which known one is nearest."""
    near = difflib.get_close_matches(word or name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names)) or 'none'}"
    return f"unknown {what} {name!r}; {hint}"
