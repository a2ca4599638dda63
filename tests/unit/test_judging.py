"""Judging: which candidates are bibs, which of those are accepted, and why the others are not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Look, Source, normalized
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.judging import Judge, Race, Rules, judge
from bibwatch.judging.race import form

_MIDDLE = Box(100, 100, 200, 200)
_HERE, _NEAR, _FAR = Box(100, 100, 200, 150), Box(105, 102, 205, 152), Box(400, 100, 500, 150)


def seen(text: str = "1234", score: float = 0.99, box: Box | None = None, **evidence: Any) -> Candidate:
    return Candidate(text, score, box, **evidence)


def line(text: str = "1234", score: float = 0.99, **evidence: Any) -> Candidate:
    return seen(text, score, source=Source.LINE, **evidence)


def tile(text: str, score: float = 0.99, box: Box | None = None) -> Candidate:
    return seen(text, score, box, look=Look.TILE)


def second(text: str, about: str, score: float = 0.99, box: Box | None = _HERE) -> Candidate:
    return seen(text, score, box, look=Look.SECOND_MODEL, about=about, model="better")


def of(*patterns: str) -> Race:
    """A race with bibs of these forms."""
    return Race(forms=tuple(map(form, patterns)))


def bibs(*candidates: Candidate, race: Race | None = None, **rules: Any) -> list[str]:
    return [reading.bib for reading in judge(candidates, race, Rules(**rules))]


def verdicts(*candidates: Candidate, race: Race | None = None, **rules: Any) -> dict[str, str]:
    return {reading.bib: reading.verdict.value for reading in judge(candidates, race, Rules(**rules))}


def reasons(*candidates: Candidate, **rules: Any) -> dict[str, list[str]]:
    return {reading.bib: list(map(str, reading.reasons)) for reading in judge(candidates, rules=Rules(**rules))}


def rejections(*candidates: Candidate, race: Race | None = None) -> list[str | None]:
    return list(Judge(race or Race()).judge(candidates).rejections)


# The form of a bib


@pytest.mark.parametrize(
    ("text", "bib"),
    [
        *[(text, text) for text in ("256", "42", "0042", "00", "12345", "M10151", "F042", "2026")],
        *(("m10151", "M10151"), (" 1 2 3 4 ", "1234"), ("M 10151", "M10151"), ("12\u00a034\t5", "12345")),
        ("\uff11\uff12\uff13", "123"),  # full-width
    ],
)
def test_a_text_that_is_a_bib_as_a_whole(text: str, bib: str) -> None:
    (reading,) = judge([seen(text)])
    assert (reading.bib, reading.read_as) == (bib, text)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "7", "123456", "½¾", "FINISH", "Ä1234", "1234\u200b"),
        *("14:32", "1:02:03", "4.2", "1,234", "1234.", "12-34", "-42", "+42", "#1234", "№ 42"),
        *("RUN 2026", "2026 RUN", "10 KM", "10KM", "5K"),
        *("MM101", "M10", "M123456", "10151M"),
        *("\u0664\u0662", "\u096a\u0968", "1\u0664\u0662"),  # `WHERE bib = '42'` would not find it
    ],
)
def test_a_text_that_is_no_bib(text: str) -> None:
    assert bibs(seen(text), line(text)) == []
    assert rejections(seen(text)) == ["not of this race's form"]


def test_the_form_is_for_the_whole_text_in_capitals() -> None:
    assert bibs(*map(seen, ("ab-12", "AB-123", "xAB-12", "1234")), race=of(r"AB-\d\d")) == ["AB-12"]
    assert bibs(seen("ab12"), race=of(r"[a-z]+\d+")) == []


def test_one_form_of_two_is_still_for_the_whole_text() -> None:
    assert bibs(*map(seen, ("123", "A", "1", "AB")), race=of(r"\d|A")) == ["A", "1"]


def test_a_race_may_have_bibs_of_several_forms() -> None:
    race = of(r"[1-9]\d\d", r"T-\d")
    assert bibs(*map(seen, ("101", "t-7", "042", "T-77", "1")), race=race) == ["101", "T-7"]


def test_another_way_to_take_a_text_counts_where_it_is_no_bib_itself() -> None:
    labelled = seen("No. 42", alternatives=("NO", "42", "43"))
    (reading,) = judge([labelled])
    assert (reading.bib, reading.read_as) == ("42", "No. 42")
    assert bibs(seen("43", alternatives=("42",))) == ["43"]


# How sure


def test_a_sure_reading_in_the_middle_is_accepted() -> None:
    assert judge([line(box=_MIDDLE, edge_distance=0.3)]) == (
        Reading("1234", 0.99, Verdict.ACCEPTED, _MIDDLE, read_as="1234"),
    )


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.949, "review"), (0.95, "accepted"), (0.951, "accepted"), (1.0, "accepted")]
)
def test_an_unsure_reading_goes_to_review(score: float, verdict: str) -> None:
    (reading,) = judge([seen(score=score)])
    assert reading.verdict == verdict
    assert list(map(str, reading.reasons)) == (["probability 0.949 is below 0.95"] if verdict == "review" else [])


def test_the_race_says_how_sure_is_sure_enough() -> None:
    assert verdicts(seen(score=0.9), race=Race(accept_at=0.9)) == {"1234": "accepted"}
    assert verdicts(seen(score=0.99), race=Race(accept_at=1)) == {"1234": "review"}


@pytest.mark.parametrize(("score", "kept"), [(0.0, False), (0.699, False), (0.7, True), (1.0, True)])
def test_a_line_that_an_ocr_is_unsure_of_is_no_bib(score: float, *, kept: bool) -> None:
    assert bibs(line(score=score), min_confidence=0.7) == ["1234"] * kept


def test_a_value_of_a_reply_is_a_bib_however_unsure() -> None:
    """A model that replies was asked for bibs: what it names goes to review, and is not left out."""
    assert verdicts(seen(score=0.01)) == {"1234": "review"}
    assert rejections(seen(score=0.01), line(score=0.01)) == [None, "confidence 0.010 is below 0.85"]


@pytest.mark.parametrize(("score", "probability"), [(1.01, 1), (-0.1, 0)])
def test_a_probability_is_from_zero_to_one(score: float, probability: float) -> None:
    assert [reading.probability for reading in judge([seen(score=score)])] == [probability]


# What speaks against one


@pytest.mark.parametrize(
    ("bib", "verdict"),
    [
        *[(bib, "review") for bib in ("2026", "1999", "1900", "2099")],
        *[(bib, "accepted") for bib in ("2100", "1899", "202", "20261", "12026", "02026", "M2026", "0042")],
    ],
)
def test_a_number_that_may_be_a_year_goes_to_review(bib: str, verdict: str) -> None:
    assert verdicts(seen(bib)) == {bib: verdict}
    assert reasons(seen(bib)) == {bib: ["may be a year"] * (verdict == "review")}


@pytest.mark.parametrize(("bib", "verdict"), [("2026", "accepted"), ("1000", "review")])
def test_which_numbers_are_doubtful_can_be_set(bib: str, verdict: str) -> None:
    assert verdicts(seen(bib), doubtful="1000") == {bib: verdict}


@pytest.mark.parametrize(("distance", "verdict"), [(0.0, "review"), (0.01, "review"), (0.011, "accepted")])
def test_a_reading_at_the_edge_may_be_cut(distance: float, verdict: str) -> None:
    candidate = seen(box=_MIDDLE, edge_distance=distance)
    assert verdicts(candidate, edge=0.01) == {"1234": verdict}
    assert reasons(candidate, edge=0.01) == {"1234": ["cut by the frame"] * (verdict == "review")}


def test_a_box_that_touches_the_frame_is_at_its_edge_however_small_the_margin() -> None:
    assert verdicts(seen(box=_MIDDLE, edge_distance=0.0), edge=0) == {"1234": "review"}
    assert verdicts(seen(box=_MIDDLE, edge_distance=0.001), edge=0) == {"1234": "accepted"}


def test_a_bib_without_a_place_can_be_accepted() -> None:
    """A model that gives no boxes says nothing of edges."""
    assert judge([seen("0042")]) == (Reading("0042", 0.99, Verdict.ACCEPTED, read_as="0042"),)


@pytest.mark.parametrize(("whole", "near"), [(0.99, 0.97), (0.97, 0.99), (0.98, 0.98)])
def test_a_look_that_knows_the_place_tells_of_the_edge_for_one_that_does_not(whole: float, near: float) -> None:
    found = judge([seen(score=whole), seen(score=near, box=_MIDDLE, edge_distance=0.0, look=Look.CROP)])
    assert [(each.box, each.verdict) for each in found] == [(_MIDDLE, Verdict.REVIEW)]


@pytest.mark.parametrize(("text", "score"), [("2026", 0.9), ("2026", 0.99), ("1234", 0.9)])
def test_any_doubt_is_enough(text: str, score: float) -> None:
    assert verdicts(seen(text, score, _MIDDLE, edge_distance=0.0)) == {text: "review"}


def test_all_that_speaks_against_one_is_said() -> None:
    candidate = seen("2026", 0.5, _MIDDLE, edge_distance=0.0, doubt="the model calls it illegible")
    assert reasons(candidate) == {
        "2026": ["the model calls it illegible", "cut by the frame", "may be a year", "probability 0.500 is below 0.95"]
    }


def test_what_the_reply_itself_speaks_against_goes_to_review() -> None:
    assert verdicts(seen(doubt="the reply contradicts itself")) == {"1234": "review"}


# Several looks at one bib


def test_each_number_is_there_once_as_sure_as_the_surest_look_at_it() -> None:
    """Also where it is written in two ways; its box is that look's."""
    found = judge([line("1234", 0.9, box=_HERE), line("12 34", 0.97, box=_FAR), line("1234", 0.93, box=_HERE)])
    assert [(each.bib, each.probability, each.box, each.read_as) for each in found] == [("1234", 0.97, _FAR, "12 34")]


