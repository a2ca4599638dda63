"""The loop that reads: claims a batch, decodes it, asks the stage, records what came of it; one commit a batch.

While the model works on one batch, the next is read from disk and decoded. Knows ledger and stage;
does not know how photos came or which model reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import structlog

from bibwatch import telemetry
from bibwatch.errors import ModelUnavailableError
from bibwatch.images import ImageLimits, Photo
from bibwatch.loops import Loop
from bibwatch.pipeline.preparing import prepare
from bibwatch.settings import PipelineSettings
from bibwatch.stages.base import Outcome, Stage
from bibwatch.states import State
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Claim, Finished, Priority, Reader

log = structlog.get_logger()

_IDLE_SECONDS = 1.0  # between two looks for work that came without news (`bibwatch retry`)
_DRAIN_SECONDS = 8.0  # after a stop, photos of the batch in flight are still read for so long
_MOST_TOLD = 10_000  # troubles remembered, so as to tell each once
_SLICE_SECONDS = 0.5  # between two looks at whether to go on waiting for a photo
_UNAVAILABLE_SECONDS = 5.0  # before a model that could not be reached is asked again


@dataclass
class Batch:
    """Claimed files, and their photos as they get decoded."""

    claims: list[Claim]
    photos: list[Future[Photo | Finished]]
    since: float

    @property
    def is_suspect(self) -> bool:
        return self.claims[0].priority == Priority.SUSPECT


class Pipeline(Loop):
    """Reads photos for as long as the daemon runs."""

    def __init__(
        self,
        stage_name: str,
        stage: Stage[Any],
        settings: PipelineSettings,
        limits: ImageLimits,
        ledger: Ledger,
        *,
        stop: threading.Event,
        news: threading.Event,
    ) -> None:
        super().__init__("pipeline", stop)
        self.reader = Reader.of(stage_name, stage.options)
        self._stage = stage
        self._settings = settings
        self._limits = limits
        self._ledger = ledger
        self._news = news
        self._batch_size: int = stage.options.model_options.batch_size
        self._pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._decoding: list[Future[Photo | Finished]] = []
        self._told: set[tuple[str, str]] = set()
        self._ready_since: float | None = None
        self._stopped_at: float | None = None
        self.unavailable: str | None = None  # why the model could not be asked, the last time
        self._unavailable_since = 0.0

    def work(self) -> None:
        batch: Batch | None = None
        while not self.stop.is_set():
            self.beat()
            batch = batch or self._take(alone=True)
            if batch:
                batch = self._read(batch)
            else:
                self._news.wait(self._wait_seconds())
                self._news.clear()
        if batch:
            self.insist(lambda: self._ledger.release(batch.claims))

    def ended(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_decoding(self) -> bool:
        """Whether a photo is being decoded still, which nothing can interrupt."""
        return any(future.running() for future in self._decoding)

    @property
    def unavailable_seconds(self) -> float:
        """For how long the model could not be asked, each time it was tried."""
        return time.monotonic() - self._unavailable_since if self.unavailable else 0.0

    def _wait_seconds(self) -> float:
        if self._ready_since is None:
            return _IDLE_SECONDS
        return max(0.01, self._ready_since + self._settings.batch_wait_seconds - time.monotonic())

    def _take(self, *, alone: bool) -> Batch | None:
        """Claim a batch if one is full or has waited long enough; `alone` if nothing else is in flight."""
        ready = self.insist(self._ledger.ready)
        telemetry.READY_FILES.set(ready)
        if ready == 0:
            self._ready_since = None
            return None
        self._ready_since = self._ready_since or time.monotonic()
        waited = time.monotonic() - self._ready_since
        if ready < self._batch_size and waited < self._settings.batch_wait_seconds:
            return None
        claims = self.insist(lambda: self._ledger.claim(self._batch_size, suspects=alone))
        self._ready_since = None
        if not claims:
            return None
        side = self._stage.longest_side
        photos = [self._pool.submit(prepare, claim, self._limits, side) for claim in claims]
        self._decoding = [future for future in self._decoding if not future.done()] + photos
        return Batch(claims, photos, time.monotonic())

    def _read(self, batch: Batch) -> Batch | None:
        """Read one batch and record it; return the next one, already being decoded."""
        finished: list[Finished] = []
        photos: list[tuple[Claim, Photo]] = []
        for claim, future in zip(batch.claims, batch.photos, strict=True):
            if not self._decoded(future):
                break
            result = future.result()
            self.beat()
            if isinstance(result, Finished):
                finished.append(result)
            else:
                photos.append((claim, result))
        following = None if batch.is_suspect or self.stop.is_set() else self._take(alone=False)
        finished += self._answers(photos)
        self.insist(lambda: self._ledger.finish(self.reader, finished))
        read = {item.claim.id for item in finished}
        left = [claim for claim in batch.claims if claim.id not in read]
        if left:
            self.insist(lambda: self._ledger.release(left))
        self._tell(batch, finished)
        return following

    def _decoded(self, future: Future[Photo | Finished]) -> bool:
        """Wait for a photo; give up only when the time to drain after a stop is over."""
        while not future.done():
            wait([future], timeout=_SLICE_SECONDS)
            if self.stop.is_set() and self._drain_is_over():
                return False
        return True

    def _answers(self, photos: list[tuple[Claim, Photo]]) -> list[Finished]:
        """Ask the stage about every image once, unless it has answered before; leave out what it was not asked."""
        hashes = {photo.sha256 for _, photo in photos}
        outcomes: dict[str, Outcome | None] = dict.fromkeys(
            self.insist(lambda: self._ledger.known(self.reader, hashes))
        )
        new = {photo.sha256: photo for _, photo in photos if photo.sha256 not in outcomes}
        outcomes.update(self._ask(new))
        return [
            self._finished(claim, photo, outcomes[photo.sha256]) for claim, photo in photos if photo.sha256 in outcomes
        ]

    def _ask(self, images: dict[str, Photo]) -> Iterator[tuple[str, Outcome]]:
        if not images:
            return
        unavailable: str | None = None
        self.excuse(self._settings.answer_seconds)
        for sha256, outcome in zip(images, self._stage.read(images.values()), strict=False):
            self.beat()
            self.excuse(self._settings.answer_seconds)
            telemetry.MODEL_IMAGES.inc()
            if isinstance(outcome.error, ModelUnavailableError):
                unavailable = str(outcome.error)
            else:
                yield sha256, outcome
            if self.stop.is_set() and self._drain_is_over():
                return
        self.excuse(0)
        self._mind(unavailable)

    def _drain_is_over(self) -> bool:
        self._stopped_at = self._stopped_at or time.monotonic()
        return time.monotonic() - self._stopped_at > _DRAIN_SECONDS

    def _mind(self, unavailable: str | None) -> None:
        """Tell once that the model cannot be reached, and once that it can; wait a little before asking again."""
        if unavailable and not self.unavailable:
            self._unavailable_since = time.monotonic()
            log.error("model.unavailable", error=unavailable, consequence="photos wait")
        if self.unavailable and not unavailable:
            log.info("model.available")
        self.unavailable = unavailable
        if unavailable:
            self.stop.wait(_UNAVAILABLE_SECONDS)

    def _finished(self, claim: Claim, photo: Photo, outcome: Outcome | None) -> Finished:
        if outcome is None or outcome.error is None:
            return Finished(claim, photo, outcome, model=self._stage.options.model_options.model)
        last = claim.attempts >= self._settings.max_attempts
        return Finished(claim, photo, state=State.FAILED if last else State.READY, error=str(outcome.error))

    def _tell(self, batch: Batch, finished: list[Finished]) -> None:
        seconds = time.monotonic() - batch.since
        telemetry.BATCH_SECONDS.observe(seconds)
        for item in finished:
            telemetry.FINISHED.labels(item.state).inc()
            if item.error and self._is_news(item.claim.path, item.error):
                log.warning(f"photo.{item.state}", camera=item.claim.camera, path=item.claim.path, error=item.error)
        read = [item for item in finished if item.photo]
        bibs = sum(len(item.outcome.readings) for item in read if item.outcome)
        if read:
            log.info("batch.done", photos=len(read), bibs=bibs, seconds=round(seconds, 2))

    def _is_news(self, path: str, error: str) -> bool:
        """Tell whether this trouble has not been told yet; a file may be tried again for hours."""
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        known = (path, error) in self._told
        self._told.add((path, error))
        return not known
