"""Things made once for all who want the same."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch.runtimes.transformers.sharing import Shared


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30))
def test_a_thing_lives_from_the_first_to_the_last_who_holds_it(steps: list[tuple[str, bool]]) -> None:
    shared: Shared[object] = Shared()
    holders: Counter[str] = Counter()
    things: dict[str, object] = {}
    for key, takes in steps:
        if takes:
            thing = shared.acquire(key, object)
            assert thing is things.setdefault(key, thing)
            holders[key] += 1
        elif holders[key]:
            holders[key] -= 1
            last = shared.release(key)
            assert last is (None if holders[key] else things.pop(key))


def test_what_cannot_be_made_is_not_kept() -> None:
    shared: Shared[int] = Shared()
    with pytest.raises(ZeroDivisionError):
        shared.acquire("a", lambda: 1 // 0)
    assert shared.acquire("a", lambda: 1) == 1


def test_threads_that_ask_at_once_get_the_same() -> None:
    shared: Shared[object] = Shared()
    together = Barrier(8)

    def take(_: int) -> object:
        together.wait()
        return shared.acquire("a", object)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(map(id, list(threads.map(take, range(8)))))) == 1
    assert [shared.release("a") is None for _ in range(8)] == [True] * 7 + [False]