def test_other_bibs_stay_apart_and_in_order() -> None:
    assert bibs(*map(seen, ("42", "042", "0042", "M042", "42"))) == ["42", "042", "0042", "M042"]


def test_a_reading_without_a_box_gets_that_of_another_look() -> None:
    (reading,) = judge([seen("42", 0.9), seen("42", 0.6, _HERE, look=Look.CROP)])
    assert (reading.probability, reading.box) == (0.9, _HERE)


def test_a_number_that_was_cut_off_is_not_another_bib() -> None:
    cut, whole = seen("123", 0.99, Box(100, 100, 175, 150)), seen("1234", 0.6, _HERE)
    assert bibs(cut, whole) == ["1234"]
    assert rejections(cut, whole) == ["fragment of 1234 seen in the same place", None]


def test_a_number_that_is_part_of_another_elsewhere_is_a_bib_of_its_own() -> None:
    assert verdicts(seen("123", 0.99, _FAR), seen("1234", 0.99, _HERE)) == {"123": "accepted", "1234": "accepted"}


def test_a_fragment_is_one_of_the_longest_number_there() -> None:
    found = tuple(seen(text, box=_HERE) for text in ("12", "12345", "123"))
    for candidates in (found, found[::-1]):
        assert bibs(*candidates) == ["12345"]
        assert set(rejections(*candidates)) == {"fragment of 12345 seen in the same place", None}


