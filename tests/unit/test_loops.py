"""A loop reports progress, retries until the database works, and never fails silently."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from bibwatch.daemon import Feeder
from bibwatch.errors import StoreError
from bibwatch.loops import Loop


class Once(Loop):
    """Does one piece of work."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__("once", threading.Event())
        self.action = action
        self.tidy = False

    def work(self) -> None:
        self.retry_until_stored(self.action)

    def ended(self) -> None:
        self.tidy = True


def fails(times: int, error: Exception) -> Callable[[], str]:
    """Return an action that fails `times` times, then succeeds."""
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


def test_retrying_waits_for_the_database() -> None:
    loop = Once(fails(1, StoreError("locked")))
    assert loop.retry_until_stored(loop.action) == "done"
    assert loop.heartbeats == 1


def test_retrying_ends_on_a_stop() -> None:
    """A database that never comes back does not keep the daemon from stopping."""
    loop = Once(fails(1000, StoreError("gone")))
    loop.stop.set()
    with pytest.raises(StoreError):
        loop.retry_until_stored(loop.action)


def test_other_errors_are_not_retried() -> None:
    loop = Once(fails(1, ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        loop.retry_until_stored(loop.action)


def test_a_failure_is_recorded_and_cleanup_runs() -> None:
    loop = Once(fails(1, ValueError("a bug")))
    loop.start()
    assert loop.join(10)
    assert isinstance(loop.failure, ValueError)
    assert loop.tidy


def test_the_watchdog_is_fed_only_when_every_loop_has_progressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hung loop is enough to starve it."""
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    loops: list[Loop] = [Once(str), Once(str)]
    feeder = Feeder(loops)
    assert feeder.feed()
    assert not feeder.feed()
    loops[0].heartbeat()
    assert not feeder.feed()
    loops[1].heartbeat()
    assert feeder.feed()


def test_a_loop_with_an_extended_deadline_does_not_starve_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may take minutes for a batch; other loops may not."""
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    loops: list[Loop] = [Once(str), Once(str)]
    feeder = Feeder(loops)
    assert feeder.feed()
    loops[0].extend_deadline(3600)
    assert not feeder.feed()
    loops[1].heartbeat()
    assert feeder.feed()
    loops[0].extend_deadline(0)
    loops[1].heartbeat()
    assert not feeder.feed()


def test_without_a_watchdog_nothing_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")  # meant for another process
    assert not Feeder([]).feed()
