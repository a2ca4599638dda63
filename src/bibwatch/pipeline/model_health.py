"""Whether one model can be asked: a circuit breaker that is closed again by a probe, never by a photo.

Does not know photos or the ledger, nor which other models there are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog

from bibwatch import telemetry
from bibwatch.errors import (
    BibwatchError,
    ModelBusyError,
    ModelDisconnectedError,
    ModelError,
    ModelFaultError,
    ModelRejectedError,
    ModelUnavailableError,
    one_line,
)
from bibwatch.stages.base import Outcome, Stage

log = structlog.get_logger()

ALARMING = (ModelUnavailableError, ModelRejectedError)  # what may be the model's trouble and not the photo's
_AVAILABLE = "model.available"
_LONGEST_PAUSE = 30.0  # seconds between two probes
_LONGEST_PATIENCE = 300.0  # seconds, of those that a busy server asks for


class ModelHealth:
    """A stage with one preset, and whether it can be asked: a circuit breaker."""

    def __init__(self, stage_name: str, stage: Stage[Any]) -> None:
        self.stage = stage
        self.preset: str = stage.options.model_options.name
        self.batch_size: int = stage.options.model_options.batch_size
        self.recogniser = stage.options.recogniser(stage_name)
        # Why it cannot be asked, if it cannot, and when that began on the monotonic clock.
        self.error: BaseException | None = ModelUnavailableError(f"{self.preset} is not loaded yet")
        self.since: float | None = None
        self._failures = 0
        self._told: set[str] = set()  # since a photo was last answered
        self._next = 0.0  # when the next probe is due
        self._probe: Future[None] | None = None

    def fail(self, error: BaseException) -> None:
        """Take note that it cannot be asked; tell each kind of reason once."""
        if type(error).__name__ not in self._told:
            log.error("model.unavailable", preset=self.preset, error=one_line(error, 500))
            self._told.add(type(error).__name__)
        self.since = self.since or time.monotonic()
        self.error = error
        self._failures += 1
        pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311
        asked_for = error.retry_after if isinstance(error, ModelBusyError) else None
        self._next = time.monotonic() + max(pause, min(asked_for or 0.0, _LONGEST_PATIENCE))
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(0)

    def recover(self) -> None:
        """Take note that a probe was answered: photos may be tried again."""
        if self.since is not None and _AVAILABLE not in self._told:
            log.info(_AVAILABLE, preset=self.preset, away_seconds=round(time.monotonic() - self.since, 1))
            self._told.add(_AVAILABLE)
        self.error = None
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(1)

    def succeed(self) -> None:
        """Take note that a photo was answered: all is well. A server may answer probes and nothing else."""
        self.since = None
        self._failures = 0
        self._told.clear()

    def trouble(self, outcomes: Iterable[Outcome | None], *, ask: bool) -> ModelError | None:
        """Tell from a batch's outcomes why the model cannot be asked, if it cannot; if in doubt `ask` a probe.

        May be called from any thread.
        """
        errors = [outcome.error for outcome in outcomes if outcome]
        doubt = next((error for error in errors if isinstance(error, ALARMING)), None)
        if doubt is None or not ask or self.error or isinstance(doubt, ModelBusyError):
            return doubt
        try:
            self.stage.warm_up()
        except ModelError as exc:
            return exc
        except BibwatchError as exc:  # an engine that died and does not start again, say
            return ModelUnavailableError(str(exc))
        # What the photos may be to blame for is settled by reading them alone, or counting attempts; all else waits.
        settled = isinstance(doubt, (ModelFaultError, ModelDisconnectedError, ModelRejectedError))
        return None if settled or not all(errors) else doubt

    @property
    def is_being_tried(self) -> bool:
        """Whether a probe is under way."""
        return self._probe is not None and not self._probe.done()

    def look(self, probes: ThreadPoolExecutor) -> bool:
        """Tell whether it can be asked; of one that cannot, send a probe when it is time, without waiting for it."""
        if self.error is None:
            return True
        if self._probe is None and time.monotonic() >= self._next:
            self._probe = probes.submit(self.stage.warm_up)
        if self._probe is not None and self._probe.done():
            error = self._probe.exception()
            self._probe = None
            if error:
                self.fail(error)
            else:
                self.recover()
        return self.error is None
