"""The plugin by which runtimes, interpreters, stages and presets come in: entry points of installed distributions.

Knows which distributions may come in. One that may not is not imported at all; one that is broken is told of, and
costs nobody else anything. bibwatch's own come by the same plugin.
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
# What an entry point of each group has to be, and its options. Presets are tables.
GROUPS: Final[Mapping[str, tuple[type, type[BaseModel]]]] = {
    "runtimes": (Runtime, ModelOptions),
    "interpreters": (Interpreter, InterpreterOptions),
    "stages": (Stage, StageOptions),
    "presets": (dict, ModelOptions),
}


@dataclass(frozen=True)
class Plugin:
    """One entry point: what it brings, from which distribution, and whether that may come in."""

    group: str
    name: str
    distribution: str
    version: str
    allowed: bool
    entry_point: EntryPoint

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""
        return f"{self.distribution} ({self.entry_point.value})"

    def load(self) -> Any:
        """Import and return what is behind the plugin: a class, or presets by name.

        Raises ConfigurationError if it may not come in, is broken, or is not what its group is for.
        """
        what = f"{self.group.removesuffix('s')} {self.name} of {self.origin}"
        if not self.allowed:
            raise ConfigurationError(f"{what} is not allowed; {how_to_allow(self.distribution)}")
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
    """Check that a class is what its group is for, and that its options are of the kind it is called."""
    wanted, options = GROUPS[group]
    if not (isinstance(found, type) and issubclass(found, wanted)):
        raise _WrongTypeError(f"is no {wanted.__name__}")
    if inspect.isabstract(found):
        raise _WrongTypeError(f"does not define {', '.join(sorted(getattr(found, '__abstractmethods__', ())))}")
    options_type = getattr(found, "options_type", None)
    if not (isinstance(options_type, type) and issubclass(options_type, options)):
        raise _WrongTypeError(f"has no options_type that is a {options.__name__}")
    fields = options_type.model_fields
    if fields["kind"].default != name:
        raise _WrongTypeError(f"has options of kind {fields['kind'].default!r}; entry point and kind must be the same")
    for field in fields.values():
        field.get_default(call_default_factory=True)
    return found


def _presets(found: object) -> dict[str, Mapping[str, Any]]:
    """Return presets as tables by name, from a TOML file, tables, or options made in code."""
    if isinstance(found, Traversable):
        found = tomllib.loads(found.read_text("utf-8")).get("presets")
    if not isinstance(found, Mapping):
        raise _WrongTypeError("is no table of presets")
    tables = {}
    for name, given in found.items():
        table = (
            given.model_dump(exclude_unset=True) | {"kind": given.kind} if isinstance(given, ModelOptions) else given
        )
        if not (isinstance(name, str) and name and isinstance(table, Mapping)):
            raise _WrongTypeError(f"has a preset {name!r} that is no table: {table!r}")
        tables[name] = table
    return tables


class Plugins:
    """All plugins of this installation; `allowed` names the distributions that may come in beside bibwatch's own."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self.plugins = tuple(allowed)
        self._allowed = {_canonical(name) for name in (OWN, *allowed)}

    @cached_property
    def all(self) -> list[Plugin]:
        """Every plugin, closed ones included, by group and name."""
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

    def open(self, group: str) -> list[Plugin]:
        """Return the plugins of a group that may be used."""
        return [plugin for plugin in self.all if plugin.group == group and plugin.allowed]

    def closed(self) -> list[str]:
        """Return the distributions that bring something and are not allowed."""
        return sorted({plugin.distribution for plugin in self.all if not plugin.allowed})

    def load(self, group: str, name: str) -> Any:
        """Return what is behind the one plugin of that name. Raises ConfigurationError if there is none, or two."""
        plugins = [plugin for plugin in self.open(group) if plugin.name == name]
        if len(plugins) > 1:
            raise ConfigurationError(twice(f"{group.removesuffix('s')} {name}", [plugin.origin for plugin in plugins]))
        if not plugins:
            raise KeyError(name)
        return plugins[0].load()

    def problems(self) -> dict[Plugin, str]:
        """Return what is wrong with each plugin that cannot be used; the allowed ones are imported to find out."""
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
                found.setdefault(plugin, twice(f"preset {name}", [each.origin for each in plugins]))
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


def how_to_allow(name: str) -> str:
    """Say how a distribution is let in."""
    return f'to allow it: plugins = ["{name}"] in config.toml, or BIBWATCH_PLUGINS=\'["{name}"]\''


def twice(what: str, origins: Collection[str]) -> str:
    """Say that a name is there more than once, and where from."""
    return f"{what} is there {len(origins)} times: from {' and from '.join(origins)}; remove one"


def _canonical(name: str) -> str:
    """Write a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
