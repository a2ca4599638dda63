"""The door by which runtimes, interpreters, stages and presets come in: entry points of installed distributions.

Knows which distributions may come in. One that may not is not imported at all; one that is broken is told of, and
costs nobody else anything. bibwatch's own come by the same door.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from typing import Any, Final

from bibwatch.errors import ConfigurationError, one_line
from bibwatch.interpreters.base import Interpreter
from bibwatch.runtimes.base import Runtime
from bibwatch.stages.base import Stage

OWN: Final = "bibwatch"
# What an entry point of each group has to be.
GROUPS: Final[Mapping[str, type]] = {
    "runtimes": Runtime,
    "interpreters": Interpreter,
    "stages": Stage,
    "presets": Mapping,
}


@dataclass(frozen=True)
class Door:
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
        """Import and return what is behind the door. Raises ConfigurationError if it is broken or of a wrong type."""
        what = f"{self.group.removesuffix('s')} {self.name} of {self.origin}"
        if not self.allowed:
            raise ConfigurationError(f"{what} is not allowed; {how_to_allow(self.distribution)}")
        try:
            found = self.entry_point.load()
        except (Exception, SystemExit) as exc:
            raise ConfigurationError(f"{what} cannot be imported: {one_line(exc)}") from exc
        wanted = GROUPS[self.group]
        fits = isinstance(found, wanted) if wanted is Mapping else isinstance(found, type) and issubclass(found, wanted)
        if not fits:
            raise ConfigurationError(f"{what} is no {wanted.__name__}")
        return found


class Doors:
    """All doors of this installation; `allowed` names the distributions that may come in beside bibwatch's own."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._plugins = tuple(allowed)
        self._allowed = {_canonical(name) for name in (OWN, *allowed)}

    @cached_property
    def all(self) -> list[Door]:
        """Every door, closed ones included, by group and name."""
        return sorted(
            (
                Door(
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
            key=lambda door: (door.distribution != OWN, door.distribution, list(GROUPS).index(door.group), door.name),
        )

    def open(self, group: str) -> list[Door]:
        """Return the doors of a group that may be used."""
        return [door for door in self.all if door.group == group and door.allowed]

    def closed(self) -> list[str]:
        """Return the distributions that bring something and are not allowed."""
        return sorted({door.distribution for door in self.all if not door.allowed})

    def load(self, group: str, name: str) -> Any:
        """Return what is behind the one door of that name. Raises ConfigurationError if there is none, or two."""
        doors = [door for door in self.open(group) if door.name == name]
        if len(doors) > 1:
            raise ConfigurationError(twice(f"{group.removesuffix('s')} {name}", [door.origin for door in doors]))
        if not doors:
            raise KeyError(name)
        return doors[0].load()

    def problem(self, door: Door) -> str | None:
        """Return why a door's content cannot be used, or None; an allowed one is imported to find out."""
        try:
            if door.allowed and door.group != "presets":
                self.load(door.group, door.name)
            else:
                door.load()
        except ConfigurationError as exc:
            return str(exc)
        return None

    def check(self) -> None:
        """Raise ConfigurationError for an allowed distribution that is not installed."""
        for plugin in self._plugins:
            try:
                distribution(plugin)
            except (PackageNotFoundError, ValueError) as exc:
                raise ConfigurationError(f"plugins: {plugin} is not installed; pip install {plugin}") from exc


def how_to_allow(name: str) -> str:
    """Say how a distribution is let in."""
    return f'to allow it: plugins = ["{name}"] in config.toml, or BIBWATCH_PLUGINS=\'["{name}"]\''


def twice(what: str, origins: Collection[str]) -> str:
    """Say that a name is there more than once, and where from."""
    return f"{what} is there {len(origins)} times: from {' and from '.join(origins)}; remove one"


def _canonical(name: str) -> str:
    """Write a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
