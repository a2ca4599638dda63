"""Which model reads now: the preferred one, or, when that has been away for long, the next in line.

Knows since when a model cannot be asked and when to try it again: with one small picture, a canary, never with a
photo. Does not know photos or the ledger.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog

from bibwatch import telemetry
from bibwatch.errors import (
    BibwatchError,
    ModelBusyError,
    ModelError,
    ModelRejectedError,
    ModelUnavailableError,
    one_line,
)
from bibwatch.stages.base import Outcome, Stage
from bibwatch.store.records import Reader

log = structlog.get_logger()

_ALARMING = (ModelUnavailableError, ModelRejectedError)  # what may be the model's trouble and not the photo's
_LONGEST_PAUSE = 30.0  # seconds between two canaries
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
        self._told: set[type[BaseException]] = set()
        self._next = 0.0  # when the next canary is due
        self._canary: Future[None] | None = None

    def fail(self, error: BaseException) -> None:
        """Take note that it cannot be asked; tell each kind of reason once."""
        if type(error) not in self._told:
            log.error("model.unavailable", preset=self.preset, error=one_line(error, 500))
            self._told.add(type(error))
        self.since = self.since or time.monotonic()
        self.error = error
        self._failures += 1
        pause = min(_LONGEST_PAUSE, 2.0 ** min(self._failures - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311
        asked_for = error.retry_after if isinstance(error, ModelBusyError) else None
        self._next = time.monotonic() + max(pause, min(asked_for or 0.0, _LONGEST_PATIENCE))
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(0)

    def recover(self) -> None:
        """Take note that it can be asked."""
        if self.since is not None:
            log.info("model.available", preset=self.preset, away_seconds=round(time.monotonic() - self.since, 1))
        self.error = self.since = None
        self._failures = 0
        self._told.clear()
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(1)

    def trouble(self, outcomes: Iterable[Outcome | None], *, ask: bool) -> ModelError | None:
        """Tell from a batch's outcomes why the model cannot be asked, if it cannot; if in doubt `ask` a canary.

        May be called from any thread.
        """
        errors = (outcome.error for outcome in outcomes if outcome)
        doubt = next((error for error in errors if isinstance(error, _ALARMING)), None)
        if doubt is None or not ask:
            return doubt
        try:
            self.stage.warm_up()
        except ModelError as exc:
            return exc
        except BibwatchError as exc:  # an engine that died and does not start again, say
            return ModelUnavailableError(str(exc))
        return None

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
        if self._waiting_since is None:
            return 0.0
        given = self._after if len(self.models) > 1 else 0.0
        return max(0.0, time.monotonic() - self._waiting_since - given)

    def start(self) -> None:
        """Load the preferred model and let it answer once. Raises ConfigurationError if this machine cannot run it."""
        start = time.monotonic()
        try:
            self.preferred.stage.warm_up()
        except _ALARMING as exc:
            self.preferred.fail(exc)  # a server that is not there yet, say: photos wait in the ledger
        else:
            self.preferred.recover()
            log.info("model.ready", preset=self.preferred.preset, seconds=round(time.monotonic() - start, 2))

    def readers(self, model: Model) -> list[Reader]:
        """Return whose results count when a model is to read: those of a fallback do not count for its betters."""
        return [each.reader for each in self.models[: self.models.index(model) + 1]]

    def current(self) -> Model | None:
        """Return the model to ask next; None while photos must wait."""
        model = self._choose()
        if model is None:
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

    def _choose(self) -> Model | None:
        preferred, *fallbacks = self.models
        if preferred.look(self._canaries):
            return preferred
        if time.monotonic() - (preferred.since or 0.0) < self._after:
            return None
        # The next in line is loaded only now. While it loads, one further back may read already.
        return next((model for model in fallbacks if model.look(self._canaries)), None)
