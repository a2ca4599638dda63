"""Lines of text as evidence: which number is at a place, how probable it is, and what the race makes of it."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Glyphs, Look, Source
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.judging import Judge, LearnedForm, Race, Rules, StartList, clear_numbers, judge, judge_race
from bibwatch.judging.form import shape
from bibwatch.judging.lines import LineEvidence, hypotheses
from bibwatch.judging.model import parse, probability, shipped
from bibwatch.judging.race import form

LOOKS = (Look.PHOTO, Look.CROP, Look.WIDE)
LETTER_AND_FIVE = ["A10423", "B10931", "C11610", "D12367", "A10866", "C20092", "B20266", "C11380"]


def line(
    text: str, look: Look = Look.PHOTO, *, score: float = 0.9999, x: float = 300, height: float = 40, **more: Any
) -> Candidate:
    """A line as the OCR sees it: whole, clear and in the middle of the photo, unless `more` says otherwise."""
    width = 0.6 * height * len(text)
    glyphs = Glyphs(height, width, 0.0, score, score, score, edge=8.0, margin_left=1.0, margin_right=1.0)
    beside, alternatives, odds = more.pop("beside", None), more.pop("alternatives", ()), more.pop("odds", ())
    return Candidate(
        text,
        score,
        Box(x, 200, x + width, 200 + height),
        Source.LINE,
        look,
        alternatives=alternatives,
        odds=odds,
        beside=beside,
        glyphs=replace(glyphs, **more),
    )


def bib(text: str, **more: Any) -> list[Candidate]:
    """A number that all three looks read."""
    return [line(text, look, **more) for look in LOOKS]


def race(*numbers: str) -> Race:
    """A race that has shown these numbers."""
    return Race().learning(numbers)


def read(candidates: list[Candidate], its: Race | None = None) -> dict[str, Reading]:
    return {reading.bib: reading for reading in judge(candidates, its or race(*LETTER_AND_FIVE), Rules())}


# One number at a place


def test_a_whole_number_of_the_races_form_is_accepted() -> None:
    (reading,) = read(bib("A10347")).values()
    assert (reading.bib, reading.verdict) == ("A10347", Verdict.ACCEPTED)
    assert {"3 looks agree", "of this race's usual form"} <= set(map(str, reading.reasons))


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"score": 0.8}, "not clearly read"),
        ({"margin_right": 0.0, "margin_left": 0.0}, None),
        ({"height": 40, "edge": -0.1}, None),
    ],
)
def test_worse_evidence_is_less_probable(worse: dict[str, Any], reason: str | None) -> None:
    unknown = Race()
    good, bad = read(bib("347"), unknown), read(bib("347", **worse), Race())
    least = bad["347"].probability if bad else 0.0
    assert least <= good["347"].probability
    assert reason is None or not bad or reason in "; ".join(map(str, bad["347"].reasons))


def test_what_one_look_alone_reads_is_not_accepted() -> None:
    found = read([line("347", Look.CROP)], race("3719", "1463", "184"))
    assert all(reading.verdict is Verdict.REVIEW for reading in found.values())


def test_a_place_has_one_number_and_the_others_say_why_not() -> None:
    """`C1093` is what the coarse look sees of C10931."""
    candidates = [line("C1093"), line("C10931", Look.CROP), line("C10931", Look.WIDE)]
    judgement = Judge(race(*LETTER_AND_FIVE)).judge(candidates)
    assert [reading.bib for reading in judgement.readings] == ["C10931"]
    assert judgement.rejections == ("less probable than C10931, read in the same place", None, None)


def test_a_letter_that_only_some_looks_see_belongs_to_the_number() -> None:
    candidates = [line("80437"), line("D80437", Look.CROP, score=0.95), line("D80437", Look.WIDE, score=0.95)]
    assert list(read(candidates)) == ["D80437"]


def test_two_places_are_two_numbers() -> None:
    assert set(read([*bib("A10347"), *bib("B10882", x=900)])) == {"A10347", "B10882"}


def test_of_print_of_very_different_height_each_is_judged_by_itself() -> None:
    """A banner across a photo is not about the bib that hangs in front of it."""
    candidates = [*bib("A10347"), line("2026", height=300, x=200)]
    assert read(candidates)["A10347"].verdict is Verdict.ACCEPTED


def test_another_way_to_read_the_text_is_taken_where_the_text_is_no_bib() -> None:
    """`SO218` is no bib of letter and four digits, `S0218` is."""
    candidates = [line("SO218", look, alternatives=("S0218",), odds=(0.4,)) for look in LOOKS]
    found = read(candidates, race("S0041", "S0312", "T2182", "T4012"))
    assert list(found) == ["S0218"]
    assert found["S0218"].verdict is Verdict.REVIEW
    assert found["S0218"].read_as == "SO218"


@given(st.permutations([*bib("A10347"), line("10347"), line("A1034", Look.CROP), *bib("B10882", x=900)]))
def test_the_order_of_candidates_does_not_matter(candidates: list[Candidate]) -> None:
    found = {(reading.bib, reading.probability, reading.verdict) for reading in read(candidates).values()}
    assert {each[0] for each in found} == {"A10347", "B10882"}
    assert found == {
        (reading.bib, reading.probability, reading.verdict) for reading in read(sorted(candidates, key=repr)).values()
    }


@pytest.mark.parametrize(("angle", "reason"), [(90.0, "on its side"), (178.0, "upside down"), (-88.0, "on its side")])
def test_a_number_in_a_photo_that_is_not_upright_goes_to_review(angle: float, reason: str) -> None:
    (reading,) = read(bib("A10347", angle=angle)).values()
    assert (reading.bib, reading.verdict) == ("A10347", Verdict.REVIEW)
    assert f"the photo is {reason}" in map(str, reading.reasons)


def test_a_line_across_two_cards_hides_neither_number() -> None:
    """The first look runs neighbouring lines together."""
    both = line("1234582176", x=300, height=40)
    left = [line("12345", look, x=300) for look in (Look.CROP, Look.WIDE)]
    right = [line("82176", look, x=425) for look in (Look.CROP, Look.WIDE)]
    assert set(read([both, *left, *right], Race())) == {"12345", "82176"}


# The form of a race


def test_a_fragment_of_the_races_form_is_not_accepted() -> None:
    """Perfectly read, three times: 766 of A10766, where only its end is seen."""
    alone, known = read(bib("766"), Race()), read(bib("766"))
    assert "766" not in known or known["766"].probability < alone["766"].probability
    assert all(reading.verdict is Verdict.REVIEW for reading in known.values())


@pytest.mark.parametrize(
    ("number", "its"), [("S0041", "A9999"), ("0042", "9999"), ("M10151", "A99999"), ("12A", "99A")]
)
def test_shapes(number: str, its: str) -> None:
    assert shape(number) == its


@given(st.lists(st.from_regex(r"[A-Z]?[0-9]{2,5}", fullmatch=True), max_size=40), st.randoms(use_true_random=False))
def test_what_is_learned_does_not_depend_on_the_order(numbers: list[str], chance: random.Random) -> None:
    shuffled = [*numbers, *numbers[:5]]
    chance.shuffle(shuffled)
    assert LearnedForm.of(shuffled) == LearnedForm.of(numbers)
    assert hash(LearnedForm.of(shuffled)) == hash(LearnedForm.of(numbers))


def test_a_number_counts_once_and_its_fragments_do_not() -> None:
    """A banner is in every photo; a runner who is cut off is still one runner."""
    assert LearnedForm.of(["A10347"] * 50 + ["2026"]).shares == {"A99999": 10, "9999": 10}
    assert LearnedForm.of(["A10347", "10347", "A103", "347", "B10882"]).shares == {"A99999": 20}


def test_little_is_learned_from_few() -> None:
    few, many = (race(*LETTER_AND_FIVE[:number]) for number in (1, 8))
    assert Race().form_log_odds("766") > few.form_log_odds("766") > many.form_log_odds("766")
    assert Race().form_log_odds("A10347") < few.form_log_odds("A10347") <= many.form_log_odds("A10347")


@given(st.integers(0, 2000))
def test_what_is_learned_changes_a_few_times_in_a_whole_race(numbers: int) -> None:
    """So that photos are judged again a few times, not with each new one."""
    forms = {LearnedForm.of([str(1000 + number) for number in range(each)]) for each in range(0, numbers, 7)}
    assert len(forms) <= 8


def test_a_configured_form_speaks_for_its_numbers() -> None:
    """The more it excludes the more it says: a letter and five digits are no accident, three digits may be."""
    letter, digits, default = (Race(forms=(form(each),)) for each in (r"[A-Z]\d{5}", r"\d{3}", r"\d{2,5}|[A-Z]\d{3,5}"))
    assert letter.form_log_odds("A10347") > digits.form_log_odds("347") > default.form_log_odds("347")


def test_a_start_list_speaks_for_its_numbers_and_a_late_entry_stays_visible() -> None:
    entered = Race(start_list=StartList(["347", "1463", "3719"]))
    assert entered.form_log_odds("347") > max(Race().form_log_odds("347"), entered.form_log_odds("348"))
    late = read(bib("A10347"), entered)["A10347"]
    assert (late.verdict, late.entry_match) == (Verdict.REVIEW, "unknown")


@pytest.mark.parametrize(
    ("pattern", "number"),
    [(r"2[3-9]\d{2}", "2345"), (r"12\d\d", "1234"), (r"M10\d{3}", "M10151"), (r"\d{7}", "1234567"), (r"\d{1,3}", "7")],
)
def test_a_number_of_a_narrow_configured_form_is_kept(pattern: str, number: str) -> None:
    configured = Race(forms=(form(pattern),))
    assert number in read(bib(number), configured)
    assert number in read(bib(number), configured.learning(["123", "456", "789", "234", "567"]))


def test_a_short_number_is_no_part_by_chance() -> None:
    """Of 1,000 numbers of four digits, nearly every number of three is the end of one."""
    thousands = [str(number) for number in range(1000, 2000)]
    hundreds = [str(number) for number in range(100, 1000)]
    assert LearnedForm.of([*thousands, *hundreds]).shares == {"9999": 11, "999": 9}


def test_being_on_the_start_list_never_makes_a_number_less_probable() -> None:
    entered = Race(start_list=StartList([*map(str, range(1000, 5000)), "42", "0077", "E07"]))
    assert entered.form_log_odds("42") > entered.form_log_odds("43")
    assert entered.form_log_odds("77") == entered.form_log_odds("0077")


def test_what_may_be_a_year_is_less_probable_but_stays() -> None:
    its = race("3719", "1463", "2874", "3531", "3648")
    found = read([*bib("2026"), *bib("3812", x=900)], its)
    assert found["2026"].probability < found["3812"].probability
    assert found["2026"].verdict is Verdict.REVIEW


def test_in_a_photo_with_nothing_better_the_best_guess_of_the_usual_form_goes_to_review() -> None:
    """And only one of that form: a scrap of a banner is no guess."""
    faint = {"score": 0.85, "margin_left": 0.0, "edge": 0.05}
    found = read([line("A10347", **faint), line("99", x=900, **faint)])
    assert list(found) == ["A10347"]
    assert found["A10347"].verdict is Verdict.REVIEW
    assert found["A10347"].probability < Rules().min_probability
    assert set(read([line("A10347", **faint), *bib("B10882", x=900)])) == {"B10882"}


# What shows the form


def test_only_whole_and_clear_numbers_show_the_form() -> None:
    assert clear_numbers(bib("A10347")) == {"A10347"}


@pytest.mark.parametrize(
    "candidates",
    [
        bib("A10347", score=0.9),
        bib("A10347", edge=0.1),
        bib("A10347", margin_left=0.0),
        bib("A10347", beside="MARATHON"),
        bib("2026"),
        [line("A10347")],
        [line("A1034"), line("A1034", Look.CROP), line("A10347", Look.WIDE)],
        [*bib("A10347", height=10), *bib("B10882", x=900, height=90)][:3] + bib("FINISH 10"),
    ],
)
def test_what_does_not_show_the_form(candidates: list[Candidate]) -> None:
    assert "A10347" not in clear_numbers(candidates) or (
        candidates[0].glyphs is not None and candidates[0].glyphs.height == 10
    )
    assert not {"2026", "A1034"} & clear_numbers(candidates)


# The race as it comes in


PHOTOS = [
    *(bib(number, x=100 + 10 * at) for at, number in enumerate(LETTER_AND_FIVE)),
    *(bib(number) for number in ("766", "0931", "2026", "80437")),
    [line("C1093"), line("C10931", Look.CROP), line("C10931", Look.WIDE)],
    [],
]


@given(st.permutations(range(len(PHOTOS))), st.integers(0, len(PHOTOS)))
def test_the_order_of_photos_and_a_restart_do_not_change_the_final_readings(order: list[int], restart: int) -> None:
    """As the daemon does it: each photo is judged by what is known then, and all again when more is known."""
    known: set[str] = set()
    judged: dict[int, tuple[str, tuple[Reading, ...]]] = {}
    judge_now = Judge()
    for at, index in enumerate(order):
        if at == restart:
            judge_now = Judge(Race().learning(known))
        known |= clear_numbers(PHOTOS[index])
        judged[index] = judge_now.fingerprint, judge_now.judge(PHOTOS[index]).readings
        learned = Judge(Race().learning(known))
        if learned.fingerprint != judge_now.fingerprint:
            judge_now = learned
            for other, (by, _) in judged.items():
                if by != learned.fingerprint:
                    judged[other] = learned.fingerprint, learned.judge(PHOTOS[other]).readings
    final = [judgement.readings for judgement in judge_race(PHOTOS, Race(), Rules())]
    assert [judged[index][1] for index in range(len(PHOTOS))] == final


def test_verdicts_settle_as_the_form_is_learned() -> None:
    first = Judge(Race()).judge(PHOTOS[8]).readings
    last = judge_race(PHOTOS, Race(), Rules())[8].readings
    assert first
    assert not last or last[0].probability < first[0].probability


# The model


def evidence(**changes: float) -> LineEvidence:
    (found,) = hypotheses(bib("A10347"), [[("A10347", 1.0)]] * 3)
    return replace(found.evidence, **changes)


RISING = ["score", "first", "photo", "crop", "wide", "agreed", "looks", "relative_size", "edge", "margin"]
FALLING = ["longer", "rival", "unread", "word_beside", "year"]


@given(st.sampled_from(RISING + FALLING), st.floats(0, 3), st.floats(0, 3))
def test_better_evidence_never_makes_a_number_less_probable(name: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    weights = [probability(shipped().weigh(evidence(**{name: value}), 0.0)) for value in (low, high)]
    assert weights == (sorted(weights) if name in RISING else sorted(weights, reverse=True))


@given(st.floats(-4, 2.5), st.floats(-4, 2.5))
def test_a_better_form_never_makes_a_number_less_probable(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert probability(shipped().weigh(evidence(), low)) <= probability(shipped().weigh(evidence(), high))


def test_a_step_function_is_read_from_its_table() -> None:
    model = parse("constant = 1.0\nform = 0.5\n[evidence.score]\nedges = [0.5, 0.9]\nvalues = [-2.0, 0.0, 3.0]\n")
    found = [model.weigh(evidence(score=score), 2.0)["score"] for score in (0.1, 0.5, 0.89, 0.9, 1.0)]
    assert found == [-2.0, 0.0, 0.0, 3.0, 3.0]
    assert model.weigh(evidence(), 2.0) | {"score": 0} == {"constant": 1.0, "form": 1.0, "score": 0}


def test_a_model_with_unknown_evidence_is_refused() -> None:
    with pytest.raises(ValueError, match="no evidence called luck"):
        parse("constant = 1.0\nform = 0.5\n[evidence.luck]\nedges = []\nvalues = [0.0]\n")


def test_all_permutations_of_looks_give_the_same_evidence() -> None:
    found = {
        next(hypotheses(list(each), [[("A10347", 1.0)]] * 3)).evidence for each in itertools.permutations(bib("A10347"))
    }
    assert len(found) == 1
