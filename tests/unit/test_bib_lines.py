"""`bib_lines`: which lines of text are bibs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bibwatch.domain.box import Box
from bibwatch.interpreters.base import Bib
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.runtimes.base import Prediction, TextLine

_BOX = Box(10, 20, 30, 40)


def interpret(*lines: tuple[str, float], **options: object) -> tuple[Bib, ...]:
    prediction = Prediction(lines=tuple(TextLine(text, score, _BOX) for text, score in lines))
    return BibLines(BibLinesOptions(**options)).interpret(prediction)


def texts(*lines: str, **options: object) -> list[str]:
    return [bib.text for bib in interpret(*((line, 0.99) for line in lines), **options)]


@pytest.mark.parametrize(
    ("line", "bib"),
    [
        ("256", "256"),
        ("42", "42"),
        ("0042", "0042"),
        ("00", "00"),
        ("12345", "12345"),
        ("M10151", "M10151"),
        ("m10151", "M10151"),
        ("F042", "F042"),
        (" 1 2 3 4 ", "1234"),
        ("M 10151", "M10151"),
        ("12\u00a034\t5", "12345"),
        ("2026", "2026"),  # whether it is the year is for the stage to judge
    ],
)
def test_a_whole_line_that_is_a_bib(line: str, bib: str) -> None:
    assert texts(line) == [bib]


@pytest.mark.parametrize(
    "line",
    [
        *("", " ", "7", "123456", "½¾", "FINISH", "Ä1234", "1234\u200b"),
        *("14:32", "1:02:03", "4.2", "1,234", "1234.", "12-34", "-42", "+42", "#1234", "№ 42"),
        *("RUN 2026", "2026 RUN", "10 KM", "10KM", "5K"),
        *("MM101", "M10", "M123456", "10151M"),
    ],
)
def test_a_line_that_is_no_bib(line: str) -> None:
    assert texts(line) == []


@pytest.mark.parametrize("line", ["\uff11\uff12\uff13", "\u0664\u0662", "\u096a\u0968"])
def test_digits_of_other_scripts_do_not_make_another_bib(line: str) -> None:
    """`WHERE bib = '1234'` finds every 1234: such a line is the bib in plain digits, or none."""
    assert all(bib.isascii() for bib in texts(line))


def test_a_number_seen_twice_is_one_bib_the_surer_one() -> None:
    """Also where it is written in two ways; the first box found for it does not count, the surer one's does."""
    far = Box(100, 100, 200, 200)
    lines = (TextLine("1234", 0.9, _BOX), TextLine("12 34", 0.97, far), TextLine("1234", 0.93, _BOX))
    assert BibLines(BibLinesOptions()).interpret(Prediction(lines=lines)) == (Bib("1234", 0.97, far),)


def test_other_bibs_stay_apart_and_in_order() -> None:
    assert texts("42", "042", "0042", "M042", "42") == ["42", "042", "0042", "M042"]


@pytest.mark.parametrize(("score", "kept"), [(0.0, False), (0.699, False), (0.7, True), (0.95, True), (1.0, True)])
def test_lines_the_model_is_unsure_of_are_no_bibs(score: float, kept: bool) -> None:  # noqa: FBT001
    assert [bib.confidence for bib in interpret(("1234", score), min_confidence=0.7)] == [score] * kept


def test_a_confidence_is_never_over_one() -> None:
    """Models round, and say 1.0000001."""
    assert interpret(("1234", 1.0000001))[0].confidence == 1


def test_a_score_that_is_no_number_is_not_certainty() -> None:
    assert interpret(("1234", math.nan)) == ()


def test_the_pattern_is_for_the_whole_line_in_capitals() -> None:
    assert texts("ab-12", "AB-123", "xAB-12", "1234", pattern=r"AB-\d\d") == ["AB-12"]
    assert texts("ab12", pattern=r"[a-z]+\d+") == []


def test_one_pattern_of_two_is_still_for_the_whole_line() -> None:
    assert texts("123", "A", "1", "AB", pattern=r"\d|A") == ["A", "1"]


@pytest.mark.parametrize("options", [{"pattern": "("}, {"pattern": "*"}, {"min_confidence": 1.1}, {"patern": "x"}])
def test_options_that_cannot_be(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BibLinesOptions(**options)


def test_no_lines_are_no_bibs() -> None:
    assert interpret() == ()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.text() | st.from_regex(r"\s*[a-zA-Z]?\d{1,6}\s*"), st.floats(0, 1))))
def test_no_text_ever_raises(lines: list[tuple[str, float]]) -> None:
    """And what comes of it: bibs that each stand once, out of the lines, as sure as the surest of them."""
    found = interpret(*lines)
    assert len({bib.text for bib in found}) == len(found)
    for bib in found:
        scores = [score for text, score in lines if "".join(text.split()).upper() == bib.text]
        assert bib.confidence == max(scores)
        assert bib.confidence >= BibLinesOptions().min_confidence
        assert bib.box == _BOX
