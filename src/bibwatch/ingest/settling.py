"""Decides when a file looks complete, by its metadata; its content decides later.

Strong evidence: it was closed after writing, or renamed into place. Weak: it has not changed for the settle time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from bibwatch.files import Stat


class Settling:
    """The files that may still be being written, and when each was last seen to change."""

    def __init__(
        self,
        seconds: float,
        *,
        trust_ctime: bool,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set `trust_ctime` where change times come from this machine's clock; `seconds` is the settle time."""
        self._seconds = seconds
        self.trust_ctime = trust_ctime
        self._wall = wall
        self._monotonic = monotonic
        self._since: dict[str, tuple[Stat, float]] = {}

    def __len__(self) -> int:
        return len(self._since)

    def is_settled(self, path: str, stat: Stat, *, closed: bool) -> bool:
        """Return whether a file looks complete; if so, forget it."""
        known, since = self._since.get(path, (None, 0.0))
        if known != stat:
            since = self._monotonic()
            self._since[path] = (stat, since)
        quiet = self._monotonic() - since >= self._seconds
        # A file older than the daemon need not wait: its change time says how long it has been unchanged.
        # If the clock was set back, that does not hold, but the wait above still ends.
        old = self.trust_ctime and self._wall() - stat.ctime_ns / 1e9 >= self._seconds
        if closed or quiet or old:
            del self._since[path]
            return True
        return False

    def forget(self, paths: Iterable[str]) -> None:
        """Forget files that are gone."""
        for path in paths:
            self._since.pop(path, None)