@pytest.mark.parametrize("place", [None, _FAR])
def test_a_number_that_may_have_been_cut_off_goes_to_review(place: Box | None) -> None:
    """Where it is not known where both are, `123` may be a part of `1234`; another look at it changes nothing."""
    found = (seen("123", 0.99, place), seen("1234", 0.99), seen("123", 0.98, place))
    assert verdicts(*found) == {"123": "review", "1234": "accepted"}
    assert reasons(*found) == {"123": ["may be part of 1234"], "1234": []}


def test_a_number_seen_in_a_tile_alone_goes_to_review() -> None:
    """Without a place in it, the tile's border may have cut it off."""
    assert reasons(tile("1234"), tile("1234")) == {"1234": ["seen only in a part of the photo that may cut it"]}
    assert verdicts(tile("1234", box=_HERE)) == {"1234": "accepted"}


def test_a_number_seen_in_a_tile_is_accepted_where_the_whole_photo_shows_it_too() -> None:
    assert verdicts(tile("1234", 0.99), seen("1234", 0.96)) == {"1234": "accepted"}
    assert verdicts(tile("1234", 0.99), seen("1234", 0.9)) == {"1234": "review"}, "the surer look may have cut it"


def test_what_the_detector_alone_saw_is_no_reading() -> None:
    """It finds where to look; it does not read."""
    detected = line("1234", 0.99, box=_HERE, look=Look.DETECTOR)
    assert bibs(detected) == []
    assert rejections(detected) == ["seen by the detector, not read by the model"]
    assert rejections(detected, seen("1234", 0.5)) == [None, None]
    assert verdicts(detected, seen("1234", 0.5)) == {"1234": "review"}, "it does not make one surer either"


