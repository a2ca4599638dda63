"""Chooses the model: the preferred one, or a fallback once that has been unavailable for long enough.

Does not know photos or the ledger.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from bibwatch.domain.recogniser import Recogniser
from bibwatch.errors import Blame
from bibwatch.pipeline.model_health import ModelHealth

log = structlog.get_logger()

_START_SECONDS = 20.0  # to wait for the first reply of a server before watching the folders anyway
_TICK_SECONDS = 0.02


class Failover:
    """The daemon's models, the preferred one first. Not thread-safe, except for `waiting_seconds`."""

    def __init__(self, models: Sequence[ModelHealth], fallback_after: float) -> None:
        """`fallback_after` is how many seconds the preferred model must be unavailable before a fallback takes over."""
        self.models = models
        self._after = fallback_after
        self._probes = ThreadPoolExecutor(len(models), thread_name_prefix="probe")
        self.last = self.preferred
        self._waiting_since: float | None = None

    @property
    def preferred(self) -> ModelHealth:
        return self.models[0]

    @property
    def is_probing(self) -> bool:
        return any(model.is_being_probed for model in self.models)

    @property
    def waiting_seconds(self) -> float:
        """How long photos have waited for any model, not counting the delay before a fallback takes over."""
        since = self._waiting_since  # another thread may change it
        delay = self._after if len(self.models) > 1 else 0.0
        return max(0.0, time.monotonic() - since - delay) if since is not None else 0.0

    def start(self, stopped: Callable[[], bool]) -> None:
        """Load the preferred model and probe it; return early if `stopped` returns true.

        A server need not be up yet: photos wait in the ledger. Raises ConfigurationError if this machine cannot run
        the model, or if a fallback on a server is configured wrongly.
        """
        start = time.monotonic()
        for model in self.models[1:]:
            if model.stage.options.model_options.is_remote:
                model.stage.runtime.load()
        self.preferred.stage.load()
        patience = _START_SECONDS if self.preferred.stage.options.model_options.is_remote else math.inf
        while not self.preferred.is_available(self._probes) and self.preferred.since is None:
            if stopped() or time.monotonic() - start > patience:
                return
            time.sleep(_TICK_SECONDS)
        if self.preferred.error is None:
            log.info("model.ready", preset=self.preferred.preset, seconds=round(time.monotonic() - start, 2))
        elif self.preferred.error.blame not in {Blame.SERVER, Blame.UNCLEAR}:
            raise self.preferred.error

    def recognisers(self, model: ModelHealth) -> list[Recogniser]:
        """Return the recognisers whose results make reading with a model unnecessary: its own and those before it."""
        return [each.recogniser for each in self.models[: self.models.index(model) + 1]]

    def current(self, *, needed: bool = True) -> ModelHealth | None:
        """Return the model to use now, or None. Unless photos wait (`needed`), no fallback is loaded."""
        model = self._choose(needed=needed)
        if model is None:
            if needed:
                self._waiting_since = self._waiting_since or time.monotonic()
            return None
        self._waiting_since = None
        if model is not self.last:
            log.warning("model.failover", preset=model.preset, instead_of=self.last.preset)
            self.last = model
        return model

    def close(self) -> None:
        """Close all models, without waiting for probes."""
        self._probes.shutdown(wait=False, cancel_futures=True)
        for model in self.models:
            model.stage.close()

    def _choose(self, *, needed: bool) -> ModelHealth | None:
        preferred, *fallbacks = self.models
        if preferred.is_available(self._probes):
            return preferred
        if not needed or time.monotonic() - (preferred.since or 0.0) < self._after:
            return None
        # Probing a fallback loads it. Until it is loaded, a later one may read.
        return next((model for model in fallbacks if model.is_available(self._probes)), None)
