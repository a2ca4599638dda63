"""One batch, and what its outcomes mean for its photos: read, retried, or failed.

Does not know threads, the ledger, or how a model is called.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from bibwatch.domain.states import State
from bibwatch.errors import Blame, ModelError, Proof
from bibwatch.images import Photo
from bibwatch.judging import Judge, clear_numbers
from bibwatch.pipeline.model_health import ModelHealth
from bibwatch.stages.base import Outcome
from bibwatch.store.records import Claim, Finished, Priority, Result


@dataclass(eq=False)
class Batch:
    """Claimed files, their photos being decoded, the model that reads them, and the future result."""

    claims: list[Claim]
    photos: list[Future[Photo | Finished]]
    model: ModelHealth
    judge: Judge
    since: float = field(default_factory=time.monotonic)
    result: Future[BatchResult] = field(init=False)

    @property
    def is_quarantined(self) -> bool:
        """Whether this is a single photo that is read alone because an earlier attempt failed."""
        return self.claims[0].priority == Priority.QUARANTINED


@dataclass
class BatchResult:
    """The result of a batch. Claims in neither list were not read, through no fault of the photo."""

    finished: list[Finished] = field(default_factory=list)
    quarantined: list[Claim] = field(default_factory=list)  # to be read again, each alone
    unavailable: ModelError | None = None  # why the model is unavailable

    def add(self, batch: Batch, claim: Claim, photo: Photo, outcome: Outcome | None, max_attempts: int) -> None:
        """Add the outcome of one photo, None if it already has a result."""
        error = outcome.error if outcome else None
        if outcome is None or error is None:
            self.finished.append(Finished(claim, photo, _result(outcome, batch) if outcome else None))
        elif self._is_the_photos_fault(batch, error):
            state = State.FAILED if claim.attempts >= max_attempts else State.READY
            self.finished.append(Finished(claim, photo, state=state, error=str(error)))
        elif Proof.ALONE in error.proof:
            self.quarantined.append(claim)

    def _is_the_photos_fault(self, batch: Batch, error: ModelError) -> bool:
        """Return whether an error costs the photo an attempt.

        If the blame is unclear, the photo is to blame only if it also fails alone, or while the model answers a
        probe, or both, depending on the error's class.
        """
        if error.blame is not Blame.UNCLEAR:
            return error.blame is Blame.PHOTO
        alone = Proof.ALONE not in error.proof or batch.is_quarantined
        return alone and (Proof.PROBE not in error.proof or self.unavailable is None)


def _result(outcome: Outcome, batch: Batch) -> Result:
    """Return the result to record for an outcome, with its candidates judged."""
    of_bibs, judge = outcome.output is None, batch.judge
    return Result(
        model=batch.model.stage.options.model_options.model,
        device=outcome.device,
        seconds=outcome.seconds,
        output=outcome.output,
        candidates=outcome.candidates,
        looks=outcome.looks,
        cut=outcome.cut,
        clear_numbers=clear_numbers(outcome.candidates) if of_bibs else frozenset(),
        judgement=judge.judge(outcome.candidates) if of_bibs else None,
        judged_by=judge.fingerprint if of_bibs else None,
    )
