"""Lookup by name: kind -> class, preset name -> model options, stage name -> stage.

Combines what plugins provide with what the configuration adds. Loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bibwatch.errors import ConfigurationError, one_line
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.messages import alike, explain, unknown
from bibwatch.plugins import Plugins, allow_hint, duplicate
from bibwatch.runtimes.base import ModelOptions, OutputKind, Runtime
from bibwatch.stages.base import Stage, StageOptions

# Fields that describe the weights; a derived preset with other weights does not inherit them.
_WEIGHTS_FIELDS = frozenset({"licence", "download_gb", "memory_gb", "note", "refused"})
ModelT = TypeVar("ModelT", bound=BaseModel)
Tables = Mapping[str, Mapping[str, Any]]


class Registry:
    """Everything that can be chosen by name, given the installed plugins and the configuration."""

    def __init__(self, plugins: Collection[str] = (), presets: Tables | None = None, stages: Tables | None = None):
        self.plugins = Plugins(plugins)
        self._configured: Tables = presets or {}
        self._stages: Tables = stages or {}

    # Names

    @property
    def presets(self) -> list[str]:
        """The names of all presets, sorted."""
        return sorted({*self._from_plugins, *self._from_config})

    @property
    def stages(self) -> list[str]:
        """The names of all stages, sorted: every kind, and those that the configuration defines."""
        return sorted({*self.kinds("stages"), *self._stages})

    def kinds(self, group: str) -> list[str]:
        """Return the kinds in a group: `runtimes`, `interpreters` or `stages`."""
        return sorted({plugin.name for plugin in self.plugins.usable(group)})

    # Level 1: kind -> class

    def class_of(self, group: str, kind: str) -> Any:
        """Import and return the class of a kind in a group: `runtimes`, `interpreters` or `stages`.

        Raises ConfigurationError for a kind that is unknown, defined twice, or broken.
        """
        try:
            return self.plugins.load(group, kind)
        except KeyError:
            raise ConfigurationError(
                self.unknown(f"kind of {group.removesuffix('s')}", kind, self.kinds(group))
            ) from None

    # Level 2: name -> options

    def model_options(self, preset: str) -> ModelOptions:
        """Return the options of a preset. Raises ConfigurationError for an unknown name or a bad option."""
        name = self._preset_name(preset)
        return self._model_options({**self._inherited(name, ()), "name": name}, f"presets.{name}")

    def stage_options(self, name: str, preset: str, *, instead: bool = False) -> StageOptions:
        """Return a stage's options, with the model it is configured with, or else that of `preset`.

        With `instead`, `preset` takes precedence. Raises ConfigurationError, also for a stage and a model that do
        not fit together.
        """
        table = self.stage_table(name)
        own = table.pop("model_options", None)
        if instead:
            own = None
        model = self.model_options(preset) if own is None else self._configured_model(name, own)
        return self._stage_options(name, table, model)

    def line_up(self, name: str, preset: str, fallbacks: Iterable[str]) -> list[StageOptions]:
        """Return a stage's options with its primary model, then with each fallback, in order.

        Raises ConfigurationError as `stage_options` does, and for a preset that is named twice.
        """
        found = [self.stage_options(name, preset)]
        for fallback in fallbacks:
            options = self.stage_options(name, self._preset_name(fallback, "fallback_presets"), instead=True)
            if any(options.model_options.name == other.model_options.name for other in found):
                raise ConfigurationError(f"fallback_presets: {fallback} is named twice, or is the preset itself")
            found.append(options)
        return found

    def options(self, table: Mapping[str, Any]) -> StageOptions:
        """Return the options that a complete table describes, such as one made by `model_dump(mode="json")`."""
        kind = str(table.get("kind"))
        found: StageOptions = Registry(self.plugins.plugins, self._configured, {kind: table}).stage_options(kind, "")
        return found

    # Instances

    def stage(self, name: str, preset: str) -> Stage[Any]:
        """Return the stage that `stage_options` describes. Loads nothing."""
        return self.build(self.stage_options(name, preset))

    def build(self, options: StageOptions) -> Stage[Any]:
        """Return the stage that these options describe. Loads nothing."""
        stage: type[Stage[Any]] = self.class_of("stages", options.kind)
        chosen = options.model_interpreter_options
        interpreter: Interpreter[Any, Any] = self.class_of("interpreters", chosen.kind)(chosen)
        if options.constrained and interpreter.constraint is None:
            raise ConfigurationError(f"stages.{options.kind}.constrained: {chosen.kind} takes replies of any form")
        substages = {name: self.build(each) for name, each in options.substages().items()}
        return stage(options, self.runtime(options.model_options), interpreter, substages)

    def runtime(self, options: ModelOptions) -> Runtime[Any]:
        """Return the runtime for a model. Loads nothing. Raises ConfigurationError for a model that is refused."""
        from bibwatch import logs

        if options.refused:
            raise ConfigurationError(f"preset {options.name} cannot be run: {options.refused}")
        logs.keep_logs_off_stdout()
        runtime: Runtime[Any] = self.class_of("runtimes", options.kind)(options)
        return runtime

    def check(self) -> None:
        """Raise ConfigurationError if a configured plugin, preset or stage is invalid."""
        self.plugins.check()
        for name in self._from_config:
            self.model_options(name)
        for name in self._stages:
            table = self.stage_table(name)
            if "model_options" in table:
                self.stage_options(name, "")
            else:
                self._stage_options(name, table, _placeholder_model(self._needed_output(name, table)))

    def stage_class(self, name: str) -> type[Stage[Any]]:
        """Return the class of a stage; its kind is the configured one, or else its name."""
        kind = self.stage_table(name)["kind"]
        found: type[Stage[Any]] = self.class_of("stages", str(kind))
        return found

    def _needed_output(self, name: str, table: Mapping[str, Any]) -> OutputKind:
        """Return the kind of output that a stage needs from its model."""
        given = table.get("model_interpreter_options")
        if isinstance(given, str) or (isinstance(given, Mapping) and "kind" in given):
            return self._interpreter_options(given, name, None).accepts
        return next(iter(self.stage_class(name).options_type.interpreters), OutputKind.TEXT)

    def interpreters_for(self, stage: type[StageOptions]) -> dict[str, type[InterpreterOptions]]:
        """Return the options types of the interpreters a stage can use, by kind; broken ones are left out."""
        found = {}
        for kind in self.kinds("interpreters"):
            try:
                options: type[InterpreterOptions] = self.class_of("interpreters", kind).options_type
            except ConfigurationError:
                continue
            if options.produces in stage.value_kinds():
                found[kind] = options
        return found

    def stage_table(self, name: str) -> dict[str, Any]:
        """Return a stage's configuration table, which has at least `kind`."""
        return {"kind": name, **self._stages.get(name, {})}

    def _stage_options(self, name: str, table: dict[str, Any], model: ModelOptions) -> StageOptions:
        options_type = self.stage_class(name).options_type
        table = {**table, "model_options": model}
        interpreter = table.pop("model_interpreter_options", None)
        if interpreter is not None:
            default = options_type.default_interpreter(model)
            table["model_interpreter_options"] = self._interpreter_options(interpreter, name, default)
        for field, preset in options_type.submodels.items():
            if table.get(field, preset) is not None:
                table[field] = self._configured_model(name, table.get(field, preset), field)
        return _validate(options_type, table, f"stages.{name}")

    def _configured_model(self, stage: str, given: object, field: str = "model_options") -> ModelOptions:
        """Return the model that a stage's field gives as a preset's name or as a table."""
        where = f"stages.{stage}.{field}"
        table = _parsed(given)
        if isinstance(table, Mapping):
            return self._model_options({"name": stage, **self._with_base(table, stage, (), where)}, where)
        if not isinstance(table, str):
            raise ConfigurationError(f"{where}: neither a preset nor a table of options: {given!r}")
        return self.model_options(self._preset_name(table, where))

    def _model_options(self, table: Mapping[str, Any], where: str) -> ModelOptions:
        if "kind" not in table:
            raise ConfigurationError(f"{where}: neither `kind` nor `base` is given")
        runtime: type[Runtime[Any]] = self.class_of("runtimes", _name(table["kind"], f"{where}.kind"))
        options: ModelOptions = _validate(runtime.options_type, table, where)
        for stage in options.stages:
            if where.startswith("presets.") and options.name in self._from_config and stage not in self.kinds("stages"):
                raise ConfigurationError(
                    f"{where}.stages: {self.unknown('kind of stage', stage, self.kinds('stages'))}"
                )
        return options

    def _interpreter_options(self, given: object, stage: str, default: InterpreterOptions | None) -> InterpreterOptions:
        """Return the interpreter given by its kind or as a table; a table without `kind` changes the default."""
        where = f"stages.{stage}.model_interpreter_options"
        table = _parsed(given)
        table = {"kind": table} if isinstance(table, str) else table
        if not isinstance(table, Mapping):
            raise ConfigurationError(f"{where}: neither a kind nor a table of options: {given!r}")
        if "kind" not in table:
            if default is None:
                raise ConfigurationError(f"{where}: `kind` is not given, and no interpreter fits the model")
            table = {"kind": default.kind, **table}
        interpreter: type[Interpreter[Any, Any]] = self.class_of("interpreters", _name(table["kind"], f"{where}.kind"))
        return _validate(interpreter.options_type, table, where)

    @cached_property
    def _from_plugins(self) -> dict[str, dict[str, Mapping[str, Any]]]:
        """The presets that plugins provide, by name and origin; broken plugins are left out."""
        found: dict[str, dict[str, Mapping[str, Any]]] = {}
        for plugin in self.plugins.usable("presets"):
            try:
                tables = plugin.load()
            except ConfigurationError:  # `bibwatch plugins` reports it
                continue
            for name, table in tables.items():
                found.setdefault(name, {})[plugin.origin] = table
        return found

    @cached_property
    def _from_config(self) -> dict[str, Mapping[str, Any]]:
        """The configured presets, by their name or by that of the plugin's preset they override."""
        found: dict[str, Mapping[str, Any]] = {}
        for name, table in self._configured.items():
            known = next((each for each in (*found, *self._from_plugins) if alike(each, name)), name)
            if known in found:
                raise ConfigurationError(f"presets.{name} and presets.{known} are the same name: `-` and `_` are alike")
            found[known] = table
        return found

    def _preset_name(self, preset: str, where: str = "") -> str:
        """Return a preset's name as defined: `my_qwen`, from an environment variable, may mean `my-qwen`."""
        for name in self.presets:
            if alike(name, preset):
                return name
        raise ConfigurationError(f"{where}: " * bool(where) + self.unknown("preset", preset, self.presets))

    def _inherited(self, preset: str, via: tuple[str, ...]) -> dict[str, Any]:
        if preset in via:
            raise ConfigurationError(f"presets.{preset}: base leads back to itself ({' -> '.join(via)})")
        own, where = self._from_config.get(preset), f"presets.{preset}"
        if own is None:
            return self._with_base(self._from_one_plugin(preset), preset, via, where)
        if preset in self._from_plugins and alike(str(own.get("base")), preset):  # [presets.x] base = "x" adjusts x
            return _changed(self._with_base(self._from_one_plugin(preset), preset, via, where), own)
        return self._with_base(own, preset, via, where)

    def _with_base(self, given: Mapping[str, Any], preset: str, via: tuple[str, ...], where: str) -> dict[str, Any]:
        if "base" not in given:
            return dict(given)
        base = self._preset_name(_name(given["base"], f"{where}.base"), f"{where}.base")
        return _changed(self._inherited(base, (*via, preset)), given)

    def _from_one_plugin(self, preset: str) -> Mapping[str, Any]:
        origins = self._from_plugins[preset]
        if len(origins) > 1:
            raise ConfigurationError(duplicate(f"preset {preset}", list(origins)))
        return next(iter(origins.values()))

    def unknown(self, what: str, name: str, names: Collection[str]) -> str:
        """Return a message for an unknown name, with the nearest known one, and a plugin that may provide it."""
        disallowed = self.plugins.disallowed()
        more = f" (or does {disallowed[0]} provide it? {allow_hint(disallowed[0])})" if disallowed else ""
        return unknown(what, name, names) + more


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset with changes; if they change the model, the facts about its weights are dropped."""
    other = any(key in changes and changes[key] != base.get(key) for key in ("repo_id", "model_name"))
    kept = {key: value for key, value in base.items() if not (other and key in _WEIGHTS_FIELDS)}
    return kept | {key: value for key, value in changes.items() if key != "base"}


def _name(given: object, where: str) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(f"{where}: not a name: {given!r}")
    return given


def _parsed(given: object) -> object:
    """Parse JSON, which an environment variable may hold; return anything else as it is."""
    if isinstance(given, str) and given.lstrip().startswith(("{", "[")):
        try:
            return json.loads(given)
        except ValueError:
            return given
    return given


def _placeholder_model(output_kind: OutputKind) -> ModelOptions:
    """Return options of no real model, to validate a stage's own options with."""
    model = type("AnyModel", (ModelOptions,), {"output_kind": output_kind})
    options: ModelOptions = model(kind="any", name="any")
    return options


def _validate(model: type[ModelT], table: Mapping[str, Any], where: str) -> ModelT:
    try:
        return model.model_validate(dict(table))
    except ValidationError as exc:
        # Lists and tables from environment variables are still JSON text.
        wrong = {str(error["loc"][0]) for error in exc.errors() if error["loc"]}
        parsed = {key: _parsed(value) if key in wrong else value for key, value in table.items()}
        if parsed != table:
            return _validate(model, parsed, where)
        moved = getattr(model, "moved", None)
        raise ConfigurationError(explain(exc, lambda _: model.model_fields, where, moved)) from exc
    except Exception as exc:  # a plugin's validator
        raise ConfigurationError(f"{where}: {type(exc).__name__}: {one_line(exc)}") from exc
