"""From names to things: kind -> class, preset name -> model options, stage name -> stage.

Knows what the configuration adds to what comes by the door of plugins. Loads no model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bibwatch.errors import ConfigurationError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.plugins import OWN, Door, Doors, how_to_allow, twice
from bibwatch.runtimes.base import Gives, ModelOptions, Runtime
from bibwatch.stages.base import Stage, StageOptions

ModelT = TypeVar("ModelT", bound=BaseModel)
Tables = Mapping[str, Mapping[str, Any]]


class Registry:
    """Everything that can be chosen by name in this installation and this configuration."""

    def __init__(self, plugins: Collection[str] = (), presets: Tables | None = None, stages: Tables | None = None):
        self.doors = Doors(plugins)
        self._own: Tables = presets or {}
        self._stages: Tables = stages or {}

    # Names

    @property
    def presets(self) -> list[str]:
        """The names of all presets, sorted."""
        return sorted({*self._offered, *self._own})

    @property
    def stages(self) -> list[str]:
        """The names of all stages, sorted: the kinds, and the configured ones."""
        return sorted({*self.kinds("stages"), *self._stages})

    def kinds(self, group: str) -> list[str]:
        """The kinds of a group: of `runtimes`, `interpreters` or `stages`."""
        return sorted({door.name for door in self.doors.open(group)})

    # Level 1: kind -> class

    def class_of(self, group: str, kind: str) -> Any:
        """Import and return the class of a kind: of `runtimes`, `interpreters` or `stages`.

        Raises ConfigurationError for a kind that is not there, is there twice, or does not work.
        """
        try:
            return self.doors.load(group, kind)
        except KeyError:
            raise ConfigurationError(
                self.unknown(f"kind of {group.removesuffix('s')}", kind, self.kinds(group))
            ) from None

    # Level 2: name -> options

    def model_options(self, preset: str) -> ModelOptions:
        """Return the options of a preset. Raises ConfigurationError for an unknown name or a bad option."""
        name = self._spelt(preset)
        return self._model_options({**self._inherited(name, ()), "name": name}, f"presets.{name}")

    def stage_options(self, name: str, preset: str) -> StageOptions:
        """Return the options of a stage: with the model it names itself, otherwise that of `preset`.

        Raises ConfigurationError, also for a stage and a model that cannot work together.
        """
        table = self.stage_table(name)
        own = table.pop("model_options", None)
        where = f"stages.{name}.model_options"
        if own is None:
            model = self.model_options(preset)
        elif isinstance(own, str):
            if not self._alike(own):
                raise ConfigurationError(f"{where}: {self.unknown('preset', own, self.presets)}")
            model = self.model_options(own)
        elif isinstance(own, Mapping):
            model = self._model_options({"name": name, **own}, where)
        else:
            raise ConfigurationError(f"{where}: neither a preset nor a table of options: {own!r}")
        return self._stage_options(name, table, model)

    # Things

    def stage(self, name: str, preset: str) -> Stage[Any]:
        """Return the stage `name` with the model it names itself, otherwise that of `preset`; nothing is loaded yet."""
        return self.build(self.stage_options(name, preset))

    def build(self, options: StageOptions) -> Stage[Any]:
        """Return the stage that these options describe; nothing is loaded yet."""
        stage: type[Stage[Any]] = self.class_of("stages", options.kind)
        chosen = options.model_interpreter_options
        interpreter: Interpreter[Any, Any] = self.class_of("interpreters", chosen.kind)(chosen)
        return stage(options, self.runtime(options.model_options), interpreter)

    def runtime(self, options: ModelOptions) -> Runtime[Any]:
        """Return the runtime for a model; nothing is loaded yet. Raises ConfigurationError for one that is refused."""
        if options.refused:
            raise ConfigurationError(f"preset {options.name} cannot be run: {options.refused}")
        runtime: Runtime[Any] = self.class_of("runtimes", options.kind)(options)
        return runtime

    def check(self) -> None:
        """Raise ConfigurationError if anything that the configuration names cannot be."""
        self.doors.check()
        for name in self._own:
            self.model_options(name)
        for name in self._stages:
            table = self.stage_table(name)
            if "model_options" in table:
                self.stage_options(name, "")
            else:
                self._stage_options(name, table, _any_model(self._needed(name, table)))

    def stage_class(self, name: str) -> type[Stage[Any]]:
        """Return the class of a stage, by its own name or by the kind it is configured to be."""
        kind = self.stage_table(name)["kind"]
        found: type[Stage[Any]] = self.class_of("stages", str(kind))
        return found

    def problems(self) -> dict[Door, str]:
        """Tell what is wrong with each door that cannot be used; the allowed ones are imported to find out."""
        found = {door: problem for door in self.doors.all if (problem := self.doors.problem(door))}
        for door in self.doors.open("presets"):
            for name, origins in self._offered.items():
                if len(origins) > 1 and door.origin in origins and door.distribution != OWN:
                    found.setdefault(door, twice(f"preset {name}", list(origins)))
        return found

    def _needed(self, name: str, table: Mapping[str, Any]) -> Gives:
        """Return what a stage needs of a model, whichever it is."""
        if "model_interpreter_options" in table:
            return self._interpreter_options(table["model_interpreter_options"], name).needs
        return next(iter(self.stage_class(name).options_type.interpreters), Gives.TEXT)

    def stage_table(self, name: str) -> dict[str, Any]:
        """Return what the configuration says of a stage, its kind at least."""
        return {"kind": name, **self._stages.get(name, {})}

    def _stage_options(self, name: str, table: dict[str, Any], model: ModelOptions) -> StageOptions:
        table = {**table, "model_options": model}
        interpreter = table.pop("model_interpreter_options", None)
        if interpreter is not None:
            table["model_interpreter_options"] = self._interpreter_options(interpreter, name)
        options_type: type[StageOptions] = self.stage_class(name).options_type
        return _validate(options_type, table, f"stages.{name}")

    def _model_options(self, table: Mapping[str, Any], where: str) -> ModelOptions:
        if "kind" not in table:
            raise ConfigurationError(f"{where}: neither `kind` nor `base` is given")
        runtime: type[Runtime[Any]] = self.class_of("runtimes", str(table["kind"]))
        return _validate(runtime.options_type, table, where)

    def _interpreter_options(self, given: str | Mapping[str, Any], stage: str) -> InterpreterOptions:
        table = {"kind": given} if isinstance(given, str) else given
        if "kind" not in table:
            raise ConfigurationError(f"stages.{stage}.model_interpreter_options: `kind` is not given")
        interpreter: type[Interpreter[Any, Any]] = self.class_of("interpreters", str(table["kind"]))
        return _validate(interpreter.options_type, table, f"stages.{stage}.model_interpreter_options")

    @cached_property
    def _offered(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        """The presets that come by the door, by name and origin; what is broken is left out."""
        offered: dict[str, dict[str, Mapping[str, Any]]] = {}
        for door in self.doors.open("presets"):
            if self.doors.problem(door):
                continue
            for name, table in door.load().items():
                offered.setdefault(name, {})[door.origin] = _as_table(table)
        return offered

    def _spelt(self, preset: str) -> str:
        """Return the preset's name as it is written: `my_qwen`, as an environment variable has it, is `my-qwen`."""
        alike = self._alike(preset)
        if not alike:
            raise ConfigurationError(self.unknown("preset", preset, self.presets))
        return preset if preset in alike else alike[0]

    def _alike(self, preset: str) -> list[str]:
        return [name for name in self.presets if name.replace("_", "-") == preset.replace("_", "-")]

    def _inherited(self, preset: str, via: tuple[str, ...]) -> dict[str, Any]:
        if preset in via:
            raise ConfigurationError(f"presets.{preset}: base leads back to itself ({' -> '.join(via)})")
        if preset not in self._own:
            return self._based(self._one_offered(preset), preset, via)
        table = self._own[preset]
        if table.get("base") == preset and preset in self._offered:  # a changed one: [presets.x] base = "x"
            changes = {name: value for name, value in table.items() if name != "base"}
            return {**self._based(self._one_offered(preset), preset, via), **changes}
        return self._based(table, preset, via)

    def _based(self, given: Mapping[str, Any], preset: str, via: tuple[str, ...]) -> dict[str, Any]:
        table = dict(given)
        base = table.pop("base", None)
        if base is None:
            return table
        return {**self._inherited(self._spelt(str(base)), (*via, preset)), **table}

    def _one_offered(self, preset: str) -> Mapping[str, Any]:
        origins = self._offered[preset]
        if len(origins) > 1:
            raise ConfigurationError(twice(f"preset {preset}", list(origins)))
        return next(iter(origins.values()))

    def unknown(self, what: str, name: str, names: Collection[str]) -> str:
        """Say that a name is not known, which known one is nearest, and where else it might be."""
        closed = self.doors.closed()
        more = f" (or is it in {closed[0]}, which is installed? {how_to_allow(closed[0])})" if closed else ""
        return unknown(what, name, names) + more


def _as_table(given: object) -> Mapping[str, Any]:
    """Return a preset as a table; a plugin may also give options made in code."""
    if isinstance(given, ModelOptions):
        return given.model_dump(exclude_unset=True) | {"kind": given.kind}
    return given if isinstance(given, Mapping) else {"kind": f"no table: {given!r}"}


def _any_model(gives: Gives) -> ModelOptions:
    """Return options of no model in particular, to check a stage's own options with."""
    model = type("AnyModel", (ModelOptions,), {"gives": gives})
    options: ModelOptions = model(kind="any", name="any")
    return options


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
