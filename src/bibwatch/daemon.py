"""The daemon: builds it all from settings, runs it, stops it, and keeps systemd informed.

Knows the order of starting and stopping. Everything it starts, it has built; everything it builds, it closes.
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
_STOP_SECONDS = 15.0  # a stop takes at most this long, and a little
_PATIENCE_SECONDS = 20.0  # `--once` waits for a model that cannot be asked for so long

Counts = dict[State, int]


class Daemon:
    """One running bibwatch."""

    def __init__(self, settings: Settings, *, once: bool = False, on_tick: Callable[[Counts], None] | None = None):
        """Check and build what can be built without touching disk or model. Raises ConfigurationError.

        `on_tick` is called about once a second, less often with a million files, with the number in each state.
        """
        if not settings.cameras:
            raise ConfigurationError(
                "no camera folder to watch; name one: --camera finish=/srv/drop/finish, "
                'or BIBWATCH_CAMERAS=\'{"finish":{"path":"/srv/drop/finish"}}\''
            )
        self._settings = settings
        self._once = once
        self._gave_up: BaseException | None = None  # why, if `once` ends with photos that wait
        self._on_tick = on_tick
        self._registry = settings.registry()
        self._failover = Failover(self._models(), settings.fallback_after)
        self._database = Database(settings.database_url)
        if self._database.file:
            check_outside(self._database.file, settings.cameras)
        self._ledger = Ledger(self._database)
        self._stop = threading.Event()
        news = threading.Event()
        self._news = news
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
        self._learn_at = 0.0
        self._rejudging = Rejudging(self._judgements, self._pipeline.judge, self._stop, renewed=self._renewed_judge)
        self._loops: list[Loop] = [*self._cameras, self._pipeline, self._rejudging]

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; with `once`, until nothing is left to do. Raises BibwatchError."""
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
            gc.freeze()  # what is loaded stays loaded: collecting garbage during a scan need not traverse it
            for loop in self._loops:
                loop.start()
            try:
                self._supervise(signals)
            finally:
                self._shut_down()
        if self._pipeline.is_busy:
            # Nothing interrupts a decoder or a model, and Python would wait. Everything is recorded and closed.
            os._exit(0)

    def _models(self) -> list[ModelHealth]:
        """Return the model to read with, then those to fall back to. Raises ConfigurationError."""
        settings, registry = self._settings, self._registry
        line_up = registry.line_up(settings.stage, settings.preset, settings.fallback_presets)
        for options in line_up[1:]:
            if obstacle := options.model_options.obstacle():
                log.warning("fallback.unusable", preset=options.model_options.name, error=obstacle)
        return [ModelHealth(settings.stage, registry.build(options)) for options in line_up]

    def _judge(self) -> Judge:
        """Return the judge by the start list in force, and by the form of the race as it is known by now."""
        start = time.monotonic()
        clear = frozenset(self._pipeline.clear_numbers.copy())
        judge = self._settings.judge_with(self._start_list.start_list)
        judge = replace(judge, race=judge.race.learning(clear))
        self._learned_from = len(clear)
        self._learn_at = time.monotonic() + (time.monotonic() - start) / _LEARN_SHARE
        return judge

    @property
    def _is_learning(self) -> bool:
        """Whether numbers were read that may show another form of the race."""
        return len(self._pipeline.clear_numbers) != self._learned_from

    def _renewed_judge(self) -> Judge | None:
        """Return another judge, which the pipeline has by then, if the start list or the form of the race changed."""
        learns = self._is_learning and time.monotonic() >= self._learn_at
        if not (self._start_list.refresh() or learns):
            return None
        judge, before = self._judge(), self._pipeline.judge
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
        # What a fallback has read is read for good, unless it is to be read again.
        counting = self._failover.models[:1] if self._settings.reread_fallback else self._failover.models
        recognisers = [model.recogniser for model in counting]
        quarantined = self._ledger.recover(recognisers, self._settings.pipeline.max_attempts)
        log.info(
            "daemon.start", version=__version__, pid=os.getpid(), database=str(self._database.file or "postgresql")
        )
        for plugin, problem in self._registry.plugins.problems().items() if self._settings.plugins else ():
            if plugin.allowed:
                log.warning("plugin.unusable", plugin=plugin.distribution, error=problem)
        if quarantined:
            log.warning(
                "daemon.recovered", photos=quarantined, reason="bibwatch ended while it read them; they come last"
            )

    def _supervise(self, signals: Signals) -> None:
        """Watch over the loops until it is time to stop."""
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
                self._report(counts)
                if self._once and self._is_over(counts):
                    return
                self._database.check_in_place()
        if signals.number:
            log.info("daemon.signal", signal=signal.Signals(signals.number).name)

    def _is_over(self, counts: Counts) -> bool:
        """Return whether nothing is left to do, or nothing can be done: no model could be asked for long."""
        undone = any(counts.get(state) for state in UNDONE)
        if undone and self._failover.waiting_seconds > _PATIENCE_SECONDS:
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
        except BibwatchError:  # the loops tell of a database in trouble, and wait for it
            return {State.SETTLING: 1}

    def _report(self, counts: Counts) -> None:
        trouble = sum(counts.get(state, 0) for state in TROUBLE)
        waiting = sum(counts.get(state, 0) for state in UNDONE)
        telemetry.READY_FILES.set(counts.get(State.READY, 0))
        notify(f"STATUS={counts.get(State.DONE, 0)} read, {waiting} waiting, {trouble} in trouble")
        if self._on_tick:
            self._on_tick(counts)

    def _shut_down(self) -> None:
        notify("STOPPING=1")
        self._stop_loops()
        deadline = time.monotonic() + _STOP_SECONDS
        late = [loop.name for loop in self._loops if not loop.join(max(0.0, deadline - time.monotonic()))]
        if late:
            log.warning("daemon.left_running", loops=late, consequence="what they had in hand is read again")
        failed = [loop.name for loop in self._loops if loop.failure]
        unhealthy = [camera.camera for camera in self._cameras if not camera.healthy]
        log.info(
            "daemon.stop",
            photo_files_loaded=telemetry.value(telemetry.PHOTO_FILES_LOADED),
            photo_bytes=telemetry.value(telemetry.PHOTO_BYTES_LOADED),
            model_images=telemetry.value(telemetry.MODEL_IMAGES),
        )
        if failed:
            raise BibwatchError(f"ended by a fault in: {', '.join(failed)} (the log has it)")
        if self._gave_up:
            raise BibwatchError(f"{self._gave_up}; the photos wait in the ledger for the next run")
        if self._once and unhealthy:
            raise BibwatchError(f"folder could not be read, of camera: {', '.join(unhealthy)}")


class Feeder:
    """Feeds systemd's watchdog, but only when every loop has made progress since the last time, or is excused."""

    def __init__(self, loops: list[Loop]) -> None:
        self._loops = loops
        self._seen = [-1] * len(loops)
        seconds = watchdog_seconds()
        self._interval = seconds / 4 if seconds else None
        self._next = 0.0

    def feed(self) -> bool:
        """Feed if it is time and every loop has progressed; return whether it was done."""
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
    """Takes note of SIGTERM and SIGINT, as a context; the second one ends the process at once.

    A handler runs in the middle of anything, with locks held: it may not log, nor set an event.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number:
            os._exit(1)
        self.number = number
