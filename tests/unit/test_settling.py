"""When a file counts as complete, by clocks of our own."""

from __future__ import annotations

import pytest

from bibwatch.files import Stat
from bibwatch.ingest.settling import Settling

SECONDS = 5.0
START = 1_700_000_000.0


class Clocks:
    """The wall clock, which people set, and the monotonic one, which they cannot."""

    def __init__(self) -> None:
        self.wall = START
        self.monotonic = 100.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def settling(self, *, trust_ctime: bool = True, seconds: float = SECONDS) -> Settling:
        return Settling(seconds, trust_ctime=trust_ctime, wall=lambda: self.wall, monotonic=lambda: self.monotonic)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def stat(size: int = 1, *, ctime: float = START, inode: int = 1, mtime: float = START) -> Stat:
    return Stat(inode, size, int(mtime * 1e9), int(ctime * 1e9))


def test_a_new_file_waits_for_the_settle_time(clocks: Clocks) -> None:
    settling = clocks.settling()
    assert not settling.is_settled("x", stat(), closed=False)
    clocks.pass_(4.9)
    assert not settling.is_settled("x", stat(), closed=False)
    clocks.pass_(0.1)
    assert settling.is_settled("x", stat(), closed=False)


def test_a_closed_file_need_not_wait(clocks: Clocks) -> None:
    assert clocks.settling(trust_ctime=False).is_settled("x", stat(), closed=True)


def test_a_file_closed_while_it_settles_need_not_wait_longer(clocks: Clocks) -> None:
    settling = clocks.settling()
    assert not settling.is_settled("x", stat(), closed=False)
    clocks.pass_(0.1)
    assert settling.is_settled("x", stat(2), closed=True)


def test_an_old_file_need_not_wait(clocks: Clocks) -> None:
    """It was there before we came: its change time says how long it has been quiet."""
    assert clocks.settling().is_settled("x", stat(ctime=START - 5), closed=False)
    assert not clocks.settling().is_settled("y", stat(ctime=START - 4.9), closed=False)


def test_an_old_mtime_says_nothing(clocks: Clocks) -> None:
    """Copies keep the time of the photo."""
    assert not clocks.settling().is_settled("x", stat(mtime=START - 86_400), closed=False)


def test_a_polled_mount_does_not_trust_ctime(clocks: Clocks) -> None:
    """It comes from the server's clock."""
    settling = clocks.settling(trust_ctime=False)
    old = stat(ctime=START - 86_400)
    assert not settling.is_settled("x", old, closed=False)
    clocks.pass_(5)
    assert settling.is_settled("x", old, closed=False)


def test_trust_can_end_while_a_file_settles(clocks: Clocks) -> None:
    settling = clocks.settling()
    settling.trust_ctime = False
    assert not settling.is_settled("x", stat(ctime=START - 86_400), closed=False)


@pytest.mark.parametrize("seconds", [-3600, -1_000_000_000])
def test_a_clock_set_back_only_costs_the_settle_time(clocks: Clocks, seconds: float) -> None:
    settling = clocks.settling()
    assert not settling.is_settled("x", stat(), closed=False)
    clocks.wall += seconds
    assert not settling.is_settled("x", stat(), closed=False)
    clocks.monotonic += 5
    assert settling.is_settled("x", stat(), closed=False)


def test_a_change_time_in_the_future_only_costs_the_settle_time(clocks: Clocks) -> None:
    settling = clocks.settling()
    future = stat(ctime=START + 86_400)
    assert not settling.is_settled("x", future, closed=False)
    clocks.pass_(5)
    assert settling.is_settled("x", future, closed=False)


@pytest.mark.parametrize(
    "changed",
    [stat(2), stat(inode=2), stat(ctime=START + 4), stat(mtime=START - 1)],
    ids=["size", "inode", "ctime", "mtime"],
)
def test_a_change_starts_the_wait_again(clocks: Clocks, changed: Stat) -> None:
    settling = clocks.settling(trust_ctime=False)
    assert not settling.is_settled("x", stat(), closed=False)
    clocks.pass_(4)
    assert not settling.is_settled("x", changed, closed=False)
    clocks.pass_(4)
    assert not settling.is_settled("x", changed, closed=False)
    clocks.pass_(1)
    assert settling.is_settled("x", changed, closed=False)


def test_a_slow_writer_never_settles_until_it_stops(clocks: Clocks) -> None:
    settling = clocks.settling()
    for size in range(1, 50):
        assert not settling.is_settled("x", stat(size, ctime=clocks.wall), closed=False)
        clocks.pass_(4)
    assert not settling.is_settled("x", stat(50, ctime=clocks.wall), closed=False)
    clocks.pass_(5)
    assert settling.is_settled("x", stat(50, ctime=clocks.wall - 5), closed=False)


def test_files_settle_independently(clocks: Clocks) -> None:
    settling = clocks.settling()
    settling.is_settled("x", stat(), closed=False)
    clocks.pass_(4)
    assert not settling.is_settled("y", stat(inode=2, ctime=START + 4), closed=False)
    clocks.pass_(1)
    assert settling.is_settled("x", stat(), closed=False)
    assert not settling.is_settled("y", stat(inode=2, ctime=START + 4), closed=False)


def test_no_settle_time_means_at_once(clocks: Clocks) -> None:
    assert clocks.settling(trust_ctime=False, seconds=0).is_settled("x", stat(), closed=False)


def test_what_has_settled_or_gone_is_not_kept(clocks: Clocks) -> None:
    settling = clocks.settling()
    for name in "abc":
        settling.is_settled(name, stat(), closed=False)
    assert len(settling) == 3
    assert settling.is_settled("a", stat(), closed=True)
    settling.forget(["b", "never seen"])
    assert len(settling) == 1


def test_a_forgotten_file_starts_over(clocks: Clocks) -> None:
    settling = clocks.settling(trust_ctime=False)
    settling.is_settled("x", stat(), closed=False)
    clocks.pass_(4)
    settling.forget(["x"])
    settling.is_settled("x", stat(), closed=False)
    clocks.pass_(4)
    assert not settling.is_settled("x", stat(), closed=False)
