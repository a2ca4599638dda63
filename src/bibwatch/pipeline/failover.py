"""Which model reads now: the preferred one, or, when that has been away for long, the next in line.

Knows since when a model cannot be asked and when to try it again: with one small picture, a probe, never with a
photo. Does not know photos or the ledger.
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

_START_SECONDS = 20.0  # that a server may take for its first answer before the folders are watched
_TICK_SECONDS = 0.02


class Failover:
    """The models of one daemon, the preferred one first. All of it belongs to one thread."""

    def __init__(self, models: Sequence[ModelHealth], fallback_after: float) -> None:
        """`fallback_after` is how many seconds the preferred model must have been away for another to take over."""
        self.models = models
        self._after = fallback_after
        self._probes = ThreadPoolExecutor(len(models), thread_name_prefix="probe")
        self.last = self.preferred
        self._waiting_since: float | None = None

    @property
    def preferred(self) -> ModelHealth:
        return self.models[0]

    @property
    def has_probe_under_way(self) -> bool:
        return any(model.is_being_probed for model in self.models)

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
        """Return whose results count when a model is to read: those of a fallback do not count for its betters."""
        return [each.recogniser for each in self.models[: self.models.index(model) + 1]]

    def current(self, *, needed: bool = True) -> ModelHealth | None:
        """Return the model to ask next; None while photos must wait. Where none do (not `needed`), none is loaded."""
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
        """Let all models go; a probe under way is not waited for."""
        self._probes.shutdown(wait=False, cancel_futures=True)
        for model in self.models:
            model.stage.close()

    def _choose(self, *, needed: bool) -> ModelHealth | None:
        preferred, *fallbacks = self.models
        if preferred.is_available(self._probes):
            return preferred
        if not needed or time.monotonic() - (preferred.since or 0.0) < self._after:
            return None
        # The next in line is loaded only now. While it loads, one further back may read already.
        return next((model for model in fallbacks if model.is_available(self._probes)), None)
