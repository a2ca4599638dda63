"""`bib_lines`: which lines of text are bib candidates, and the words next to them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.interpreters.replies import clean
from bibwatch.judging import judge
from bibwatch.runtimes.base import Prediction, TextLine

_BOX = Box(10, 20, 30, 40)


def interpret(*lines: tuple[str, float]) -> tuple[Candidate, ...]:
    return of(*(TextLine(text, score, _BOX) for text, score in lines))


def of(*lines: TextLine) -> tuple[Candidate, ...]:
    return BibLines(BibLinesOptions()).interpret(Prediction(lines=lines))


def texts(*lines: str) -> list[str]:
    return [candidate.text for candidate in interpret(*((line, 0.99) for line in lines))]


@pytest.mark.parametrize(
    "line",
    [
        *("256", "7", "0042", "123456", "M10151", "m10151", " 1 2 3 4 ", "12\u00a034\t5"),
        *("14:32", "1,234", "#1234", "№ 42", "RUN 2026", "10 KM", "5K", "MM101", "1234\u200b", "\uff11\uff12\uff13"),
    ],
)
def test_a_line_with_a_digit_is_a_candidate_as_read(line: str) -> None:
    """The judge decides whether it is a bib of this race."""
    assert interpret((line, 0.9)) == (Candidate(line, 0.9, _BOX, source=Source.LINE),)


def test_characters_no_database_can_store_are_removed() -> None:
    assert texts("12\x0034", "\ud80056") == ["1234", "\ufffd56"]


@pytest.mark.parametrize("line", ["M", "ab", "M.", "Ä"])
def test_a_lone_letter_is_a_candidate(line: str) -> None:
    """It may be a prefix printed apart from the digits of its bib."""
    assert texts(line) == [line]


@pytest.mark.parametrize("line", ["", " ", "FINISH", "KMH", "-", "..."])
def test_words_are_not_candidates(line: str) -> None:
    assert texts(line) == []


def test_each_line_is_a_separate_candidate_in_order() -> None:
    """Even if the same number occurs twice: each occurrence is evidence."""
    assert texts("42", "042", "FINISH", "42") == ["42", "042", "42"]


@pytest.mark.parametrize("score", [0.0, 0.1, 0.5, 1.0])
def test_lines_with_low_scores_are_candidates(score: float) -> None:
    assert [candidate.score for candidate in interpret(("1234", score))] == [score]


@pytest.mark.parametrize(("score", "taken"), [(1.0000001, 1), (math.inf, 1), (-0.1, 0), (math.nan, 0)])
def test_a_score_is_from_zero_to_one(score: float, taken: float) -> None:
    """Models may return 1.0000001 or NaN."""
    assert interpret(("1234", score))[0].score == taken


NUMBER = TextLine("10151", 0.99, Box(100, 100, 200, 140))


@pytest.mark.parametrize(
    ("box", "is_beside"),
    [
        (Box(70, 100, 95, 140), True),  # to the left
        (Box(205, 100, 230, 140), True),  # to the right
        (Box(70, 115, 95, 155), True),  # slightly lower
        (Box(62, 100, 70, 140), True),
        (Box(20, 100, 55, 140), False),  # farther away than the line is tall
        (Box(100, 50, 200, 90), False),  # above
        (Box(70, 130, 95, 170), False),  # on the next line
    ],
)
def test_the_word_beside_a_number_is_evidence(box: Box, *, is_beside: bool) -> None:
    (number, *_) = of(NUMBER, TextLine("M", 0.9, box))
    assert (number.text, number.beside) == ("10151", "M" if is_beside else None)


def test_of_several_words_the_nearest_is_beside() -> None:
    km, letter = TextLine("KM", 0.9, Box(215, 100, 240, 140)), TextLine("M", 0.9, Box(70, 100, 95, 140))
    assert [candidate.beside for candidate in of(km, NUMBER, letter)] == [None, "M", None]


def test_another_number_is_not_beside() -> None:
    assert [candidate.beside for candidate in of(NUMBER, TextLine("42", 0.9, Box(70, 100, 95, 140)))] == [None, None]


@pytest.mark.parametrize("options", [{"pattern": r"\d+"}, {"min_confidence": 0.5}, {"patern": "x"}])
def test_options_of_the_judge_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BibLinesOptions(**options)


def test_no_lines_no_candidates() -> None:
    assert interpret() == ()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.text() | st.from_regex(r"\s*[a-zA-Z]?\d{1,6}\s*"), st.floats(0, 1))))
def test_no_text_ever_raises(lines: list[tuple[str, float]]) -> None:
    """What comes of it are the lines with a digit, and a few more; the judge has the surest of those it takes."""
    found = interpret(*lines)
    assert [(each.text, each.score) for each in found if any(map(str.isdigit, each.text))] == [
        (clean(text), score) for text, score in lines if any(map(str.isdigit, text))
    ]
    for reading in judge(found):
        scores = [score for text, score in lines if "".join(text.split()).upper() == reading.bib]
        assert not scores or reading.probability >= max(scores)
        assert reading.box == _BOX
