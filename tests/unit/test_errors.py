"""The facts that errors carry, and how long to wait after them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch import backoff, errors
from bibwatch.errors import BibwatchError, Blame, ModelError, PhotoError, Proof, Retry

# What the code decides by, spelt out: a change here is a change of what becomes of photos.
_MODEL = {
    "ModelError": (Retry.NEVER, Blame.PHOTO, Proof.NONE),
    "ModelRejectedError": (Retry.ELSEWHERE, Blame.UNCLEAR, Proof.PROBE),
    "ModelUnavailableError": (Retry.SOON, Blame.SERVER, Proof.NONE),
    "ModelUnreachableError": (Retry.SOON, Blame.SERVER, Proof.NONE),
    "ModelDisconnectedError": (Retry.SOON, Blame.UNCLEAR, Proof.ALONE | Proof.PROBE),
    "ModelBusyError": (Retry.LATER, Blame.SERVER, Proof.NONE),
    "ModelNotServedError": (Retry.ELSEWHERE, Blame.SERVER, Proof.NONE),
    "ModelFaultError": (Retry.SOON, Blame.UNCLEAR, Proof.ALONE),
    "ModelTimeoutError": (Retry.ELSEWHERE, Blame.UNCLEAR, Proof.ALONE),
    "ModelReplyError": (Retry.NEVER, Blame.PHOTO, Proof.NONE),
    "ModelTruncatedError": (Retry.NEVER, Blame.PHOTO, Proof.NONE),
}


def all_below(kind: type[BibwatchError]) -> Iterator[type[BibwatchError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from all_below(each)


def test_whose_fault_an_error_is_and_whether_to_retry() -> None:
    kinds = [ModelError, *all_below(ModelError)]
    assert {kind.__name__: (kind.retry, kind.blame, kind.proof) for kind in kinds} == _MODEL  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [ModelError, *all_below(ModelError)])
def test_proof_is_asked_for_where_blame_is_unclear_and_nowhere_else(kind: type[ModelError]) -> None:
    assert (kind.blame is Blame.UNCLEAR) == bool(kind.proof)


@pytest.mark.parametrize("kind", list(all_below(BibwatchError)))
def test_every_error_says_in_a_sentence_what_it_is(kind: type[BibwatchError]) -> None:
    assert kind.__doc__
    assert kind.__doc__ != kind.__base__.__doc__
    assert isinstance(kind.retry, Retry)
    assert isinstance(kind.blame, Blame)
    assert not issubclass(kind, PhotoError) or kind is PhotoError or kind.state


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(10, 1000))
def test_pauses_grow_up_to_the_longest_and_never_vanish(failures: int, first: float, longest: float) -> None:
    pause = backoff.pause(failures, first=first, longest=longest)
    full = min(longest, first * 2.0 ** min(failures - 1, 30))
    assert full / 2 <= pause <= full


def test_a_breaker_waits_as_long_as_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(backoff.time, "monotonic", lambda: clock)
    breaker = backoff.CircuitBreaker()
    assert breaker.is_due
    breaker.fail(first=1, longest=30, at_least=60)
    clock = 159.9
    assert (breaker.failures, breaker.is_due) == (1, False)
    clock = 160.0
    assert breaker.is_due
    breaker.fail(first=1, longest=30)
    assert (breaker.failures, breaker.is_due) == (2, False)
    breaker.succeed()
    assert (breaker.failures, breaker.is_due) == (0, True)
