"""The properties of errors, and the backoff after them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch import backoff, errors
from bibwatch.errors import BibwatchError, Blame, ModelError, ModelUnavailableError, PhotoError, Proof, Retry

# The properties the code decides by, spelt out: a change here changes what happens to photos.
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

# The tests that cover the handling of each.
_COVERED_BY = {
    "ModelUnreachableError": (
        "test_an_unreachable_server",
        "test_an_unknown_host_name",
        "test_a_server_without_tls",
    ),
    "ModelDisconnectedError": (
        "test_a_reply_that_breaks_off_is_an_error",
        "test_a_photo_that_breaks_connections_is_found_and_costs_nobody_anything_while_the_server_is_away",
    ),
    "ModelBusyError": (
        "test_many_refusals_lose_no_photo",
        "test_a_long_retry_after_is_not_waited_for",
        "test_retry_after_is_respected",
    ),
    "ModelTimeoutError": (
        "test_a_silent_or_dripping_server_times_out",
        "test_when_one_server_hangs_the_other_replies",
    ),
    "ModelFaultError": (
        "test_an_invalid_response_is_a_typed_error_on_one_line",
        "test_the_photo_that_a_server_fails_at_is_found_and_its_neighbours_cost_nothing",
    ),
    "ModelNotServedError": (
        "test_the_error_for_a_refused_key_names_its_file",
        "test_a_model_the_server_does_not_have",
        "test_a_reply_from_another_model_is_an_error",
    ),
    "ModelRejectedError": (
        "test_a_photo_rejected_by_one_server_is_sent_to_the_other",
        "test_a_refusal_costs_the_photo_an_attempt_if_the_probe_is_not_refused",
        "test_a_server_that_refuses_whatever_it_is_asked_costs_nothing",
    ),
    "ModelReplyError": ("test_a_reply_may_not_exceed_max_new_tokens",),
    "ModelTruncatedError": ("test_replies_that_were_cut_off_are_not_recorded",),
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
def test_proof_is_required_only_where_blame_is_unclear(kind: type[ModelError]) -> None:
    assert (kind.blame is Blame.UNCLEAR) == bool(kind.proof)


def test_an_error_is_an_outage_only_if_the_model_is_unavailable() -> None:
    """A refusal is not: the server is up."""
    unavailable = {ModelUnavailableError, *all_below(ModelUnavailableError)}
    assert {kind for kind in (ModelError, *all_below(ModelError)) if kind("").is_outage} == unavailable  # type: ignore[attr-defined]


def test_the_handling_of_each_error_is_covered_by_a_test() -> None:
    """Except for the two base classes."""
    assert _COVERED_BY.keys() == _MODEL.keys() - {"ModelError", "ModelUnavailableError"}
    tests = "\n".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for names in _COVERED_BY.values() for name in names if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("kind", list(all_below(BibwatchError)))
def test_every_error_has_a_docstring_of_its_own(kind: type[BibwatchError]) -> None:
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
    assert (breaker.failures, breaker.is_due) == (0, False)  # the request was sent before the pause
    clock = 162.0
    assert breaker.is_due
