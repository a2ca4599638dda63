"""Tracks whether a model is available: a circuit breaker that is closed by probes, never by photos.

Does not know the ledger, nor which other models there are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog

from bibwatch import telemetry
from bibwatch.backoff import CircuitBreaker
from bibwatch.errors import BibwatchError, Blame, ModelError, ModelUnavailableError, Retry, one_line
from bibwatch.stages.base import Outcome, Stage

log = structlog.get_logger()

_AVAILABLE = "model.available"
_FIRST_PAUSE = 1.0  # seconds before the first probe
_LONGEST_PAUSE = 30.0  # seconds between two probes
_LONGEST_RETRY_AFTER = 300.0  # seconds between two probes, if a busy server asks for it


class ModelHealth:
    """A stage with one preset, and whether photos may be sent to it."""

    def __init__(self, stage_name: str, stage: Stage[Any]) -> None:
        self.stage = stage
        self.preset: str = stage.options.model_options.name
        self.batch_size: int = stage.options.model_options.batch_size
        self.recogniser = stage.options.recogniser(stage_name)
        # Why the model is unavailable, if it is, and since when on the monotonic clock.
        self.error: BibwatchError | None = ModelUnavailableError(f"{self.preset} is not loaded yet")
        self.since: float | None = None
        self._breaker = CircuitBreaker()  # says when the next probe is due
        self._reported: set[str] = set()  # since a photo was last read
        self._probe: Future[BibwatchError | None] | None = None

    def fail(self, error: BibwatchError) -> None:
        """Record that the model is unavailable; log each kind of reason once."""
        if type(error).__name__ not in self._reported:
            log.error("model.unavailable", preset=self.preset, error=one_line(error, 500))
            self._reported.add(type(error).__name__)
        self.since = self.since or time.monotonic()
        self.error = error
        asked_for = min(error.retry_after or 0.0, _LONGEST_RETRY_AFTER)
        self._breaker.fail(first=_FIRST_PAUSE, longest=_LONGEST_PAUSE, at_least=asked_for)
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(0)

    def recover(self) -> None:
        """Record that a probe was answered: photos may be tried again."""
        if self.since is not None and _AVAILABLE not in self._reported:
            log.info(_AVAILABLE, preset=self.preset, away_seconds=round(time.monotonic() - self.since, 1))
            self._reported.add(_AVAILABLE)
        self.error = None
        telemetry.MODEL_AVAILABLE.labels(self.preset).set(1)

    def succeed(self) -> None:
        """Record that a photo was read. This proves more than a probe, which may be all that a server can answer."""
        self.since = None
        self._breaker.succeed()
        self._reported.clear()

    def diagnose(self, outcomes: Iterable[Outcome | None], *, probe: bool) -> ModelError | None:
        """Return why the model is unavailable, judging by a batch's outcomes; None if it is not.

        With `probe`, a probe is sent where the outcomes alone do not say. Thread-safe.
        """
        errors = [outcome.error for outcome in outcomes if outcome]
        cause = next((error for error in errors if error and error.blame is not Blame.PHOTO), None)
        if cause is None or not probe or self.error or cause.retry is Retry.LATER:
            return cause
        if failure := self._send_probe():
            # Otherwise it is, for example, an engine that died and cannot be restarted.
            return failure if isinstance(failure, ModelError) else ModelUnavailableError(str(failure))
        # If a photo may be to blame, reading it alone or counting its attempts decides.
        return None if cause.blame is Blame.UNCLEAR or not all(errors) else cause

    @property
    def is_being_probed(self) -> bool:
        """Whether a probe is under way."""
        return self._probe is not None and not self._probe.done()

    def is_available(self, probes: ThreadPoolExecutor) -> bool:
        """Return whether photos may be sent; if not, send a probe when one is due, without waiting for its answer."""
        if self.error is None:
            return True
        if self._probe is None and self._breaker.is_due:
            self._probe = probes.submit(self._send_probe)
        if self._probe is not None and self._probe.done():
            error = self._probe.result()
            self._probe = None
            if error:
                self.fail(error)
            else:
                self.recover()
        return self.error is None

    def _send_probe(self) -> BibwatchError | None:
        """Send a probe; return the error, or None if it was answered."""
        try:
            self.stage.warm_up()
        except BibwatchError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001  # a plugin's runtime may raise anything
            return BibwatchError(f"preset {self.preset}: {type(exc).__name__}: {one_line(exc)}")
        return None
