"""Sharing values that are expensive to create, such as large models.

Knows keys and reference counts. Does not know what the values are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Keeps a value from the first `acquire` to the last `release` of its key. Thread-safe.

    Creates one value at a time: the memory peaks of two models loading at once would add up.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._values: dict[Hashable, tuple[T, int]] = {}  # with their reference counts

    def acquire(self, key: Hashable, create: Callable[[], T]) -> T:
        """Return the value of a key, created if there is none. If `create` raises, nothing is kept."""
        with self._lock:
            value, count = self._values[key] if key in self._values else (create(), 0)
            self._values[key] = value, count + 1
            return value

    def release(self, key: Hashable) -> T | None:
        """Release the value of a key; return it if that was the last reference."""
        with self._lock:
            value, count = self._values.pop(key)
            if count == 1:
                return value
            self._values[key] = value, count - 1
            return None
