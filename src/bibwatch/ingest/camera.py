"""One camera's folder, watched: scans and events become rows of the ledger.

Knows what it has seen, and what it still waits for. Does not open a file.
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
from bibwatch.files import Stat
from bibwatch.ingest import mounts, scanning
from bibwatch.ingest.folder_watcher import NO_EVENTS, FileEvents, FolderWatcher
from bibwatch.ingest.scanning import Entry
from bibwatch.ingest.settling import Settling
from bibwatch.loops import Loop
from bibwatch.settings import CameraSettings, IngestSettings
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Sighting

log = structlog.get_logger()

_CHUNK = 1000  # sightings in one transaction
_UNREADABLE_SECONDS = 30  # between two tries of a file the system would not let us read
_REWATCH_SECONDS = 60  # between two tries to get the kernel's events, where it refused
_BEAT_SECONDS = 5.0  # a loop that waits shows all the same that it is alive
_SCAN_SHARE = 0.1  # at most this share of the time goes into scanning, however large the folder is


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
        self._known: dict[str, Stat] = {}
        self._raw: dict[str, State] = {}  # whether each RAW photo is paired
        self._state: tuple[str, str | None] | None = None
        self._next_scan = 0.0
        self._next_watch = 0.0
        self._next_retry = 0.0
        self._earliest_scan = 0.0
        self._rescan = False
        self._no_events: str | None = None
        self.scans = 0
        self.healthy = False  # the folder could be scanned, the last time

    def work(self) -> None:
        self.retry_until_stored(self.load)
        while not self.stop.is_set():
            events = self._watcher.take() if self._watcher else NO_EVENTS
            if events.overflow:
                telemetry.RESCANS.labels(self.camera).inc()
            self._rescan |= events.rescan
            if time.monotonic() >= (self._earliest_scan if self._rescan else self._next_scan):
                self.scan(events)
            elif changed := events.closed | events.touched:
                entries = filter(None, (scanning.look(self._folder, path) for path in changed))
                self._record(entries, events, self._ledger_waiting())
            self.heartbeat()
            self._wait()

    def ended(self) -> None:
        if self._watcher:
            self._watcher.close()

    def load(self) -> None:
        """Learn from the ledger what was seen before."""
        self._known = self._ledger.settled(self.camera)
        self._raw = {
            path: state for state in (State.RAW, State.PAIRED) for path in self._ledger.paths(self.camera, state)
        }

    def scan(self, events: FileEvents = NO_EVENTS) -> None:
        """Look at everything in the folder. Watching begins before looking, so that nothing falls between."""
        start = time.monotonic()
        self._rescan = False
        polled = self._watch == "poll" or (self._watch == "auto" and mounts.is_polled(Path(self._folder)))
        self._settling.trust_ctime = not polled
        trouble: list[str] = []
        unlisted: list[str] = []
        self._keep_watching(polled, trouble)
        waiting = self._ledger_waiting()
        try:
            seen = self._record(scanning.walk(self._folder, unlisted.append), events, waiting)
        except FileNotFoundError:
            self._note("missing", "the folder does not exist; waiting for it")
        except OSError as exc:
            self._note("unreadable", f"the folder cannot be listed: {exc.strerror}")
        else:
            if not unlisted:
                self._miss(seen, waiting)
            self._note("watching" if self._watcher else "polling", "; ".join(trouble + unlisted) or None)
        self._retry_unreadable(waiting)
        seconds = time.monotonic() - start
        interval = self._settings.poll_seconds if polled else self._settings.scan_seconds
        self._earliest_scan = start + seconds / _SCAN_SHARE
        self._next_scan = max(start + interval, self._earliest_scan)
        self.scans += 1
        telemetry.SCANS.labels(self.camera).inc()
        telemetry.SCAN_SECONDS.labels(self.camera).set(seconds)

    def hurry(self) -> None:
        """End a wait at once."""
        if self._watcher:
            self._watcher.wake()

    def _wait(self) -> None:
        due = self._earliest_scan if self._rescan else self._next_scan
        seconds = min(_BEAT_SECONDS, max(0.0, due - time.monotonic()))
        if self._watcher:
            self._watcher.wait(seconds)
        else:
            self.stop.wait(seconds)

    def _ledger_waiting(self) -> dict[str, State]:
        return self.retry_until_stored(lambda: self._ledger.waiting(self.camera))

    def _keep_watching(self, polled: bool, trouble: list[str]) -> None:  # noqa: FBT001
        if self._watcher and (polled or not self._watcher.alive):
            self._watcher.close()
            self._watcher = None
        if self._watcher is None and not polled and time.monotonic() >= self._next_watch:
            self._watcher, self._no_events = FolderWatcher.watching(self._folder)
            self._next_watch = time.monotonic() + (_REWATCH_SECONDS if self._no_events else 0)
        if self._no_events and not polled:
            trouble.append(f"scans only, the kernel gives no events: {self._no_events}")
        telemetry.WATCHER_UP.labels(self.camera).set(self._watcher is not None)

    def _record(self, entries: Iterable[Entry], events: FileEvents, waiting: Mapping[str, State]) -> set[str]:
        """Bring what is new into the ledger; return which of the `waiting` paths were there."""
        seen: set[str] = set()
        sightings = self._sightings(entries, events, waiting, seen)
        while chunk := list(islice(sightings, _CHUNK)):
            self.retry_until_stored(lambda chunk=chunk: self._ledger.record_sightings(self.camera, chunk))  # type: ignore[misc]
            self.heartbeat()
            if any(sighting.state is State.READY for sighting in chunk):
                self._news.set()
        return seen

    def _sightings(
        self, entries: Iterable[Entry], events: FileEvents, waiting: Mapping[str, State], seen: set[str]
    ) -> Iterator[Sighting]:
        for path, stat, ends_as, reason in entries:
            self.heartbeat()
            was = waiting.get(path)
            if was is not None:
                seen.add(path)
            known = self._known.get(path) == stat and was not in {State.GONE, State.SETTLING}
            if known and ends_as is self._raw.get(path):
                continue
            if ends_as is not None:
                self._known[path] = stat
                self._raw[path] = ends_as
                yield Sighting(path, stat, ends_as, reason)
            elif self._settling.is_settled(path, stat, closed=path in events.closed):
                self._known[path] = stat
                yield Sighting(path, stat, State.READY)
            elif was is not State.SETTLING or path in self._known:
                self._known.pop(path, None)
                yield Sighting(path, stat, State.SETTLING)

    def _retry_unreadable(self, waiting: Mapping[str, State]) -> None:
        """Have files tried again that the system refused, now and then, if it would let us now."""
        if time.monotonic() < self._next_retry:
            return
        self._next_retry = time.monotonic() + _UNREADABLE_SECONDS
        refused = [path for path, state in waiting.items() if state is State.UNREADABLE]
        if readable := [path for path in refused if os.access(path, os.R_OK)]:
            self.retry_until_stored(lambda: self._ledger.retry([State.UNREADABLE], readable))
            self._news.set()

    def _miss(self, seen: Collection[str], waiting: Mapping[str, State]) -> None:
        """Files that were waited for and are no longer there have gone; every other absence is left alone."""
        missing = [path for path, state in waiting.items() if state is not State.GONE and path not in seen]
        if missing:
            self.retry_until_stored(lambda: self._ledger.mark_gone(self.camera, missing))
            self._settling.forget(missing)

    def _note(self, state: str, error: str | None) -> None:
        """Tell of the folder's state once each time it changes."""
        self.healthy = state in {"watching", "polling"}
        telemetry.CAMERA_HEALTHY.labels(self.camera).set(self.healthy)
        if (state, error) == self._state:
            return
        self._state = (state, error)
        tell = log.warning if error else log.info
        tell(f"camera.{state}", camera=self.camera, folder=self._folder, **({"error": error} if error else {}))
        self.retry_until_stored(lambda: self._ledger.record_camera(self.camera, self._folder, state, error))
