"""The daemon: builds everything from the settings, runs it, stops it, and keeps systemd informed.

Knows the order of starting and stopping, and closes everything it builds.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import FrameType
from typing import Any

import structlog

from bibwatch import __version__, telemetry
from bibwatch.domain.states import TROUBLE, UNDONE, State
from bibwatch.errors import BibwatchError, ConfigurationError
from bibwatch.ingest.camera import Camera
from bibwatch.judging import Judge
from bibwatch.loops import Loop
from bibwatch.notify import notify, watchdog_seconds
from bibwatch.pipeline.failover import Failover
from bibwatch.pipeline.model_health import ModelHealth
from bibwatch.pipeline.pipeline import Pipeline
from bibwatch.rejudging import Rejudging
from bibwatch.settings import Settings, check_outside
from bibwatch.start_lists import CurrentStartList
from bibwatch.store.database import Database
from bibwatch.store.entries import Entries
from bibwatch.store.judgements import Judgements
from bibwatch.store.ledger import Ledger
from bibwatch.store.report import Report

log = structlog.get_logger()

_TICK_SECONDS = 0.25
_LEARN_SHARE = 0.05  # learning the form of the race takes at most this share of the time
_COUNT_SHARE = 0.05  # counting takes at most this share of the time, however many files there are
_STOP_SECONDS = 15.0  # how long a stop waits for the loops
_ONCE_WAIT_SECONDS = 20.0  # how long `--once` waits for an unavailable model

Counts = dict[State, int]


class Daemon:
    """One running bibwatch."""

    def __init__(self, settings: Settings, *, once: bool = False, on_tick: Callable[[Counts], None] | None = None):
        """Build what can be built without touching disk or model. Raises ConfigurationError.

        `on_tick` is called about once a second (less often with very many files) with the number of files by state.
        """
        if not settings.cameras:
            raise ConfigurationError(
                "no camera folder to watch; give one, such as --camera finish=/srv/drop/finish "
                'or BIBWATCH_CAMERAS=\'{"finish":{"path":"/srv/drop/finish"}}\''
            )
        self._settings = settings
        self._once = once
        self._gave_up: BaseException | None = None  # why `once` ended while photos were waiting
        self._on_tick = on_tick
        self._registry = settings.registry()
        self._failover = Failover(self._models(), settings.fallback_after)
        self._database = Database(settings.database_url)
        if self._database.file:
            check_outside(self._database.file, settings.cameras)
        self._ledger = Ledger(self._database)
        self._stop = threading.Event()
        self._news = news = threading.Event()
        self._cameras = [
            Camera(name, camera, settings.ingest, self._ledger, stop=self._stop, news=news)
            for name, camera in settings.cameras.items()
        ]
        self._pipeline = Pipeline(
            self._failover,
            settings.pipeline,
            settings.images,
            self._ledger,
            settings.judge_with(None),
            zone=settings.race.zone,
            reread=settings.reread_fallback,
            stop=self._stop,
            news=news,
        )
        self._start_list = CurrentStartList(Entries(self._database), settings.start_list_file)
        self._judgements = Judgements(self._database)
        self._learned_from = 0  # clear numbers
        self._learned_at = 0.0
        self._learning_seconds = 0.0
        self._is_idle = False  # nothing is left to read: what is to be judged again may be
        self._rejudging = Rejudging(self._judgements, self._pipeline.judge, self._stop, renewed=self._renewed_judge)
        self._loops: list[Loop] = [*self._cameras, self._pipeline, self._rejudging]

    def run(self) -> None:
        """Run until SIGTERM or SIGINT; with `once`, until nothing is left to do. Raises BibwatchError."""
        with ExitStack() as stack:
            stack.callback(self._database.close)
            self._database.lock()
            self._database.migrate()
            self._start_list.load()
            self._pipeline.clear_numbers |= self._judgements.clear_numbers()
            self._pipeline.judge = self._rejudging.judge = self._judge()
            signals = stack.enter_context(Signals())
            if self._settings.metrics_port:
                telemetry.serve_metrics(self._settings.metrics_host, self._settings.metrics_port)
            self._recover()
            stack.callback(self._failover.close)
            self._failover.start(lambda: bool(signals.number))
            gc.freeze()  # what is loaded now stays: the garbage collector need not traverse it during scans
            for loop in self._loops:
                loop.start()
            try:
                self._supervise(signals)
            finally:
                self._shut_down()
        if self._pipeline.is_busy:
            # Python would wait for the decoder or model, which cannot be interrupted. Everything is stored and closed.
            os._exit(0)

    def _models(self) -> list[ModelHealth]:
        """Return the primary model, then the fallbacks. Raises ConfigurationError."""
        settings, registry = self._settings, self._registry
        line_up = registry.line_up(settings.stage, settings.preset, settings.fallback_presets)
        for options in line_up[1:]:
            if reason := options.model_options.obstacle():
                log.warning("fallback.unusable", preset=options.model_options.name, error=reason)
        return [ModelHealth(settings.stage, registry.build(options)) for options in line_up]

    def _judge(self) -> Judge:
        """Return the judge by the start list in force, and by the form of the race as it is known by now."""
        start = time.monotonic()
        clear = frozenset(self._pipeline.clear_numbers.copy())
        judge = self._settings.judge_with(self._start_list.start_list)
        if self._start_list.start_list is None:  # a list says more than what is learned
            judge = replace(judge, race=judge.race.learning(clear))
        self._learned_from = len(clear)
        self._learning_seconds = time.monotonic() - start
        return judge

    @property
    def _is_learning(self) -> bool:
        """Whether numbers were read that may show another form of the race."""
        return len(self._pipeline.clear_numbers) != self._learned_from

    def _renewed_judge(self) -> Judge | None:
        """Return another judge, which the pipeline has by then, if the start list or the form of the race changed."""
        pause = (self._learning_seconds + self._rejudging.seconds) / _LEARN_SHARE
        learns = self._is_learning and (self._is_idle or time.monotonic() >= self._learned_at + pause)
        if not (self._start_list.refresh() or learns):
            return None
        judge, before = self._judge(), self._pipeline.judge
        self._learned_at = time.monotonic()
        if judge.fingerprint == before.fingerprint:
            return None
        self._pipeline.judge = judge
        return judge

    def _stop_loops(self) -> None:
        self._stop.set()
        self._news.set()
        for camera in self._cameras:
            camera.hurry()

    def _recover(self) -> None:
        # Photos read by a fallback count as read, unless they are to be read again.
        sufficient = self._failover.models[:1] if self._settings.reread_fallback else self._failover.models
        recognisers = [model.recogniser for model in sufficient]
        quarantined = self._ledger.recover(recognisers, self._settings.pipeline.max_attempts)
        log.info(
            "daemon.start", version=__version__, pid=os.getpid(), database=str(self._database.file or "postgresql")
        )
        for plugin, problem in self._registry.plugins.problems().items() if self._settings.plugins else ():
            if plugin.allowed:
                log.warning("plugin.unusable", plugin=plugin.distribution, error=problem)
        if quarantined:
            log.warning(
                "daemon.recovered", photos=quarantined, reason="bibwatch died while reading them; they are read last"
            )

    def _supervise(self, signals: Signals) -> None:
        """Watch the loops until it is time to stop."""
        feeder = Feeder(self._loops)
        ready = False
        next_count = 0.0
        while not signals.number and not any(loop.failure for loop in self._loops):
            time.sleep(_TICK_SECONDS)
            feeder.feed()
            if not ready and all(camera.scans for camera in self._cameras):
                ready = True
                log.info("daemon.ready", cameras=[camera.camera for camera in self._cameras])
                notify("READY=1")
            if (start := time.monotonic()) >= next_count and ready:
                counts = self._counts()
                counted = time.monotonic()
                next_count = max(start + (0.0 if self._once else 1.0), counted + (counted - start) / _COUNT_SHARE)
                self._is_idle = not any(counts.get(state) for state in UNDONE)
                self._report(counts)
                if self._once and self._is_over(counts):
                    return
                self._database.check_in_place()
        if signals.number:
            log.info("daemon.signal", signal=signal.Signals(signals.number).name)

    def _is_over(self, counts: Counts) -> bool:
        """Return whether nothing is left to do, or nothing can be done because no model is available."""
        undone = any(counts.get(state) for state in UNDONE)
        if undone and self._failover.waiting_seconds > _ONCE_WAIT_SECONDS:
            self._gave_up = self._failover.preferred.error
        return (not undone and self._is_judged()) or self._gave_up is not None

    def _is_judged(self) -> bool:
        try:
            return not self._is_learning and self._rejudging.is_settled()
        except BibwatchError:  # the loops report a database in trouble, and wait for it
            return False

    def _counts(self) -> Counts:
        try:
            return Report(self._database).counts(self._settings.cameras)
        except BibwatchError:  # the loops report an unavailable database, and wait for it
            return {State.SETTLING: 1}

    def _report(self, counts: Counts) -> None:
        trouble = sum(counts.get(state, 0) for state in TROUBLE)
        waiting = sum(counts.get(state, 0) for state in UNDONE)
        telemetry.READY_FILES.set(counts.get(State.READY, 0))
        notify(f"STATUS={counts.get(State.DONE, 0)} read, {waiting} waiting, {trouble} with problems")
        if self._on_tick:
            self._on_tick(counts)

    def _shut_down(self) -> None:
        notify("STOPPING=1")
        self._stop_loops()
        deadline = time.monotonic() + _STOP_SECONDS
        late = [loop.name for loop in self._loops if not loop.join(max(0.0, deadline - time.monotonic()))]
        if late:
            log.warning("daemon.left_running", loops=late, consequence="unfinished photos are read again")
        failed = [loop.name for loop in self._loops if loop.failure]
        unhealthy = [camera.camera for camera in self._cameras if not camera.healthy]
        log.info(
            "daemon.stop",
            photo_files_loaded=telemetry.value(telemetry.PHOTO_FILES_LOADED),
            photo_bytes=telemetry.value(telemetry.PHOTO_BYTES_LOADED),
            model_images=telemetry.value(telemetry.MODEL_IMAGES),
        )
        if failed:
            raise BibwatchError(f"internal error in: {', '.join(failed)} (see the log)")
        if self._gave_up:
            raise BibwatchError(f"{self._gave_up}; the photos wait in the ledger for the next run")
        if self._once and unhealthy:
            raise BibwatchError(f"cannot read the folder of camera: {', '.join(unhealthy)}")


class Feeder:
    """Feeds systemd's watchdog, but only if every loop has made progress or has extended its deadline."""

    def __init__(self, loops: list[Loop]) -> None:
        self._loops = loops
        self._seen = [-1] * len(loops)
        seconds = watchdog_seconds()
        self._interval = seconds / 4 if seconds else None
        self._next = 0.0

    def feed(self) -> bool:
        """Feed the watchdog if that is due and every loop has made progress; return whether it was fed."""
        if self._interval is None or time.monotonic() < self._next:
            return False
        heartbeats = [loop.heartbeats for loop in self._loops]
        for loop, now, before in zip(self._loops, heartbeats, self._seen, strict=True):
            if now == before and not loop.has_extended_deadline:
                return False
        self._seen = heartbeats
        self._next = time.monotonic() + self._interval
        notify("WATCHDOG=1")
        return True


class Signals:
    """A context manager that records SIGTERM and SIGINT; the second signal ends the process at once.

    A handler may interrupt code that holds a lock, so it must neither log nor set an event.
    """

    def __init__(self) -> None:
        self.number = 0  # the signal received, if any
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._previous = {number: signal.signal(number, self._record) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        if self.number:
            os._exit(1)
        self.number = number
