"""A daemon thread that works until stopped, reports its progress, and never fails silently.

Knows threads and how to wait for a database. Does not know what the work is.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

from bibwatch.backoff import pause
from bibwatch.errors import StoreError

log = structlog.get_logger()
T = TypeVar("T")

_LOG_EVERY = 20  # database attempts per log line: at most ten minutes apart


class Loop(ABC):
    """Work done in its own thread. Stop it by setting `stop`, then join it."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        self.name = name
        self.stop = stop
        self.heartbeats = 0  # grows with every step of progress
        self.failure: BaseException | None = None
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the work."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread to end; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def extend_deadline(self, seconds: float) -> None:
        """Allow the next `seconds` to pass without a heartbeat."""
        self._deadline = time.monotonic() + seconds

    @property
    def has_extended_deadline(self) -> bool:
        """Whether no heartbeat is due yet."""
        return time.monotonic() < self._deadline

    def heartbeat(self) -> None:
        """Record progress."""
        self.heartbeats += 1

    def retry_until_stored(self, action: Callable[[], T]) -> T:
        """Retry a database action until it succeeds; return its result. Raises StoreError only after a stop."""
        retrying = Retrying(
            retry=retry_if_exception_type(StoreError),
            wait=lambda state: pause(state.attempt_number, first=0.5, longest=30),
            stop=stop_when_event_set(self.stop),
            sleep=sleep_using_event(self.stop),
            before_sleep=self._log_failure,
            reraise=True,
        )
        result = retrying(action)
        if retrying.statistics["attempt_number"] > 1:
            log.info("store.available", loop=self.name, waited_seconds=round(retrying.statistics["idle_for"], 1))
        return result

    def _log_failure(self, state: RetryCallState) -> None:
        self.heartbeat()  # waiting for the database is progress: the loop is not stuck
        if state.attempt_number % _LOG_EVERY == 1 and state.outcome is not None:
            log.error("store.unavailable", loop=self.name, error=str(state.outcome.exception()), retry="until it works")

    def _run(self) -> None:
        try:
            self.work()
        except StoreError as exc:
            log.warning("store.abandoned", loop=self.name, error=str(exc))
        except BaseException as exc:  # the daemon must end and report it
            self.failure = exc
            log.exception("loop.failed", loop=self.name)
        finally:
            self.ended()

    @abstractmethod
    def work(self) -> None:
        """Work until `stop` is set; call `heartbeat` at every step."""

    @abstractmethod
    def ended(self) -> None:
        """Clean up after the work has ended, normally or not."""
