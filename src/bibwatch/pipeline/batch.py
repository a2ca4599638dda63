"""One batch on its way, and what its answers mean for the photos in it: read, tried again, or failed.

Knows whose fault an error is. Does not know threads, the ledger, or how a model is asked.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from bibwatch.errors import (
    ModelDisconnectedError,
    ModelError,
    ModelFaultError,
    ModelRejectedError,
    ModelUnavailableError,
)
from bibwatch.images import Photo
from bibwatch.pipeline.relay import Model
from bibwatch.stages.base import Outcome
from bibwatch.states import State
from bibwatch.store.records import Claim, Finished, Priority


@dataclass(eq=False)
class Batch:
    """Claimed files, their photos as they get decoded, the model that reads them, and its answers to come."""

    claims: list[Claim]
    photos: list[Future[Photo | Finished]]
    model: Model
    since: float = field(default_factory=time.monotonic)
    answers: Future[Answers] = field(init=False)

    @property
    def is_suspect(self) -> bool:
        """Whether this is one photo that is read alone, for what happened when it was read with others."""
        return self.claims[0].priority == Priority.SUSPECT


@dataclass
class Answers:
    """What came of a batch. Claims that are in neither list were not read, and it was not their fault."""

    finished: list[Finished] = field(default_factory=list)
    suspects: list[Claim] = field(default_factory=list)  # to be read again, each alone
    unavailable: ModelError | None = None  # why the model cannot be asked now

    def add(self, batch: Batch, claim: Claim, photo: Photo, outcome: Outcome | None, max_attempts: int) -> None:
        """Judge the answer about one photo (None: there is a result already)."""
        error = outcome.error if outcome else None
        if error is None:
            self.finished.append(Finished(claim, photo, outcome, model=batch.model.stage.options.model_options.model))
        elif self._is_about(batch, error):
            state = State.FAILED if claim.attempts >= max_attempts else State.READY
            self.finished.append(Finished(claim, photo, state=state, error=str(error)))
        elif isinstance(error, (ModelFaultError, ModelDisconnectedError)):
            self.suspects.append(claim)

    def _is_about(self, batch: Batch, error: ModelError) -> bool:
        """Tell whether an error costs the photo an attempt.

        What a server fails at may be this photo's doing, or that of another one in the batch, or nobody's: it is
        asked about each alone. A connection that breaks, or a request that is refused, is the photo's doing only if
        the canary fares better.
        """
        match error:
            case ModelFaultError():
                return batch.is_suspect
            case ModelDisconnectedError():
                return batch.is_suspect and self.unavailable is None
            case ModelUnavailableError():
                return False
            case ModelRejectedError():
                return self.unavailable is None
            case _:
                return True
