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
            self._taken = self._seen = _signature(self._file)
            try:
                self._take(self._file)
            except ConfigurationError as exc:
                if self._entries.stored() is None:
                    raise
                log.warning("start_list.kept", error=str(exc), consequence="the earlier list stays in force")
        self.start_list = self._entries.start_list()

    def refresh(self) -> bool:
        """Take a file that has changed and an import of somebody else; return whether the bibs are others now."""
        if self._file is not None and self._has_changed(self._file):
            try:
                self._take(self._file)
            except ConfigurationError as exc:
                log.warning("start_list.kept", error=str(exc), consequence="the earlier list stays in force")
        stored = self._entries.stored()
        if (stored and stored.fingerprint) == (self.start_list and self.start_list.fingerprint):
            return False
        self.start_list = self._entries.start_list()
        log.info("start_list.changed", entries=len(self.start_list or ()))
        return True

    def _has_changed(self, file: Path) -> bool:
        """Return whether the file is another than that taken, and has been so since the last look: it is complete."""
        before, self._seen = self._seen, _signature(file)
        if self._seen in (self._taken, None) or self._seen != before:
            return False
        self._taken = self._seen
        return True

    def _take(self, file: Path) -> None:
        found = entry_files.load(file)
        if self._entries.replace(found.entries, str(file)):
            log.info(
                "start_list.loaded",
                file=str(file),
                entries=len(found.entries),
                column=found.column,
                notes=list(found.notes),
            )


def _signature(file: Path) -> _Signature:
    try:
        found = file.stat()
    except OSError:
        return None  # the list that is in force stays
    return found.st_ino, found.st_size, found.st_mtime_ns