def test_the_detector_hides_no_bib() -> None:
    assert verdicts(line("12345", 0.9, box=_HERE, look=Look.DETECTOR), seen("1234", box=_HERE)) == {"1234": "accepted"}


# A second model

_UNSURE = line("1042", 0.90, box=_HERE)


def test_where_a_second_model_agrees_the_surer_counts() -> None:
    (reading,) = judge([_UNSURE, second("1042", about="1042")])
    assert (reading.verdict, reading.model, list(map(str, reading.reasons))) == (
        Verdict.ACCEPTED,
        "better",
        ["two models agree"],
    )


def test_a_second_model_that_agrees_and_is_less_sure_changes_no_verdict() -> None:
    (reading,) = judge([_UNSURE, second("1042", about="1042", score=0.3)])
    assert (reading.probability, reading.verdict, reading.model) == (0.9, Verdict.REVIEW, None)


def test_where_two_models_differ_both_go_to_review() -> None:
    """However sure one of them is; each with what the other read."""
    found = (_UNSURE, second("1047", about="1042", score=1.0))
    assert verdicts(*found, race=Race(accept_at=0.5)) == {"1042": "review", "1047": "review"}
    assert reasons(*found) == {
        "1042": ["another model read 1047", "probability 0.900 is below 0.95"],
        "1047": ["another model read 1042"],
    }


def test_a_neighbour_that_the_second_model_saw_is_no_second_bib() -> None:
    neighbour = line("731", 0.99, box=_FAR)
    found = (_UNSURE, neighbour, second("731", about="1042"), second("1042", about="1042"))
    assert verdicts(*found) == {"1042": "accepted", "731": "accepted"}
    assert rejections(*found)[2] == "read beside 1042, which both models read"
    assert verdicts(*found[:3]) == {"1042": "review", "731": "accepted"}
    assert rejections(*found[:3])[2] == "read beside 1042, as the number of a neighbour"


def test_a_neighbour_that_the_second_model_saw_hides_no_part_of_it() -> None:
    """It was asked about `12`, and names the `123` next to it too: without a place of its own it has that of `12`."""
    found = (line("12", 0.9, box=_HERE), line("123", 0.99, box=_FAR), second("123", about="12"))
    assert verdicts(*found) == {"12": "review", "123": "accepted"}
    assert verdicts(*found, second("12", about="12")) == {"12": "accepted", "123": "accepted"}


def test_what_both_models_read_is_the_bib_and_not_what_else_one_saw_there() -> None:
    found = (_UNSURE, second("1042", about="1042"), second("1048", about="1042"))
    assert verdicts(*found) == {"1042": "accepted"}


def test_a_bib_at_the_edge_goes_to_review_whatever_a_second_model_says() -> None:
    at_edge = line("1042", 0.9, box=_HERE, edge_distance=0.0)
    again = seen("1042", 0.99, _HERE, look=Look.SECOND_MODEL, about="1042", model="better", edge_distance=0.0)
    assert [(each.verdict, each.model) for each in judge([at_edge, again])] == [(Verdict.REVIEW, "better")]


# The judge's name


def test_the_fingerprint_tells_what_changes_a_judgement() -> None:
    """Results judged by another race or other rules are judged again."""
    judges = [
        Judge(),
        Judge(Race(accept_at=0.9)),
        Judge(of(r"\d+")),
        Judge(of(r"\d+", r"A\d")),
        Judge(rules=Rules(edge=0.1)),
        Judge(rules=Rules(doubtful="13")),
        Judge(rules=Rules(min_confidence=0.5)),
    ]
    assert len({each.fingerprint for each in judges}) == len(judges)
    assert Judge(Race(), Rules()).fingerprint == Judge().fingerprint


# Laws

_TEXTS = st.sampled_from(["1", "12", "123", "1234", "0042", "M123", "m 123", "77", "2026", "FINISH", "1\u0664"])


