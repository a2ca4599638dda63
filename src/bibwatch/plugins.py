"""Plugins: the runtimes, interpreters, stages and presets that installed distributions provide as entry points.

Knows which distributions are allowed; others are never imported. A broken plugin is reported and does not affect
the rest. bibwatch's own classes are registered the same way.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from importlib.resources.abc import Traversable
from typing import Any, Final

from pydantic import BaseModel

from bibwatch.errors import ConfigurationError, one_line
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.runtimes.base import ModelOptions, Runtime
from bibwatch.stages.base import Stage, StageOptions

OWN: Final = "bibwatch"
# The base class of each group's entry points, and that of their options. Presets are tables.
GROUPS: Final[Mapping[str, tuple[type, type[BaseModel]]]] = {
    "runtimes": (Runtime, ModelOptions),
    "interpreters": (Interpreter, InterpreterOptions),
    "stages": (Stage, StageOptions),
    "presets": (dict, ModelOptions),
}


@dataclass(frozen=True)
class Plugin:
    """One entry point: what it provides, its distribution, and whether that is allowed."""

    group: str
    name: str
    distribution: str
    version: str
    allowed: bool
    entry_point: EntryPoint

    @property
    def origin(self) -> str:
        """The distribution and the entry point's target, for messages."""
        return f"{self.distribution} ({self.entry_point.value})"

    def load(self) -> Any:
        """Import and return what the plugin provides: a class, or presets by name.

        Raises ConfigurationError if it is not allowed, is broken, or does not fit its group.
        """
        what = f"{self.group.removesuffix('s')} {self.name} of {self.origin}"
        if not self.allowed:
            raise ConfigurationError(f"{what} is not allowed; {allow_hint(self.distribution)}")
        try:
            found = self.entry_point.load()
            return _presets(found) if self.group == "presets" else _class(found, self.group, self.name)
        except _WrongTypeError as exc:
            raise ConfigurationError(f"{what} {exc}") from exc
        except (Exception, SystemExit) as exc:
            raise ConfigurationError(f"{what} cannot be used: {type(exc).__name__}: {one_line(exc)}") from exc


class _WrongTypeError(Exception):
    pass


def _class(found: object, group: str, name: str) -> type:
    """Return the class after checking that it fits its group and that its options have the entry point's kind."""
    wanted, options = GROUPS[group]
    if not (isinstance(found, type) and issubclass(found, wanted)):
        raise _WrongTypeError(f"is not a subclass of {wanted.__name__}")
    if inspect.isabstract(found):
        raise _WrongTypeError(f"does not define {', '.join(sorted(getattr(found, '__abstractmethods__', ())))}")
    options_type = getattr(found, "options_type", None)
    if not (isinstance(options_type, type) and issubclass(options_type, options)):
        raise _WrongTypeError(f"has no options_type that is a subclass of {options.__name__}")
    fields = options_type.model_fields
    if fields["kind"].default != name:
        raise _WrongTypeError(f"has options of kind {fields['kind'].default!r}; entry point and kind must be the same")
    for field in fields.values():
        field.get_default(call_default_factory=True)
    return found


def _presets(found: object) -> dict[str, Mapping[str, Any]]:
    """Return presets as tables by name, given a TOML file, tables, or ModelOptions."""
    if isinstance(found, Traversable):
        found = tomllib.loads(found.read_text("utf-8")).get("presets")
    if not isinstance(found, Mapping):
        raise _WrongTypeError("is not a table of presets")
    tables = {}
    for name, given in found.items():
        table = (
            given.model_dump(exclude_unset=True) | {"kind": given.kind} if isinstance(given, ModelOptions) else given
        )
        if not (isinstance(name, str) and name and isinstance(table, Mapping)):
            raise _WrongTypeError(f"has a preset {name!r} that is not a table: {table!r}")
        tables[name] = table
    return tables


class Plugins:
    """All installed plugins; `allowed` names the distributions that may be used besides bibwatch's own."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self.plugins = tuple(allowed)
        self._allowed = {_canonical(name) for name in (OWN, *allowed)}

    @cached_property
    def all(self) -> list[Plugin]:
        """Every plugin, disallowed ones included: bibwatch's own first, then by distribution, group and name."""
        return sorted(
            (
                Plugin(
                    group,
                    point.name,
                    point.dist.name,
                    point.dist.version,
                    _canonical(point.dist.name) in self._allowed,
                    point,
                )
                for group in GROUPS
                for point in entry_points(group=f"bibwatch.{group}")
                if point.dist is not None
            ),
            key=lambda plugin: (
                plugin.distribution != OWN,
                plugin.distribution,
                list(GROUPS).index(plugin.group),
                plugin.name,
            ),
        )

    def usable(self, group: str) -> list[Plugin]:
        """Return the allowed plugins of a group."""
        return [plugin for plugin in self.all if plugin.group == group and plugin.allowed]

    def disallowed(self) -> list[str]:
        """Return the distributions that provide plugins but are not allowed."""
        return sorted({plugin.distribution for plugin in self.all if not plugin.allowed})

    def load(self, group: str, name: str) -> Any:
        """Return what the plugin of that name provides.

        Raises KeyError if there is none, and ConfigurationError if there are several or it cannot be used.
        """
        plugins = [plugin for plugin in self.usable(group) if plugin.name == name]
        if len(plugins) > 1:
            origins = [plugin.origin for plugin in plugins]
            raise ConfigurationError(duplicate(f"{group.removesuffix('s')} {name}", origins))
        if not plugins:
            raise KeyError(name)
        return plugins[0].load()

    def problems(self) -> dict[Plugin, str]:
        """Return the problem of each plugin that cannot be used. Imports the allowed ones to find out."""
        found: dict[Plugin, str] = {}
        presets: dict[str, list[Plugin]] = {}
        for plugin in self.all:
            try:
                loaded = (
                    self.load(plugin.group, plugin.name)
                    if plugin.allowed and plugin.group != "presets"
                    else plugin.load()
                )
            except ConfigurationError as exc:
                found[plugin] = str(exc)
                continue
            for name in loaded if plugin.group == "presets" else ():
                presets.setdefault(name, []).append(plugin)
        for name, plugins in presets.items():
            for plugin in plugins if len(plugins) > 1 else ():
                found.setdefault(plugin, duplicate(f"preset {name}", [each.origin for each in plugins]))
        return found

    def missing(self) -> list[str]:
        """Return the allowed distributions that are not installed."""
        return [plugin for plugin in self.plugins if not _is_installed(plugin)]

    def check(self) -> None:
        """Raise ConfigurationError for an allowed distribution that is not installed."""
        for plugin in self.missing():
            raise ConfigurationError(f"plugins: {plugin} is not installed; pip install {plugin}")


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except (PackageNotFoundError, ValueError):
        return False
    return True


def allow_hint(name: str) -> str:
    """Return a message that says how to allow a distribution."""
    return f'to allow it: plugins = ["{name}"] in config.toml, or BIBWATCH_PLUGINS=\'["{name}"]\''


def duplicate(what: str, origins: Collection[str]) -> str:
    """Return a message that says where a name is defined more than once."""
    return f"{what} is defined {len(origins)} times: by {' and by '.join(origins)}; remove one"


def _canonical(name: str) -> str:
    """Return a distribution's name normalised as pip does it."""
    return re.sub(r"[-_.]+", "-", name).lower()
