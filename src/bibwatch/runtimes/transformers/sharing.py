"""Things that are made once for all who want the same: large models, most of all.

Knows keys and counts. Does not know what it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Keeps each thing from the first `take` to the last `give_back` of its key. For any number of threads.

    One thing is made at a time: two models loading beside each other need the memory of both at their worst moment.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[Hashable, tuple[T, int]] = {}  # and how many hold it

    def take(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the thing of a key, made now if nobody holds one. What `make` raises is raised; nothing is kept."""
        with self._lock:
            thing, holders = self._kept[key] if key in self._kept else (make(), 0)
            self._kept[key] = thing, holders + 1
            return thing

    def give_back(self, key: Hashable) -> T | None:
        """Let go of the thing of a key; return it if that was the last who held it."""
        with self._lock:
            thing, holders = self._kept.pop(key)
            if holders == 1:
                return thing
            self._kept[key] = thing, holders - 1
            return None
