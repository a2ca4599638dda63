"""The metric against cases counted by hand, and laws that hold for all photos."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch import evaluation
from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.evaluation import Estimate, Mark, ReadPhoto, Score, judge_photos, mark, quality, score, summarize
from bibwatch.judging import Race, Rules, judge, judge_race
from bibwatch.labels import Label, LabelledPhoto

RULES = Rules()
BIBS = st.text("12", min_size=1, max_size=2)
LABELS = st.builds(Label, BIBS, st.lists(st.text("12?", min_size=1, max_size=2), max_size=2).map(tuple))


@st.composite
def labelled(draw: st.DrawFn) -> LabelledPhoto:
    """Make labels, extras and notes of few characters, so that they collide."""
    labels = draw(st.lists(LABELS, max_size=4, unique_by=lambda label: label.bib))
    return LabelledPhoto("a.jpg", Path("a.jpg"), tuple(labels), draw(st.frozensets(BIBS, max_size=2)))


def photo(*bibs: str, extras: str = "", notes: dict[str, str] | None = None, race: str = "") -> LabelledPhoto:
    labels = tuple(Label(bib, tuple((notes or {}).get(bib, "").split())) for bib in bibs)
    return LabelledPhoto("a.jpg", Path("a.jpg"), labels, frozenset(extras.split()), race)


def seen(text: str, score: float = 0.99, box: Box | None = None) -> Candidate:
    return Candidate(text, score, box, source=Source.LINE)


def read(known: LabelledPhoto, *candidates: Candidate, error: str | None = None) -> ReadPhoto:
    return ReadPhoto(known, candidates, error)


# By hand


@pytest.mark.parametrize(
    ("known", "bibs", "expected"),
    [
        (photo("12", "0042"), "12 0042", Score(2, 0, 2)),
        (photo("12", "0042"), "12 42", Score(1, 1, 2)),
        (photo("12"), "12 12", Score(1, 0, 1)),
        (photo("M10"), "m10", Score(1, 0, 1)),
        (photo("12"), "", Score(0, 0, 1)),
        (photo(), "12", Score(0, 1, 0)),
        (photo("12", extras="13"), "13", Score(0, 0, 1)),
        (photo("12", extras="13"), "12 13 14", Score(1, 1, 1)),
        (photo("359", notes={"359": "3594"}), "3594", Score(1, 0, 1)),
        (photo("359", notes={"359": "3594"}), "359 3594", Score(1, 0, 1)),
        (photo("3521", notes={"3521": "352?"}), "3520 3527", Score(1, 0, 1)),
        (photo("764", "3764", notes={"764": "3764"}), "3764", Score(1, 0, 2)),
        (photo("764", "3764", notes={"764": "3764"}), "764 3764", Score(2, 0, 2)),
    ],
)
def test_a_photo_is_scored(known: LabelledPhoto, bibs: str, expected: Score) -> None:
    assert score(known, bibs.split()) == expected


def test_precision_recall_and_f() -> None:
    found = Score(right=6, wrong=2, labelled=10)
    assert (found.precision, found.recall) == (0.75, 0.6)
    assert found.f == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    nothing = Score()
    assert (nothing.precision, nothing.recall, nothing.f) == (None, None, None)
    assert (Score(0, 0, 3).precision, Score(0, 0, 3).recall, Score(0, 0, 3).f) == (None, 0, 0)


def test_the_summary_of_three_photos() -> None:
    photos = [
        read(photo("101", "102", "103"), seen("101"), seen("102", 0.9), seen("103", 0.2), seen("555", 0.91)),
        read(photo("104"), seen("105")),
        read(photo("106"), error="undecodable"),
    ]
    total = summarize(judge_photos(photos, Race(), RULES))
    assert (total.photos, total.failed) == (3, 1)
    assert total.all.score == Score(right=2, wrong=2, labelled=5)
    assert total.accepted.score == Score(right=1, wrong=1, labelled=5)
    assert total.candidate_recall == 3 / 5  # 103 was seen, though not read
    assert total.reviews == 2
    assert total.reviews_per_photo == 2 / 3


def test_a_candidate_counts_by_any_of_its_texts() -> None:
    candidate = Candidate("l01", 0.1, alternatives=("101",))
    assert summarize(judge_photos([read(photo("101"), candidate)], Race(), RULES)).candidate_recall == 1


def test_the_sweep_judges_anew_and_keeps_what_other_rules_forbid() -> None:
    photos = [read(photo("101", "102", "2019"), seen("101"), seen("102", 0.91), seen("2019"))]
    found = {each.accept_at: each for each in evaluation.sweep(photos, Race(accept_at=0.92), RULES)}
    assert 0.92 in found
    assert found[0.9].accepted == Score(2, 0, 3)  # 2019 may be a year
    assert found[0.9].reviews == 1
    assert found[0.92].accepted == Score(1, 0, 3)
    assert found[0.999].accepted == Score(0, 0, 3)
    assert found[0.999].reviews == 3


def test_the_reliability_table() -> None:
    known = photo("101", "102", extras="104")
    photos = [read(known, seen("101", 0.96), seen("102", 0.98), seen("103", 0.97), seen("104", 0.97), seen("105", 1.0))]
    middle, last = evaluation.reliability(judge_photos(photos, Race(), RULES))
    assert (middle.low, middle.high, middle.readings) == (0.95, 0.99, 3)  # without 104, which is not labelled
    assert middle.mean_probability == pytest.approx(0.97)
    assert middle.share_right == pytest.approx(2 / 3)
    assert (last.low, last.high, last.readings, last.share_right) == (0.99, 1, 1, 0)


def test_misses_name_what_was_seen_there() -> None:
    box = Box(0, 0, 10, 10)
    known = LabelledPhoto("a.jpg", Path("a.jpg"), (Label("1442", box=box), Label("777"), Label("1443")))
    candidates = (
        seen("1443"),
        seen("FINISH", 0.9, Box(50, 0, 90, 9)),
        seen("XX", 0.9, box),
        seen("1442", 0.3, Box(90, 0, 99, 9)),
    )
    one, other = evaluation.misses(judge_photos([read(known, *candidates)], Race(), RULES))
    assert (one.label.bib, other.label.bib) == ("1442", "777")
    assert [near.candidate.text for near in one.nearest] == ["1442", "XX"]
    assert one.nearest[0].reasons == ("confidence 0.300 is below 0.85",)
    assert other.nearest == ()


def test_wrong_readings_come_with_the_label_they_are_like_accepted_ones_first() -> None:
    photos = [read(photo("1442", "900"), seen("555", 0.9), seen("442", 0.96))]
    one, other = evaluation.wrong_readings(judge_photos(photos, Race(), RULES))
    assert (one.reading.bib, one.nearest) == ("442", "1442")
    assert (other.reading.bib, other.nearest) == ("555", None)


def test_each_race_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def recorded(photos: list[tuple[Candidate, ...]], race: Race, rules: Rules) -> object:
        asked.append([candidates[0].text for candidates in photos])
        return judge_race(photos, race, rules)

    monkeypatch.setattr(evaluation, "judge_race", recorded)
    photos = [read(photo(race=race), seen(bib)) for race, bib in (("a", "11"), ("b", "22"), ("a", "33"))]
    judged = judge_photos(photos, Race(), RULES)
    assert asked == [["11", "33"], ["22"]]
    assert [each.readings[0].bib for each in judged] == ["11", "22", "33"]
    assert {race: len(found) for race, found in evaluation.by_race(judged).items()} == {"a": 2, "b": 1}


def test_judging_a_race_is_judging_its_photos() -> None:
    race = Race(forms=(re.compile(r"\d{3}"),))
    photos = [(seen("123"), seen("4")), (), (seen("567", 0.2),)]
    assert [judged.readings for judged in judge_race(photos, race, RULES)] == [
        judge(candidates, race, RULES) for candidates in photos
    ]


# Laws


@given(labelled(), st.lists(BIBS, max_size=6))
def test_what_is_counted_is_there(known: LabelledPhoto, bibs: list[str]) -> None:
    marks = mark(known, bibs)
    found = score(known, bibs)
    assert set(marks) == set(bibs)
    assert found.right <= min(len(known.labels), len(marks))
    assert found.right + found.wrong <= len(marks)
    for bib, worth in marks.items():
        is_known = bib in known.extras or any(label.accepts(bib) for label in known.labels)
        assert (worth is Mark.WRONG) is not is_known
    for label in known.labels:
        assert marks.get(label.bib, Mark.RIGHT) is Mark.RIGHT
    assert score(known, reversed(bibs)).wrong == found.wrong


@given(labelled())
def test_reading_the_labels_is_perfect(known: LabelledPhoto) -> None:
    assert score(known, [label.bib for label in known.labels]) == Score(len(known.labels), 0, len(known.labels))


@given(labelled(), st.lists(BIBS, max_size=5))
def test_what_is_labelled_and_not_right_is_missed(known: LabelledPhoto, bibs: list[str]) -> None:
    race = Race(forms=(re.compile(r"\d+"),))
    judged = judge_photos([read(known, *map(seen, bibs))], race, RULES)
    found = summarize(judged)
    assert len(evaluation.misses(judged)) == found.all.score.labelled - found.all.score.right
    assert len(evaluation.wrong_readings(judged)) == found.all.score.wrong
    assert found.accepted.score.right <= found.all.score.right <= found.found
    assert sum(each.readings for each in evaluation.reliability(judged)) >= found.all.score.right


SCORES = st.builds(Score, st.integers(0, 3), st.integers(0, 3), st.integers(3, 6))


@given(st.lists(SCORES, min_size=1, max_size=12), st.integers())
def test_intervals(scores: list[Score], seed: int) -> None:
    found = quality(scores, seed)
    assert found.score == sum(scores, Score())
    assert found == quality(scores, seed), "one seed, one result"
    for estimate in (found.precision, found.recall, found.f):
        if estimate.low is not None and estimate.high is not None:
            assert 0 <= estimate.low <= estimate.high <= 1


@given(SCORES, st.integers(1, 20))
def test_photos_that_are_all_alike_leave_no_doubt(each: Score, number: int) -> None:
    found = quality([each] * number)
    assert found.recall == Estimate(each.recall, each.recall, each.recall)
    assert found.precision == Estimate(each.precision, each.precision, each.precision)


def test_the_interval_of_a_share_is_about_what_theory_says() -> None:
    """80 of 100 right: the standard error is .04, and 1.96 of it on either side."""
    found = quality([Score(1, 0, 1)] * 80 + [Score(0, 1, 1)] * 20)
    assert found.precision.low == pytest.approx(0.72, abs=0.02)
    assert found.precision.high == pytest.approx(0.88, abs=0.02)


def test_no_photos_have_no_figures() -> None:
    nothing = Estimate(None, None, None)
    assert quality([]) == evaluation.Quality(Score(), nothing, nothing, nothing)
