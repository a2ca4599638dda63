"""The loop that reads: claims batches, has them decoded and read, records what came of each; one commit a batch.

While the model works on one batch, the next is read from disk and decoded; a model that has use for several batches
at a time gets them. Knows the ledger and which model reads now; does not know how photos came, nor what an answer
is worth (batch.py).
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

_IDLE_SECONDS = 1.0  # between two looks for work that came without news (`bibwatch retry`)
_DRAIN_SECONDS = 8.0  # after a stop, photos of the batches in flight are still read for so long
_MOST_REPORTED = 10_000  # troubles remembered, so as to tell each once
_SLICE_SECONDS = 0.5  # between two looks at whether to go on waiting for a photo


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
        """`reread`: what a fallback has read is read again when the preferred model is back.

        `zone` is the time zone of cameras that write none.
        """
        super().__init__("pipeline", stop)
        self._failover = failover
        self._settings = settings
        self._limits = limits
        self._ledger = ledger
        self._judge = judge
        self._zone = zone
        self._reread = reread
        self._news = news
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        abreast = sum(model.stage.concurrent_calls for model in failover.models)
        self._largest_batch = max(model.batch_size for model in failover.models)
        self._readers = ThreadPoolExecutor(abreast, thread_name_prefix="read")
        self._flight: list[Batch] = []
        self._decoding: list[Future[Photo | Finished]] = []
        self._reported: set[tuple[str, ...]] = set()
        self._ready_since: float | None = None
        self._stopped_at: float | None = None

    def work(self) -> None:
        while not self.stop.is_set():
            if self._record() or self._take():
                self.heartbeat()
                continue
            if not self._flight:
                self.heartbeat()  # nothing to do is no trouble; a model that does not answer is
                self.extend_deadline(0)
            self._news.wait(self._wait_seconds())
            self._news.clear()
        self._drain()

    def ended(self) -> None:
        for pool in (self._decoders, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def is_busy(self) -> bool:
        """Whether something is under way still which nothing can interrupt: a decoder, a model, a probe."""
        reading = any(batch.result.running() for batch in self._flight)
        decoding = any(future.running() for future in self._decoding)
        return reading or decoding or self._failover.has_probe_under_way

    def _wait_seconds(self) -> float:
        if self._ready_since is None:
            return _IDLE_SECONDS
        return min(max(0.01, self._ready_since + self._settings.batch_wait_seconds - time.monotonic()), _IDLE_SECONDS)

    def _take(self) -> bool:
        """Start a batch if there is a model for it, and enough photos, or they have waited long enough."""
        ready = self.retry_until_stored(lambda: self._ledger.ready(self._largest_batch))
        model = self._model(needed=ready > 0)
        if ready == 0 or model is None or not self._has_room(model):
            self._ready_since = None
            return False
        self._ready_since = self._ready_since or time.monotonic()
        waited = time.monotonic() - self._ready_since
        if ready < model.batch_size and waited < self._settings.batch_wait_seconds:
            return False
        claims = self.retry_until_stored(lambda: self._ledger.claim(model.batch_size, quarantined=not self._flight))
        self._ready_since = None
        if claims:
            self._start(claims, model)
        return bool(claims)

    def _has_room(self, model: ModelHealth) -> bool:
        """Tell whether another batch may be under way: one more than the model reads, none beside a quarantined."""
        alone = any(batch.is_quarantined for batch in self._flight)
        its = sum(batch.model is model for batch in self._flight)
        return not alone and its <= model.stage.concurrent_calls

    def _model(self, *, needed: bool) -> ModelHealth | None:
        before = self._failover.last
        model = self._failover.current(needed=needed)
        if self._reread and model is self._failover.preferred and before is not model:
            self._read_again()
        return model

    def _read_again(self) -> None:
        """Have photos that only a fallback has read wait for the preferred model, after all others."""
        photos = self.retry_until_stored(lambda: self._ledger.read_again(self._failover.preferred.recogniser))
        if photos:
            log.info("photos.read_again", photos=photos, preset=self._failover.preferred.preset)

    def _start(self, claims: list[Claim], model: ModelHealth) -> None:
        side = model.stage.longest_side
        photos = [self._decoders.submit(prepare, claim, self._limits, side, self._zone) for claim in claims]
        self._decoding = [future for future in self._decoding if not future.done()] + photos
        batch = Batch(claims, photos, model, self._judge)
        batch.result = self._readers.submit(self._read, batch)
        batch.result.add_done_callback(lambda _: self._news.set())
        self._flight.append(batch)

    def _read(self, batch: Batch) -> BatchResult:
        """Have a batch's photos decoded and read, in a thread of its own."""
        result = BatchResult()
        if self.stop.is_set() or batch.model.error:  # it went away while this batch was waiting
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
        except ConfigurationError as exc:  # an engine that died, and cannot be started again
            result.unavailable = ModelUnavailableError(str(exc))
            return result
        result.unavailable = batch.model.diagnose(outcomes.values(), probe=not self.stop.is_set())
        for claim, photo in photos:
            if photo.sha256 in outcomes:
                result.add(batch, claim, photo, outcomes[photo.sha256], self._settings.max_attempts)
        return result

    def _decoded(self, future: Future[Photo | Finished]) -> bool:
        """Wait for a photo; give up only when the time to drain after a stop is over."""
        while not future.done():
            wait([future], timeout=_SLICE_SECONDS)
            if self._drain_is_over():
                return False
        return True

    def _outcomes(self, model: ModelHealth, images: dict[str, Photo]) -> dict[str, Outcome | None]:
        """Ask the stage about every image once, unless there is a result already (None)."""
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
        """Record the batches that have been read; tell whether there were any."""
        done = [batch for batch in self._flight if batch.result.done()]
        for batch in done:
            self._flight.remove(batch)
            self._finish(batch, batch.result.result())
        return bool(done)

    def _finish(self, batch: Batch, result: BatchResult) -> None:
        self.retry_until_stored(lambda: self._ledger.finish(batch.model.recogniser, result.finished))
        kept = {claim.id for claim in (*(item.claim for item in result.finished), *result.quarantined)}
        left = [claim for claim in batch.claims if claim.id not in kept]
        self._release(left)
        self._release(result.quarantined, quarantined=True)
        if any(item.result for item in result.finished):
            batch.model.succeed()
        if result.unavailable and batch.model.error is None:  # of several batches one is enough to tell
            batch.model.fail(result.unavailable)
        elif self._reread and batch.model is not self._failover.preferred and self._failover.preferred.error is None:
            self._read_again()  # it was still under way when the preferred model came back
        self._log(batch, result)

    def _release(self, claims: list[Claim], *, quarantined: bool = False) -> None:
        self.retry_until_stored(lambda: self._ledger.release(claims, quarantined=quarantined))

    def _drain(self) -> None:
        """After a stop: record what is read in time, give the rest back."""
        given_back = [batch for batch in self._flight if batch.result.cancel()]  # those not begun yet
        while any(not batch.result.done() for batch in self._flight) and not self._drain_is_over():
            wait([batch.result for batch in self._flight], timeout=_SLICE_SECONDS)
        late = [batch for batch in self._flight if not batch.result.done()]
        for batch in (*given_back, *late):
            self._release(batch.claims)
        self._flight = [batch for batch in self._flight if batch not in given_back]
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

    def _is_new(self, *trouble: str) -> bool:
        """Return whether this trouble has not been logged yet; a file may be tried again for hours."""
        if len(self._reported) >= _MOST_REPORTED:
            self._reported.clear()
        known = trouble in self._reported
        self._reported.add(trouble)
        return not known
