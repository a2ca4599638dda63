"""Which model reads now: the preferred one, or, when that has been away for long, the next in line.

Knows since when a model cannot be asked and when to try it again: with one small picture, a canary, never with a
photo. Does not know photos or the ledger.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
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
from bibwatch.store.records import Reader

log = structlog.get_logger()

_ALARMING = (ModelUnavailableError, ModelRejectedError)  # what may be the model's trouble and not the photo's
_AVAILABLE = "model.available"
_LONGEST_PAUSE = 30.0  # seconds between two canaries
_START_SECONDS = 20.0  # that a server may take for its first answer before the folders are watched
_TICK_SECONDS = 0.02
_LONGEST_PATIENCE = 300.0  # seconds, of those that a busy server asks for


class Model:
    """A stage with one preset, and whether it can be asked: a circuit breaker."""

    def __init__(self, stage_name: str, stage: Stage[Any]) -> None:
        self.stage = stage
        self.preset: str = stage.options.model_options.name
        self.batch_size: int = stage.options.model_options.batch_size
        self.reader = Reader.of(stage_name, stage.options)
        # Why it cannot be asked, if it cannot, and when that began on the monotonic clock.
        self.error: BaseException | None = ModelUnavailableError(f"{self.preset} is not loaded yet")
        self.since: float | None = None
        self._failures = 0
        self._told: set[str] = set()  # since a photo was last answered
        self._next = 0.0  # when the next canary is due
        self._canary: Future[None] | None = None

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
        """Take note that a canary was answered: photos may be tried again."""
        if self.since is not None and _AVAILABLE not in self._told:
            log.info(_AVAILABLE, preset=self.preset, away_seconds=round(time.monotonic() - self.since, 1))
            self._told.add(_AVAILABLE)
        self.error = None
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(1)

    def succeed(self) -> None:
        """Take note that a photo was answered: all is well. A server may answer canaries and nothing else."""
        self.since = None
        self._failures = 0
        self._told.clear()

    def trouble(self, outcomes: Iterable[Outcome | None], *, ask: bool) -> ModelError | None:
        """Tell from a batch's outcomes why the model cannot be asked, if it cannot; if in doubt `ask` a canary.

        May be called from any thread.
        """
        errors = [outcome.error for outcome in outcomes if outcome]
        doubt = next((error for error in errors if isinstance(error, _ALARMING)), None)
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
        """Whether a canary is under way."""
        return self._canary is not None and not self._canary.done()

    def look(self, canaries: ThreadPoolExecutor) -> bool:
        """Tell whether it can be asked; of one that cannot, send a canary when it is time, without waiting for it."""
        if self.error is None:
            return True
        if self._canary is None and time.monotonic() >= self._next:
            self._canary = canaries.submit(self.stage.warm_up)
        if self._canary is not None and self._canary.done():
            error = self._canary.exception()
            self._canary = None
            if error:
                self.fail(error)
            else:
                self.recover()
        return self.error is None


class Relay:
    """The models of one daemon, the preferred one first. All of it belongs to one thread."""

    def __init__(self, models: Sequence[Model], fallback_after: float) -> None:
        """`fallback_after` is how many seconds the preferred model must have been away for another to take over."""
        self.models = models
        self._after = fallback_after
        self._canaries = ThreadPoolExecutor(len(models), thread_name_prefix="canary")
        self.last = self.preferred
        self._waiting_since: float | None = None

    @property
    def preferred(self) -> Model:
        return self.models[0]

    @property
    def is_waiting_for_a_canary(self) -> bool:
        return any(model.is_being_tried for model in self.models)

    @property
    def waiting_seconds(self) -> float:
        """For how long no model could be asked, beyond the time the preferred one is given to come back."""
        since = self._waiting_since  # another thread may change it
        given = self._after if len(self.models) > 1 else 0.0
        return max(0.0, time.monotonic() - since - given) if since is not None else 0.0

    def start(self, stopped: Callable[[], bool]) -> None:
        """Load the preferred model and let it answer once, unless `stopped` says that nobody waits any longer.

        A server may take long to answer, or not be there yet: photos wait in the ledger. Raises ConfigurationError if
        this machine cannot run the model, or cannot ask one on a server that it may have to fall back to.
        """
        start = time.monotonic()
        for model in self.models[1:]:
            if model.stage.concurrent_calls > 1:
                model.stage.runtime.load()
        self.preferred.stage.load()
        patience = _START_SECONDS if self.preferred.stage.concurrent_calls > 1 else math.inf
        while not self.preferred.look(self._canaries) and self.preferred.since is None:
            if stopped() or time.monotonic() - start > patience:
                return
            time.sleep(_TICK_SECONDS)
        if self.preferred.error is None:
            log.info("model.ready", preset=self.preferred.preset, seconds=round(time.monotonic() - start, 2))
        elif not isinstance(self.preferred.error, _ALARMING):
            raise self.preferred.error

    def readers(self, model: Model) -> list[Reader]:
        """Return whose results count when a model is to read: those of a fallback do not count for its betters."""
        return [each.reader for each in self.models[: self.models.index(model) + 1]]

    def current(self, *, needed: bool = True) -> Model | None:
        """Return the model to ask next; None while photos must wait. Where none do (not `needed`), none is loaded."""
        model = self._choose(needed=needed)
        if model is None:
            if needed:
                self._waiting_since = self._waiting_since or time.monotonic()
            return None
        self._waiting_since = None
        if model is not self.last:
            log.warning("model.takes_over", preset=model.preset, instead_of=self.last.preset)
            self.last = model
        return model

    def close(self) -> None:
        """Let all models go; a canary under way is not waited for."""
        self._canaries.shutdown(wait=False, cancel_futures=True)
        for model in self.models:
            model.stage.close()

    def _choose(self, *, needed: bool) -> Model | None:
        preferred, *fallbacks = self.models
        if preferred.look(self._canaries):
            return preferred
        if not needed or time.monotonic() - (preferred.since or 0.0) < self._after:
            return None
        # The next in line is loaded only now. While it loads, one further back may read already.
        return next((model for model in fallbacks if model.look(self._canaries)), None)