def _candidates(looks: st.SearchStrategy[Look], about: st.SearchStrategy[str | None]) -> st.SearchStrategy[Candidate]:
    return st.builds(
        Candidate,
        text=_TEXTS,
        score=st.sampled_from([0.0, 0.5, 0.9, 0.96, 1.0]) | st.floats(0, 1),
        box=st.sampled_from([None, _HERE, _NEAR, _FAR]),
        source=st.sampled_from(Source),
        look=looks,
        model=st.sampled_from([None, "better"]),
        edge_distance=st.sampled_from([None, 0.0, 0.2]),
        alternatives=st.lists(_TEXTS, max_size=2).map(tuple),
        about=about,
        doubt=st.none() | st.just("it says so"),
    )


_FIRST_LOOKS = st.sampled_from([look for look in Look if look is not Look.SECOND_MODEL])
_CANDIDATES = _candidates(_FIRST_LOOKS, st.none()) | _candidates(st.just(Look.SECOND_MODEL), _TEXTS)
_PHOTOS = st.lists(_CANDIDATES, max_size=7)
_RACES = st.builds(
    Race,
    forms=st.lists(st.sampled_from([r"\d{2,4}", r"[A-Z]\d+", r"\d|A"]).map(form), min_size=1).map(tuple),
    accept_at=st.floats(0, 1),
)


@given(_PHOTOS, _RACES)
def test_every_reading_is_of_the_races_form_and_was_seen(candidates: list[Candidate], race: Race) -> None:
    found = judge(candidates, race)
    assert len({reading.bib for reading in found}) == len(found)
    texts = {text for each in candidates for text in (each.text, *each.alternatives)}
    for reading in found:
        assert any(each.fullmatch(reading.bib) for each in race.forms)
        assert reading.bib in map(normalized, texts)
        assert reading.read_as in {each.text for each in candidates}
        assert 0 <= reading.probability <= 1


@given(_PHOTOS, _RACES)
def test_every_candidate_supports_a_reading_or_has_a_reason_why_not(candidates: list[Candidate], race: Race) -> None:
    judgement = Judge(race).judge(candidates)
    read = {reading.bib for reading in judgement.readings}
    for candidate, rejection in zip(candidates, judgement.rejections, strict=True):
        texts = map(normalized, (candidate.text, *candidate.alternatives))
        assert rejection or read.intersection(texts)


@given(_PHOTOS, _RACES)
def test_what_is_rejected_as_a_fragment_is_part_of_a_bib_that_is_there(candidates: list[Candidate], race: Race) -> None:
    """No two numbers hide each other."""
    judgement = Judge(race).judge(candidates)
    for rejection in filter(None, judgement.rejections):
        if found := re.match(r"fragment of (\S+)", rejection):
            assert any(found[1] in reading.bib for reading in judgement.readings)


@given(_PHOTOS, _RACES)
def test_judging_twice_gives_the_same(candidates: list[Candidate], race: Race) -> None:
    assert Judge(race).judge(candidates) == Judge(race).judge(list(candidates))


@given(st.data(), _PHOTOS, _RACES)
def test_the_order_of_the_candidates_changes_no_verdict(
    data: st.DataObject, candidates: list[Candidate], race: Race
) -> None:
    shuffled = data.draw(st.permutations(candidates))
    one, other = judge(candidates, race), judge(shuffled, race)
    assert {(each.bib, each.verdict) for each in one} == {(each.bib, each.verdict) for each in other}


@given(_PHOTOS, _RACES, st.floats(0, 1))
def test_asking_for_more_never_accepts_more(candidates: list[Candidate], race: Race, accept_at: float) -> None:
    low, high = sorted([race.accept_at, accept_at])
    accepted = [
        {each.bib for each in judge(candidates, Race(race.forms, at)) if each.verdict is Verdict.ACCEPTED}
        for at in (low, high)
    ]
    assert accepted[0] >= accepted[1]
    numbers = [[each.bib for each in judge(candidates, Race(race.forms, at))] for at in (low, high)]
    assert numbers[0] == numbers[1]


@given(_PHOTOS, st.floats(0, 1))
def test_a_number_that_has_nothing_to_do_with_the_others_changes_nothing_for_them(
    candidates: list[Candidate], score: float
) -> None:
    other = seen("88888", score, Box(900, 900, 950, 950))
    before, after = judge(candidates), judge([*candidates, other])
    assert after[:-1] == before
    assert after[-1].bib == "88888"
