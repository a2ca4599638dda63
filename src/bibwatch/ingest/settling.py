"""When is a file complete? Knows the evidence that the outside of a file gives; its content decides later.

Strong evidence: it was closed after writing, or renamed into place. Weak: nothing has changed for the settle time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from bibwatch.files import Stat


class Settling:
    """Remembers the files that may still be being written, and since when each has not changed."""

    def __init__(
        self,
        seconds: float,
        *,
        trust_ctime: bool,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`trust_ctime` where the file's change time comes from this machine's own clock."""
        self._seconds = seconds
        self.trust_ctime = trust_ctime
        self._wall = wall
        self._monotonic = monotonic
        self._since: dict[str, tuple[Stat, float]] = {}

    def __len__(self) -> int:
        return len(self._since)

    def is_settled(self, path: str, stat: Stat, *, closed: bool) -> bool:
        """Tell whether the file is complete by its outside; one that is, is forgotten here."""
        known, since = self._since.get(path, (None, 0.0))
        if known != stat:
            since = self._monotonic()
            self._since[path] = (stat, since)
        quiet = self._monotonic() - since >= self._seconds
        # A file that was there before we looked need not wait: its change time says how long it has been quiet.
        # A clock that was set back makes this false; the wait above still ends.
        old = self.trust_ctime and self._wall() - stat.ctime_ns / 1e9 >= self._seconds
        if closed or quiet or old:
            del self._since[path]
            return True
        return False

    def forget(self, paths: Iterable[str]) -> None:
        """Forget files that are no longer there."""
        for path in paths:
            self._since.pop(path, None)
