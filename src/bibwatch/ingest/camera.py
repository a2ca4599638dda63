"""Watches one camera's folder: scans and events become rows of the ledger.

Opens no file and remembers no complete file: each scan compares the folder with the ledger, so that memory use does
not grow with the archive.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import structlog

from bibwatch import telemetry
from bibwatch.domain.states import State
from bibwatch.ingest import mounts, scanning
from bibwatch.ingest.folder_watcher import NO_EVENTS, FileEvents, FolderWatcher
from bibwatch.ingest.scanning import Entry
from bibwatch.ingest.settling import Settling
from bibwatch.loops import Loop
from bibwatch.settings import CameraSettings, IngestSettings
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Sighting

log = structlog.get_logger()

_CHUNK = 1000  # files looked up and recorded at a time
_UNREADABLE_SECONDS = 30  # between two attempts at an unreadable file
_REWATCH_SECONDS = 60  # between two attempts to watch, after the kernel has refused
_HEARTBEAT_SECONDS = 5.0  # between two heartbeats while waiting
_SCAN_SHARE = 0.1  # scanning takes at most this share of the time, however large the folder is


class Camera(Loop):
    """Watches one folder for as long as the daemon runs."""

    def __init__(
        self,
        name: str,
        camera: CameraSettings,
        settings: IngestSettings,
        ledger: Ledger,
        *,
        stop: threading.Event,
        news: threading.Event,
    ) -> None:
        """`news` is set whenever files have become ready."""
        super().__init__(f"camera {name}", stop)
        self.camera = name
        self._folder = str(camera.path)
        self._watch = camera.watch
        self._settings = settings
        self._ledger = ledger
        self._news = news
        self._watcher: FolderWatcher | None = None
        self._settling = Settling(settings.settle_seconds, trust_ctime=True)
        self._state: tuple[str, str | None] | None = None
        self._next_scan = 0.0
        self._next_watch = 0.0
        self._next_retry = 0.0
        self._earliest_scan = 0.0
        self._rescan = False
        self._no_events: str | None = None
        self.scans = 0
        self.healthy = False  # whether the last scan succeeded

    def work(self) -> None:
        while not self.stop.is_set():
            events = self._watcher.take() if self._watcher else NO_EVENTS
            if events.overflow:
                telemetry.RESCANS.labels(self.camera).inc()
            self._rescan |= events.rescan
            if time.monotonic() >= (self._earliest_scan if self._rescan else self._next_scan):
                self.scan(events)
            elif changed := events.closed | events.touched:
                self._record(filter(None, (scanning.find(self._folder, path) for path in changed)), events)
            self.heartbeat()
            self._wait()

    def ended(self) -> None:
        if self._watcher:
            self._watcher.close()

    def scan(self, events: FileEvents = NO_EVENTS) -> None:
        """Record the whole folder in the ledger. Watching starts first, so that nothing is missed in between."""
        start = time.monotonic()
        self._rescan = False
        polled = self._watch == "poll" or (self._watch == "auto" and mounts.is_polled(Path(self._folder)))
        self._settling.trust_ctime = not polled
        warnings: list[str] = []
        unlisted: list[str] = []
        self._keep_watching(polled, warnings)
        waiting = self.retry_until_stored(lambda: self._ledger.waiting(self.camera))
        missing = set(waiting)
        try:
            self._record(scanning.walk(self._folder, unlisted.append), events, missing)
        except FileNotFoundError:
            self._report("missing", "the folder does not exist; waiting for it")
        except OSError as exc:
            self._report("unreadable", f"the folder cannot be listed: {exc.strerror}")
        else:
            if not unlisted:
                self._mark_gone(missing)
            self._report("watching" if self._watcher else "polling", "; ".join(warnings + unlisted) or None)
        self._retry_unreadable(waiting)
        seconds = time.monotonic() - start
        interval = self._settings.poll_seconds if polled else self._settings.scan_seconds
        self._earliest_scan = start + seconds / _SCAN_SHARE
        self._next_scan = max(start + interval, self._earliest_scan)
        self.scans += 1
        telemetry.SCANS.labels(self.camera).inc()
        telemetry.SCAN_SECONDS.labels(self.camera).set(seconds)

    def hurry(self) -> None:
        """Stop waiting at once."""
        if self._watcher:
            self._watcher.wake()

    def _wait(self) -> None:
        due = self._earliest_scan if self._rescan else self._next_scan
        seconds = min(_HEARTBEAT_SECONDS, max(0.0, due - time.monotonic()))
        if self._watcher:
            self._watcher.wait(seconds)
        else:
            self.stop.wait(seconds)

    def _keep_watching(self, polled: bool, warnings: list[str]) -> None:  # noqa: FBT001
        if self._watcher and (polled or not self._watcher.alive):
            self._watcher.close()
            self._watcher = None
        if self._watcher is None and not polled and time.monotonic() >= self._next_watch:
            self._watcher, self._no_events = FolderWatcher.watching(self._folder)
            self._next_watch = time.monotonic() + (_REWATCH_SECONDS if self._no_events else 0)
        if self._no_events and not polled:
            warnings.append(f"scanning only, no kernel events: {self._no_events}")
        telemetry.WATCHER_UP.labels(self.camera).set(self._watcher is not None)

    def _record(self, entries: Iterable[Entry], events: FileEvents, missing: set[str] | None = None) -> None:
        """Record what is new or changed; remove from `missing` what is there."""
        entries = self._with_heartbeats(entries)
        while chunk := {entry.path: entry for entry in islice(entries, _CHUNK)}:
            if missing:
                missing.difference_update(chunk)
            recorded = self.retry_until_stored(lambda chunk=chunk: self._ledger.recorded(self.camera, chunk.keys()))  # type: ignore[misc]
            found = (self._sighting(entry, recorded.get(path), events) for path, entry in chunk.items())
            sightings = list(filter(None, found))
            self.retry_until_stored(lambda new=sightings: self._ledger.record_sightings(self.camera, new))  # type: ignore[misc]
            self.heartbeat()
            if any(sighting.state is State.READY for sighting in sightings):
                self._news.set()

    def _with_heartbeats(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self.heartbeat()
            yield entry

    def _sighting(self, entry: Entry, recorded: Sighting | None, events: FileEvents) -> Sighting | None:
        """Return what to record about a file, None if the ledger has it already."""
        path, stat, ends_as, reason = entry
        was = recorded.state if recorded else None
        unchanged = recorded is not None and recorded.stat == stat
        if ends_as is not None:
            return None if unchanged and was is ends_as else Sighting(path, stat, ends_as, reason)
        if unchanged and was not in {State.GONE, State.SETTLING}:
            return None
        if self._settling.is_settled(path, stat, closed=path in events.closed):
            return Sighting(path, stat, State.READY)
        return None if was is State.SETTLING else Sighting(path, stat, State.SETTLING)

    def _retry_unreadable(self, waiting: Mapping[str, State]) -> None:
        """Make unreadable files ready again if they can be opened now."""
        if time.monotonic() < self._next_retry:
            return
        self._next_retry = time.monotonic() + _UNREADABLE_SECONDS
        refused = [path for path, state in waiting.items() if state is State.UNREADABLE]
        if readable := [path for path in refused if os.access(path, os.R_OK)]:
            self.retry_until_stored(lambda: self._ledger.retry([State.UNREADABLE], readable))
            self._news.set()

    def _mark_gone(self, missing: Collection[str]) -> None:
        """Mark awaited files that are no longer there as gone; other missing files are left alone."""
        if missing:
            self.retry_until_stored(lambda: self._ledger.mark_gone(self.camera, missing))
            self._settling.forget(missing)

    def _report(self, state: str, error: str | None) -> None:
        """Log and record the folder's state whenever it changes."""
        self.healthy = state in {"watching", "polling"}
        telemetry.CAMERA_HEALTHY.labels(self.camera).set(self.healthy)
        if (state, error) == self._state:
            return
        self._state = (state, error)
        write = log.warning if error else log.info
        write(f"camera.{state}", camera=self.camera, folder=self._folder, **({"error": error} if error else {}))
        self.retry_until_stored(lambda: self._ledger.record_camera(self.camera, self._folder, state, error))
