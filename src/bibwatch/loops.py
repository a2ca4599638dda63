"""A thread of the daemon: it works until it is told to stop, shows that it makes progress, and never dies unseen.

Knows threads and the database's bad moments. Does not know what the work is.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from bibwatch.errors import StoreError

log = structlog.get_logger()
T = TypeVar("T")

_TELL_EVERY = 20  # tries of the database between two lines about it: some ten minutes


class Loop(ABC):
    """Work in a thread of its own. Made, started, told to stop, joined."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        self.name = name
        self.stop = stop
        self.heartbeats = 0  # grows with every step of progress
        self.failure: BaseException | None = None
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin the work."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the work to end; tell whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def extend_deadline(self, seconds: float) -> None:
        """Ask for patience: what comes now may take so long without a heartbeat."""
        self._deadline = time.monotonic() + seconds

    @property
    def has_extended_deadline(self) -> bool:
        """Whether no heartbeat is to be expected now."""
        return time.monotonic() < self._deadline

    def heartbeat(self) -> None:
        """Show progress."""
        self.heartbeats += 1

    def retry_until_stored(self, action: Callable[[], T]) -> T:
        """Do a database action, again and again until the database takes it. Raises StoreError only on stop."""
        retrying = Retrying(
            retry=retry_if_exception_type(StoreError),
            wait=wait_exponential(multiplier=0.5, max=30),
            stop=stop_when_event_set(self.stop),
            sleep=sleep_using_event(self.stop),
            before_sleep=self._trouble,
            reraise=True,
        )
        result = retrying(action)
        if retrying.statistics["attempt_number"] > 1:
            log.info("store.available", loop=self.name, waited_seconds=round(retrying.statistics["idle_for"], 1))
        return result

    def _trouble(self, state: RetryCallState) -> None:
        self.heartbeat()  # waiting for the database is what this loop should do now
        if state.attempt_number % _TELL_EVERY == 1 and state.outcome is not None:
            log.error("store.unavailable", loop=self.name, error=str(state.outcome.exception()), retry="until it works")

    def _run(self) -> None:
        try:
            self.work()
        except StoreError as exc:
            log.warning("store.abandoned", loop=self.name, error=str(exc))
        except BaseException as exc:  # whatever it is, the daemon must end and say so
            self.failure = exc
            log.exception("loop.failed", loop=self.name)
        finally:
            self.ended()

    @abstractmethod
    def work(self) -> None:
        """Work until `stop` is set, with a `heartbeat` at every step."""

    @abstractmethod
    def ended(self) -> None:
        """Tidy up when the work has ended, however it did."""
