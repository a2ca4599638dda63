"""The start list: what is on it, what is near to it, and what that means for a reading."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.domain.entries import Difference, EntryMatch, Near
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.judging import Judge, Race, StartList, judge
from bibwatch.judging.start_list import MOST_NEAR, compare

_HERE, _AROUND, _FAR = Box(100, 100, 200, 150), Box(80, 95, 220, 155), Box(400, 100, 500, 150)

# Few characters, so that numbers meet; letters that look like digits, and some that do not.
_BIBS = st.from_regex(r"[ABH]{0,2}[01678]{1,5}", fullmatch=True)
_LISTS = st.lists(_BIBS, max_size=30)


# Comparing two numbers


@pytest.mark.parametrize(
    ("read", "entry", "difference", "detail"),
    [
        *((read, "12345", Difference.HIDDEN_END, "1") for read in ("1234", "2345")),
        *((read, "12345", Difference.HIDDEN_END, "3") for read in ("12", "45")),
        ("D80", "D80437", Difference.HIDDEN_END, "3"),
        ("437", "D80437", Difference.HIDDEN_END, "3"),
        ("12845", "12345", Difference.CONFUSION, "8/3"),
        ("17", "11", Difference.CONFUSION, "7/1"),
        ("MI0151", "M10151", Difference.CONFUSION, "I/1"),
        ("81198", "B1198", Difference.LOST_PREFIX, ""),  # though 8 and B look alike
        ("12945", "12345", Difference.SUBSTITUTION, "9/3"),
        ("N10151", "M10151", Difference.SUBSTITUTION, "N/M"),
        ("13245", "12345", Difference.TRANSPOSITION, ""),
        ("80437", "D80437", Difference.LOST_PREFIX, ""),
        ("81198", "H1198", Difference.LOST_PREFIX, ""),
        ("B123", "AB123", Difference.LOST_PREFIX, ""),
        ("123", "AB123", Difference.LOST_PREFIX, ""),
        ("84123", "AB123", Difference.LOST_PREFIX, ""),
        ("D80437", "80437", Difference.EXTRA_PREFIX, ""),
        ("43", "0042", Difference.SUBSTITUTION, "3/2"),
        ("042", "42", Difference.LEADING_ZEROS, ""),
    ],
)
def test_one_mistake_has_a_name(read: str, entry: str, difference: Difference, detail: str) -> None:
    assert compare(read, entry) == Near(entry, difference, detail)


@pytest.mark.parametrize(
    ("read", "entry"),
    [("1", "12345"), ("234", "12345"), ("99945", "12345"), ("54321", "12345"), ("123456", "12345"), ("B1198", "H119")],
)
def test_more_than_one_mistake_is_none(read: str, entry: str) -> None:
    assert compare(read, entry) is None


# Looking up a number


@pytest.mark.parametrize(
    ("read", "entries", "entry"),
    [
        ("42", ["42"], "42"),
        ("42", ["0042"], "0042"),
        ("0042", ["42"], "42"),
        ("S41", ["S0041"], "S0041"),
        ("d 80437", ["D80437"], "D80437"),
        ("0042", ["42", "0042"], "0042"),
        ("0", ["000"], "000"),
    ],
)
def test_leading_zeros_match_both_ways(read: str, entries: list[str], entry: str) -> None:
    match = StartList(entries).match(read)
    assert (match.kind, match.entry, match.near) == (EntryMatch.EXACT, entry, ())


def test_a_number_that_may_be_either_of_two_entries_is_not_exact() -> None:
    match = StartList(["42", "0042"]).match("042")
    assert (match.kind, [near.entry for near in match.near]) == (EntryMatch.NEAR, ["0042", "42"])


def test_the_likeliest_mistake_comes_first() -> None:
    entries = ["D80437", "80431", "804371", "84037", "80438"]
    near = StartList(entries).match("80437").near
    assert [each.entry for each in near] == ["D80437", "80431", "804371", "84037", "80438"]
    assert [each.difference for each in near] == [
        Difference.LOST_PREFIX,
        Difference.CONFUSION,
        Difference.HIDDEN_END,
        Difference.TRANSPOSITION,
        Difference.SUBSTITUTION,
    ]


@given(_BIBS, _LISTS)
def test_a_look_up_finds_what_a_scan_of_the_list_finds(read: str, bibs: list[str]) -> None:
    """The index leaves nothing out and adds nothing: `compare` with each entry, by hand, gives the same."""
    match = StartList(bibs).match(read)
    every = [near for bib in set(bibs) if (near := compare(read, bib))]
    same = [near for near in every if near.difference is Difference.LEADING_ZEROS]
    if read in bibs or len(same) == 1:
        assert (match.kind, match.near) == (EntryMatch.EXACT, ())
        assert match.entry == (read if read in bibs else same[0].entry)
        return
    ranks = list(Difference)
    every.sort(
        key=lambda near: (
            ranks.index(near.difference),
            int(near.detail) if near.difference is Difference.HIDDEN_END else 0,
            near.entry,
        )
    )
    assert list(match.near) == every[:MOST_NEAR]
    assert match.kind is (EntryMatch.NEAR if every else EntryMatch.UNKNOWN)
    assert match.entry == (every[0].entry if every else None)


@given(_BIBS, _LISTS)
def test_what_a_number_may_be_the_rest_of_is_what_a_scan_finds(bib: str, bibs: list[str]) -> None:
    found = StartList(bibs).could_be_rest_of(bib)
    scan = {entry for entry in bibs if is_rest(bib, entry)}
    assert set(found) <= scan
    assert len(found) == min(len(scan), MOST_NEAR)
    assert list(map(len, found)) == sorted(map(len, found))


def is_rest(bib: str, entry: str) -> bool:
    """Return whether a bib is what begins or ends an entry, as printed or without leading zeros."""
    pairs = [(one, other) for one in (bib, number(bib)) for other in (entry, number(entry))]
    return any(
        len(one) >= 2 and number(one) != number(other) and (other.startswith(one) or other.endswith(one))
        for one, other in pairs
    )


def number(bib: str) -> str:
    return re.sub(r"^(\D*)0+(?=\d)", r"\1", bib)


def same(one: str, other: str) -> bool:
    near = compare(one, other)
    return near is not None and near.difference is Difference.LEADING_ZEROS


@given(st.lists(_BIBS, min_size=1), st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter(bibs: list[str], chance: random.Random) -> None:
    other = bibs + bibs[:2]
    chance.shuffle(other)
    assert StartList(other).fingerprint == StartList(bibs).fingerprint
    assert len(StartList(other)) == len(set(bibs))


@given(st.lists(_BIBS, min_size=1))
def test_every_bib_of_a_list_is_of_its_shape(bibs: list[str]) -> None:
    shapes = StartList(bibs).shapes
    assert all(any(shape.fullmatch(bib) for shape in shapes) for bib in bibs)


def test_a_look_up_does_not_depend_on_the_length_of_the_list() -> None:
    """The entries that are compared are counted, not the time."""
    chance = random.Random(7)
    bibs = [f"{chance.choice('ABCD')}{chance.randrange(100_000):05}" for _ in range(50_000)]
    entries = StartList(bibs)
    for read in ("12345", "X12345", "A1", "12", "A12345"):
        assert len(set(entries._possible(read))) < 500


# Judging with a list


def seen(text: str, box: Box | None = None, score: float = 0.99, **evidence: Any) -> Candidate:
    return Candidate(text, score, box, **evidence)


def judged(*candidates: Candidate, entries: list[str]) -> dict[str, Reading]:
    race = Race(start_list=StartList(entries))
    return {reading.printed: reading for reading in judge(candidates, race)}


def reasons(reading: Reading) -> list[str]:
    return list(map(str, reading.reasons))


def test_what_is_on_the_list_is_accepted_and_the_rest_is_not() -> None:
    found = judged(seen("1234"), seen("4321"), seen("99999"), entries=["1234", "4327"])
    assert {bib: reading.verdict for bib, reading in found.items()} == {
        "1234": Verdict.ACCEPTED,
        "4321": Verdict.REVIEW,
        "99999": Verdict.REVIEW,
    }
    assert reasons(found["1234"]) == ["on the start list"]
    assert reasons(found["4321"]) == ["not on the start list; near 4327 (1/7)"]
    assert reasons(found["99999"]) == ["not on the start list"]
    assert [(each.entry, each.entry_match) for each in found.values()] == [
        ("1234", "exact"),
        ("4327", "near"),
        (None, "unknown"),
    ]


def test_a_near_number_stays_what_was_read() -> None:
    (reading,) = judged(seen("4321"), entries=["4327"]).values()
    assert (reading.bib, reading.read_as, reading.printed) == ("4321", "4321", "4321")


def test_leading_zeros_are_printed_as_on_the_list() -> None:
    (reading,) = judged(seen("42"), seen("0042", _FAR), entries=["0042"]).values()
    assert (reading.printed, reading.verdict) == ("0042", Verdict.ACCEPTED)


def test_without_a_list_nothing_is_said_of_it() -> None:
    (reading,) = judge([seen("1234")])
    assert (reading.entry, reading.entry_match, reading.near, reading.reasons) == (None, None, (), ())


def test_of_several_ways_to_take_a_text_the_one_on_the_list_counts() -> None:
    found = judged(seen("80437", alternatives=("D80437",)), entries=["D80437"])
    assert list(found) == ["D80437"]
    assert list(judged(seen("80437", alternatives=("D80437",)), entries=["E80437"])) == ["80437"]


@given(st.lists(_BIBS, min_size=1, max_size=5), st.lists(_BIBS, max_size=20))
def test_a_list_never_makes_a_number_out_of_nothing(texts: list[str], entries: list[str]) -> None:
    """Every reading is one of the texts, leading zeros aside; what is accepted is on the list and was without it."""
    candidates = [seen(text, Box(300 * place, 0, 300 * place + 100, 50)) for place, text in enumerate(texts)]
    plain = {reading.bib: reading for reading in judge(candidates)}
    found = judged(*candidates, entries=entries)
    for reading in found.values():
        assert reading.bib in texts
        assert same(reading.bib, reading.printed)
        if reading.verdict is Verdict.ACCEPTED:
            assert reading.printed in entries
            # A single digit is no bib without a list that has it, with or without zeros.
            assert reading.bib not in plain or plain[reading.bib].verdict is Verdict.ACCEPTED
    assert all(any(same(bib, other) for other in found) for bib in plain), "an unknown bib stays visible"


@pytest.mark.parametrize(
    ("others", "evidence", "verdict"),
    [
        ([], {}, Verdict.ACCEPTED),
        ([], {"edge_distance": 0.0}, Verdict.REVIEW),
        ([seen("X12345Y", _AROUND)], {}, Verdict.REVIEW),
        ([seen("X12345Y", _FAR)], {}, Verdict.ACCEPTED),
        ([seen("ANNA", _AROUND)], {}, Verdict.ACCEPTED),
    ],
)
def test_a_short_bib_that_may_be_the_rest_of_a_longer_one(
    others: list[Candidate], evidence: dict[str, Any], verdict: Verdict
) -> None:
    found = judged(seen("1234", _HERE, source=Source.VALUE, **evidence), *others, entries=["1234", "12345"])
    assert found["1234"].verdict is verdict
    said = "may be the rest of 12345 on the start list" in reasons(found["1234"])
    assert said is (verdict is Verdict.REVIEW)


def test_a_bib_much_shorter_than_those_it_may_be_the_rest_of_is_for_review() -> None:
    found = judged(seen("123", _HERE), entries=["123", "12345", "99123"])
    assert found["123"].verdict is Verdict.REVIEW
    assert judged(seen("123", _HERE), entries=["123", "45678"])["123"].verdict is Verdict.ACCEPTED


def test_the_list_is_part_of_the_judges_fingerprint() -> None:
    plain, one, other = (
        Judge(Race(start_list=entries)).fingerprint for entries in (None, StartList(["1"]), StartList(["2"]))
    )
    assert len({plain, one, other}) == 3
    assert Judge(Race(start_list=StartList(["1", "1"]))).fingerprint == one
    assert Judge(Race(start_list=StartList([]))).fingerprint != plain
