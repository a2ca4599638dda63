"""One batch on its way, and what its answers mean for the photos in it: read, tried again, or failed.

Knows whose fault an error is. Does not know threads, the ledger, or how a model is asked.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from bibwatch.domain.states import State
from bibwatch.errors import (
    ModelDisconnectedError,
    ModelError,
    ModelFaultError,
    ModelRejectedError,
    ModelUnavailableError,
)
from bibwatch.images import Photo
from bibwatch.judging import Judge
from bibwatch.pipeline.model_health import ModelHealth
from bibwatch.stages.base import Outcome
from bibwatch.store.records import Claim, Finished, Priority, Result


@dataclass(eq=False)
class Batch:
    """Claimed files, their photos as they get decoded, the model that reads them, and its answers to come."""

    claims: list[Claim]
    photos: list[Future[Photo | Finished]]
    model: ModelHealth
    judge: Judge
    since: float = field(default_factory=time.monotonic)
    answers: Future[BatchResult] = field(init=False)

    @property
    def is_quarantined(self) -> bool:
        """Whether this is one photo that is read alone, for what happened when it was read with others."""
        return self.claims[0].priority == Priority.QUARANTINED


@dataclass
class BatchResult:
    """What came of a batch. Claims that are in neither list were not read, and it was not their fault."""

    finished: list[Finished] = field(default_factory=list)
    quarantined: list[Claim] = field(default_factory=list)  # to be read again, each alone
    unavailable: ModelError | None = None  # why the model cannot be asked now

    def add(self, batch: Batch, claim: Claim, photo: Photo, outcome: Outcome | None, max_attempts: int) -> None:
        """Add what came of one photo (None: there is a result already)."""
        error = outcome.error if outcome else None
        if outcome is None or error is None:
            self.finished.append(Finished(claim, photo, _result(outcome, batch) if outcome else None))
        elif self._is_about(batch, error):
            state = State.FAILED if claim.attempts >= max_attempts else State.READY
            self.finished.append(Finished(claim, photo, state=state, error=str(error)))
        elif isinstance(error, (ModelFaultError, ModelDisconnectedError)):
            self.quarantined.append(claim)

    def _is_about(self, batch: Batch, error: ModelError) -> bool:
        """Tell whether an error costs the photo an attempt.

        What a server fails at may be this photo's doing, or that of another one in the batch, or nobody's: it is
        asked about each alone. A connection that breaks, or a request that is refused, is the photo's doing only if
        the probe fares better.
        """
        match error:
            case ModelFaultError():
                return batch.is_quarantined
            case ModelDisconnectedError():
                return batch.is_quarantined and self.unavailable is None
            case ModelUnavailableError():
                return False
            case ModelRejectedError():
                return self.unavailable is None
            case _:
                return True


def _result(outcome: Outcome, batch: Batch) -> Result:
    """Return what is recorded of an outcome: judged at once, if it is one with candidates."""
    of_bibs, judge = outcome.output is None, batch.judge
    return Result(
        model=batch.model.stage.options.model_options.model,
        device=outcome.device,
        seconds=outcome.seconds,
        output=outcome.output,
        candidates=outcome.candidates,
        glances=outcome.glances,
        cut=outcome.cut,
        judgement=judge.judge(outcome.candidates) if of_bibs else None,
        judged_by=judge.fingerprint if of_bibs else None,
    )
