"""The loop that claims batches, has them decoded and read, and records the results, with one commit per batch.

While the model reads one batch, the next is loaded and decoded; a model that can read several at once gets several.
Knows the ledger and the current model. Does not know how photos arrived, or what an outcome means for a photo
(batch.py).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import tzinfo

import structlog

from bibwatch import telemetry
from bibwatch.errors import ConfigurationError, ModelUnavailableError
from bibwatch.images import ImageLimits, Photo
from bibwatch.judging import Judge
from bibwatch.loops import Loop
from bibwatch.pipeline.batch import Batch, BatchResult
from bibwatch.pipeline.decoding import prepare
from bibwatch.pipeline.failover import Failover
from bibwatch.pipeline.model_health import ModelHealth
from bibwatch.settings import PipelineSettings
from bibwatch.stages.base import Outcome
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Claim, Finished

log = structlog.get_logger()

_IDLE_SECONDS = 1.0  # between two checks for work that nothing announced (`bibwatch retry`)
_DRAIN_SECONDS = 8.0  # after a stop, to finish reading the batches in flight
_MAX_REPORTED = 10_000  # photo errors remembered, to log each only once
_SLICE_SECONDS = 0.5  # between two checks whether to go on waiting


class Pipeline(Loop):
    """Reads photos for as long as the daemon runs."""

    def __init__(
        self,
        failover: Failover,
        settings: PipelineSettings,
        limits: ImageLimits,
        ledger: Ledger,
        judge: Judge,
        *,
        zone: tzinfo | None = None,
        reread: bool = False,
        stop: threading.Event,
        news: threading.Event,
    ) -> None:
        """With `reread`, photos that only a fallback has read are read again once the preferred model is back.

        `zone` is the time zone of cameras that write no offset. `news` is set when there may be work.
        """
        super().__init__("pipeline", stop)
        self._failover = failover
        self._settings = settings
        self._limits = limits
        self._ledger = ledger
        self.judge = judge  # of the photos to come; may be replaced at any time
        self.clear_numbers: set[str] = set()  # read so far, that show the form of the race
        self._zone = zone
        self._reread = reread
        self._news = news
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        concurrent = sum(model.stage.concurrent_calls for model in failover.models)
        self._largest_batch = max(model.batch_size for model in failover.models)
        self._readers = ThreadPoolExecutor(concurrent, thread_name_prefix="read")
        self._in_flight: list[Batch] = []
        self._decoding: list[Future[Photo | Finished]] = []
        self._reported: set[tuple[str, ...]] = set()
        self._ready_since: float | None = None
        self._stopped_at: float | None = None

    def work(self) -> None:
        while not self.stop.is_set():
            if self._record() or self._start_batch():
                self.heartbeat()
                continue
            if not self._in_flight:
                self.heartbeat()  # being idle is healthy; waiting for a hung model is not
                self.extend_deadline(0)
            self._news.wait(self._wait_seconds())
            self._news.clear()
        self._drain()

    def ended(self) -> None:
        for pool in (self._decoders, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_busy(self) -> bool:
        """Whether a decoder, a model or a probe is still running; nothing can interrupt them."""
        reading = any(batch.result.running() for batch in self._in_flight)
        decoding = any(future.running() for future in self._decoding)
        return reading or decoding or self._failover.is_probing

    def _wait_seconds(self) -> float:
        if self._ready_since is None:
            return _IDLE_SECONDS
        return min(max(0.01, self._ready_since + self._settings.batch_wait_seconds - time.monotonic()), _IDLE_SECONDS)

    def _start_batch(self) -> bool:
        """Start a batch that is full or has waited long enough, if there is a model; return whether one started."""
        ready = self.retry_until_stored(lambda: self._ledger.ready(self._largest_batch))
        model = self._model(needed=ready > 0)
        if ready == 0 or model is None or not self._has_room(model):
            self._ready_since = None
            return False
        self._ready_since = self._ready_since or time.monotonic()
        waited = time.monotonic() - self._ready_since
        if ready < model.batch_size and waited < self._settings.batch_wait_seconds:
            return False
        claims = self.retry_until_stored(lambda: self._ledger.claim(model.batch_size, quarantined=not self._in_flight))
        self._ready_since = None
        if claims:
            self._submit(claims, model)
        return bool(claims)

    def _has_room(self, model: ModelHealth) -> bool:
        """Return whether another batch may start: one more than the model reads at once, none beside a quarantined."""
        quarantined = any(batch.is_quarantined for batch in self._in_flight)
        batches = sum(batch.model is model for batch in self._in_flight)
        return not quarantined and batches <= model.stage.concurrent_calls

    def _model(self, *, needed: bool) -> ModelHealth | None:
        before = self._failover.last
        model = self._failover.current(needed=needed)
        if self._reread and model is self._failover.preferred and before is not model:
            self._read_again()
        return model

    def _read_again(self) -> None:
        """Queue photos that only a fallback has read for the preferred model, behind all others."""
        photos = self.retry_until_stored(lambda: self._ledger.read_again(self._failover.preferred.recogniser))
        if photos:
            log.info("photos.read_again", photos=photos, preset=self._failover.preferred.preset)

    def _submit(self, claims: list[Claim], model: ModelHealth) -> None:
        side = model.stage.longest_side
        photos = [self._decoders.submit(prepare, claim, self._limits, side, self._zone) for claim in claims]
        self._decoding = [future for future in self._decoding if not future.done()] + photos
        batch = Batch(claims, photos, model, self.judge)
        batch.result = self._readers.submit(self._read, batch)
        batch.result.add_done_callback(lambda _: self._news.set())
        self._in_flight.append(batch)

    def _read(self, batch: Batch) -> BatchResult:
        """Wait for a batch's photos to be decoded, read them, and return the result. Runs in a reader thread."""
        result = BatchResult()
        if self.stop.is_set() or batch.model.error:  # the model failed while this batch was queued
            return result
        photos: list[tuple[Claim, Photo]] = []
        for claim, future in zip(batch.claims, batch.photos, strict=True):
            if not self._decoded(future):
                return result
            decoded = future.result()
            self.heartbeat()
            if isinstance(decoded, Finished):
                result.finished.append(decoded)
            else:
                photos.append((claim, decoded))
        try:
            outcomes = self._outcomes(batch.model, {photo.sha256: photo for _, photo in photos})
        except ConfigurationError as exc:  # an engine that died and cannot be restarted
            result.unavailable = ModelUnavailableError(str(exc))
            return result
        result.unavailable = batch.model.diagnose(outcomes.values(), probe=not self.stop.is_set())
        for claim, photo in photos:
            if photo.sha256 in outcomes:
                result.add(batch, claim, photo, outcomes[photo.sha256], self._settings.max_attempts)
        return result

    def _decoded(self, future: Future[Photo | Finished]) -> bool:
        """Wait until a photo is decoded; return False if the drain after a stop ended first."""
        while not future.done():
            wait([future], timeout=_SLICE_SECONDS)
            if self._drain_is_over():
                return False
        return True

    def _outcomes(self, model: ModelHealth, images: dict[str, Photo]) -> dict[str, Outcome | None]:
        """Return each image's outcome by its hash, None if it already has a result. Equal images are read once."""
        recognisers = self._failover.recognisers(model)
        outcomes: dict[str, Outcome | None] = dict.fromkeys(
            self.retry_until_stored(lambda: self._ledger.known(recognisers, images.keys()))
        )
        new = {sha256: photo for sha256, photo in images.items() if sha256 not in outcomes}
        if not new:
            return outcomes
        self.extend_deadline(self._settings.answer_seconds)
        for sha256, outcome in zip(new, model.stage.read(new.values()), strict=False):
            self.heartbeat()
            self.extend_deadline(self._settings.answer_seconds)
            telemetry.MODEL_IMAGES.inc()
            outcomes[sha256] = outcome
            if self._drain_is_over():
                break
        return outcomes

    def _drain_is_over(self) -> bool:
        if not self.stop.is_set():
            return False
        self._stopped_at = self._stopped_at or time.monotonic()
        return time.monotonic() - self._stopped_at > _DRAIN_SECONDS

    def _record(self) -> bool:
        """Record the batches that have been read; return whether there were any."""
        done = [batch for batch in self._in_flight if batch.result.done()]
        for batch in done:
            self._in_flight.remove(batch)
            self._finish(batch, batch.result.result())
        return bool(done)

    def _finish(self, batch: Batch, result: BatchResult) -> None:
        self.retry_until_stored(lambda: self._ledger.finish(batch.model.recogniser, result.finished))
        for item in result.finished:
            self.clear_numbers |= item.result.clear_numbers if item.result else set()
        kept = {claim.id for claim in (*(item.claim for item in result.finished), *result.quarantined)}
        left = [claim for claim in batch.claims if claim.id not in kept]
        self._release(left)
        self._release(result.quarantined, quarantined=True)
        if any(item.result for item in result.finished):
            batch.model.succeed()
        if result.unavailable and batch.model.error is None:  # the first of several batches is enough
            batch.model.fail(result.unavailable)
        elif self._reread and batch.model is not self._failover.preferred and self._failover.preferred.error is None:
            self._read_again()  # it was in flight when the preferred model came back
        self._log(batch, result)

    def _release(self, claims: list[Claim], *, quarantined: bool = False) -> None:
        self.retry_until_stored(lambda: self._ledger.release(claims, quarantined=quarantined))

    def _drain(self) -> None:
        """After a stop: record what is read in time, and release the rest."""
        cancelled = [batch for batch in self._in_flight if batch.result.cancel()]  # those not started yet
        while any(not batch.result.done() for batch in self._in_flight) and not self._drain_is_over():
            wait([batch.result for batch in self._in_flight], timeout=_SLICE_SECONDS)
        late = [batch for batch in self._in_flight if not batch.result.done()]
        for batch in (*cancelled, *late):
            self._release(batch.claims)
        self._in_flight = [batch for batch in self._in_flight if batch not in cancelled]
        self._record()

    def _log(self, batch: Batch, result: BatchResult) -> None:
        seconds = time.monotonic() - batch.since
        telemetry.BATCH_SECONDS.observe(seconds)
        for item in result.finished:
            telemetry.FINISHED.labels(item.state).inc()
            if item.error and self._is_new(item.claim.path, item.state, item.error):
                log.warning(f"photo.{item.state}", camera=item.claim.camera, path=item.claim.path, error=item.error)
        read = [item for item in result.finished if item.photo]
        bibs = sum(len(item.result.judgement.readings) for item in read if item.result and item.result.judgement)
        if read:
            log.info("batch.done", photos=len(read), bibs=bibs, seconds=round(seconds, 2), preset=batch.model.preset)

    def _is_new(self, *error: str) -> bool:
        """Return whether this error has not been logged yet; a file may be tried again for hours."""
        if len(self._reported) >= _MAX_REPORTED:
            self._reported.clear()
        known = error in self._reported
        self._reported.add(error)
        return not known
