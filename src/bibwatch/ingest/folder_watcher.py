"""The kernel's events about new files, from watchdog. They make files known before the next scan.

watchdog loses events silently when there are too many, when the folder is replaced, and when its thread dies. So
nothing depends on them: the camera scans in any case.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import NamedTuple

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileMovedEvent,
    FileCreatedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
_MAX_PATHS = 10_000  # kept between two calls of `take`; with more than this, a scan is cheaper


class FileEvents(NamedTuple):
    """The events since the last call of `take`."""

    closed: frozenset[str] = frozenset()  # complete: closed after writing, or renamed into place
    touched: frozenset[str] = frozenset()  # created, perhaps still being written
    rescan: bool = False  # a folder was added, or there were too many events: scan everything
    overflow: bool = False  # there were too many events to keep


NO_EVENTS = FileEvents()


class FolderWatcher(FileSystemEventHandler):
    """Collects events about one folder."""

    def __init__(self, folder: str) -> None:
        """Start watching. Raises OSError where the kernel refuses."""
        self._folder = folder
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed: set[str] = set()
        self._touched: set[str] = set()
        self._rescan = self._overflow = False
        self._identity = _identity(folder)
        self._observer = Observer()
        try:
            self._observer.schedule(self, folder, recursive=True, event_filter=_EVENTS)
            self._observer.start()
        except BaseException:
            self._observer.stop()  # it holds one of the few inotify instances a user may have
            raise

    @classmethod
    def watching(cls, folder: str) -> tuple[FolderWatcher | None, str | None]:
        """Return a watcher, or None and the reason: inotify's limits, or None for a missing folder."""
        try:
            return cls(folder), None
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        except OSError as exc:
            return None, exc.strerror or str(exc)

    @property
    def alive(self) -> bool:
        """Whether it still watches the folder that is there now."""
        # ext4 may give a folder that is created again its old inode number; watchdog's emitter has ended by then.
        threads = (self._observer, *self._observer.emitters)
        return all(thread.is_alive() for thread in threads) and _identity(self._folder) == self._identity

    def wait(self, seconds: float) -> None:
        """Wait for an event, at most this long."""
        self._news.wait(max(0.0, seconds))

    def wake(self) -> None:
        """Make `wait` return."""
        self._news.set()

    def take(self) -> FileEvents:
        """Return the events since the last call."""
        with self._lock:
            self._news.clear()
            touched = frozenset(self._touched - self._closed)
            events = FileEvents(frozenset(self._closed), touched, self._rescan, self._overflow)
            self._closed.clear()
            self._touched.clear()
            self._rescan = self._overflow = False
        return events

    def close(self) -> None:
        """Stop watching."""
        self._observer.stop()
        self._observer.join(timeout=2)

    def on_any_event(self, event: FileSystemEvent) -> None:
        with self._lock:
            if event.is_directory:
                self._rescan = True
            elif isinstance(event, FileClosedEvent):
                self._closed.add(os.fsdecode(event.src_path))
            elif isinstance(event, FileMovedEvent):
                self._closed.add(os.fsdecode(event.dest_path))
            else:
                self._touched.add(os.fsdecode(event.src_path))
            if len(self._closed) + len(self._touched) > _MAX_PATHS:
                self._closed.clear()
                self._touched.clear()
                self._rescan = self._overflow = True
        self._news.set()


def _identity(folder: str) -> tuple[int, int] | None:
    """Return device and inode, which differ when another folder takes this path; None if there is none."""
    try:
        found = Path(folder).stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
