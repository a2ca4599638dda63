"""The start list in force: that of the configured file, or the one that was imported; noticed when it changes.

Knows the file and the database, which always has the list in force. Does not judge.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from bibwatch import entry_files
from bibwatch.errors import ConfigurationError
from bibwatch.judging import StartList
from bibwatch.store.entries import Entries

log = structlog.get_logger()

_Signature = tuple[int, int, int] | None  # of a file's content; None: the file is not there


class CurrentStartList:
    """The start list of one database, kept up to date. Raises StoreError when the database is not to be had."""

    def __init__(self, entries: Entries, file: Path | None) -> None:
        self.start_list: StartList | None = None
        self._entries = entries
        self._file = file
        self._taken: _Signature = None  # of the file as it was last taken, well or not
        self._seen: _Signature = None

    def load(self) -> None:
        """Take the list of the file, and then that of the database.

        Raises ConfigurationError if the file cannot be used and there is no earlier list to keep.
        """
        if self._file is not None:
            self._seen = _signature(self._file)
            problem = self._take(self._file)
            if problem and self._entries.stored() is None:
                raise problem
        self.start_list = self._entries.start_list()

    def refresh(self) -> bool:
        """Take a file that has changed and an import of somebody else; return whether the bibs are others now."""
        if self._file is not None and self._has_changed(self._file):
            self._take(self._file)
        stored = self._entries.stored()
        before = self.start_list.fingerprint if self.start_list is not None else None
        if before == (stored.fingerprint if stored else None):
            return False
        self.start_list = self._entries.start_list()
        log.info("start_list.changed", entries=len(self.start_list or ()))
        return True

    def _has_changed(self, file: Path) -> bool:
        """Return whether the file is another than that taken, and has been so since the last look: it is complete."""
        before, self._seen = self._seen, _signature(file)
        return self._seen not in (self._taken, None) and self._seen == before

    def _take(self, file: Path) -> ConfigurationError | None:
        """Put the file's list in force; return why it cannot be used."""
        try:
            found = entry_files.load(file)
        except ConfigurationError as exc:
            if self._entries.stored() is not None:
                log.warning("start_list.kept", error=str(exc), consequence="the earlier list stays in force")
            self._taken = self._seen
            return exc
        changed = self._entries.replace(found.entries, str(file))
        self._taken = self._seen  # not before: what could not be stored is taken again
        if changed:
            facts = {"entries": len(found.entries), "column": found.column, "notes": list(found.notes)}
            log.info("start_list.loaded", file=str(file), **facts)
        return None


def _signature(file: Path) -> _Signature:
    try:
        found = file.stat()
    except OSError:
        return None  # the list that is in force stays
    return found.st_ino, found.st_size, found.st_mtime_ns
