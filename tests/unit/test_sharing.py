"""Values that several users share."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch.runtimes.transformers.sharing import Shared


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30))
def test_a_value_lives_from_its_first_acquire_to_its_last_release(steps: list[tuple[str, bool]]) -> None:
    shared: Shared[object] = Shared()
    holders: Counter[str] = Counter()
    values: dict[str, object] = {}
    for key, takes in steps:
        if takes:
            value = shared.acquire(key, object)
            assert value is values.setdefault(key, value)
            holders[key] += 1
        elif holders[key]:
            holders[key] -= 1
            last = shared.release(key)
            assert last is (None if holders[key] else values.pop(key))


def test_a_value_that_cannot_be_created_is_not_kept() -> None:
    shared: Shared[int] = Shared()
    with pytest.raises(ZeroDivisionError):
        shared.acquire("a", lambda: 1 // 0)
    assert shared.acquire("a", lambda: 1) == 1


def test_simultaneous_threads_share_one_value() -> None:
    shared: Shared[object] = Shared()
    together = Barrier(8)

    def take(_: int) -> object:
        together.wait()
        return shared.acquire("a", object)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(map(id, list(threads.map(take, range(8)))))) == 1
    assert [shared.release("a") is None for _ in range(8)] == [True] * 7 + [False]
