"""`bib_lines`: bib candidates from the text lines found by OCR.

Each line is one candidate: `1234`, but also `RUN 2026` and `14:32`. A letter and the digits beside it on the same card
are one more. Does not decide which of them are bibs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Glyphs, Look, Source, normalized
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import clean
from bibwatch.runtimes.base import OutputKind, Prediction, TextLine

_MAX_PREFIX = 2  # characters of a digitless line that may be part of a bib
_MAX_GAP = 1.0  # distance to an adjacent word, in line heights
_MAX_JOIN_GAP = 1.3  # between the letters and digits of one bib, in line heights
_MAX_DIGIT_GAP = 0.4  # between the digits of one bib
_MAX_OVERLAP = 0.4  # of two such lines, in line heights
_SIMILAR = (0.4, 1.8)  # ratio of their heights
_LETTERS = re.compile(r"[A-Z]{1,2}[|/:.-]?|\d{1,3}")
_DIGITS = re.compile(r"[|/:.-]?\d{2,6}")
_DIVIDED = re.compile(r"([A-Z]{1,3})[^A-Z0-9]+(\d+)")
_AROUND = re.compile(r"[^A-Z0-9]*([A-Z0-9]+)[^A-Z0-9]*")
_SAME = 0.95  # odds of the text without its divider, or without what is around it


class BibLinesOptions(InterpreterOptions):
    """Nothing to choose: which lines are bibs is for the judge."""

    accepts: ClassVar[OutputKind] = OutputKind.LINES
    produces: ClassVar[str] = "candidates"
    code_revision: ClassVar[int] = 2
    moved: ClassVar[dict[str, str]] = {"pattern": "race.bibs", "min_confidence": "judging.min_confidence"}

    kind: Literal["bib_lines"] = "bib_lines"


class BibLines(Interpreter[BibLinesOptions, tuple[Candidate, ...]]):
    """Take every line that has a digit, and every lone letter, each with the letter or word beside it."""

    options_type: ClassVar[type[InterpreterOptions]] = BibLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
        del prompt  # OCR takes no prompt
        lines = [replace(line, text=clean(line.text)) for line in prediction.lines]
        words = [line for line in lines if not _has_digit(line.text) and line.text.strip()]
        single = [_candidate(line, words) for line in lines if _may_be_part_of_a_bib(line.text)]
        return (*single, *_joined(single))


def _candidate(line: TextLine, words: Sequence[TextLine]) -> Candidate:
    alternatives = [(plain, _SAME)] if (plain := _plain(line.text)) else []
    alternatives += line.alternatives
    return Candidate(
        text=line.text,
        score=max(0.0, min(line.score, 1.0)),  # this order turns NaN into 0
        box=line.box,
        source=Source.LINE,
        look=line.look,
        alternatives=tuple(text for text, _ in alternatives),
        odds=tuple(odds for _, odds in alternatives),
        glyphs=line.glyphs,
        beside=_adjacent_word(line.box, words) if _has_digit(line.text) else None,
    )


def _plain(text: str) -> str | None:
    """Return a bib without its divider (`B|30483`) or the marks around it (`.451`); None if it has neither."""
    written = normalized(text)
    if divided := _DIVIDED.fullmatch(written):
        return divided[1] + divided[2]
    around = _AROUND.fullmatch(written)
    return around[1] if around and around[1] != written and _has_digit(around[1]) else None


def _joined(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """Yield letters and digits that stand side by side, as one text; both as the same look saw them."""
    letters = [each for each in candidates if each.glyphs and _LETTERS.fullmatch(normalized(each.text))]
    digits = [each for each in candidates if each.glyphs and _DIGITS.fullmatch(normalized(each.text))]
    for left in letters:
        for right in digits:
            if left is not right and left.look is right.look and left.look is not Look.WIDE:
                yield from _pair(left, right)


def _pair(left: Candidate, right: Candidate) -> Iterator[Candidate]:
    """Yield two candidates as one if they stand side by side, in print of about the same height."""
    its, glyphs, left_box, right_box = left.glyphs, right.glyphs, left.box, right.box
    if not (its and glyphs and left_box and right_box):
        return
    similar = _SIMILAR[0] < its.height / glyphs.height < _SIMILAR[1]
    gap = (right_box.x1 - left_box.x2) / glyphs.height
    most = _MAX_DIGIT_GAP if _has_digit(left.text) else _MAX_JOIN_GAP  # two numbers may hang side by side
    if not similar or not -_MAX_OVERLAP < gap < most or not _level(left_box, right_box):
        return
    text = left.text + right.text
    plain = _plain(text)
    yield Candidate(
        text=text,
        score=min(left.score, right.score),
        box=left_box.union(right_box),
        source=Source.JOINED,
        look=left.look,
        alternatives=(plain,) if plain else (),
        odds=(_SAME,) if plain else (),
        glyphs=Glyphs(
            height=max(its.height, glyphs.height),
            width=its.width + glyphs.width,
            angle=glyphs.angle,
            lowest=min(its.lowest, glyphs.lowest),
            first=its.first,
            last=glyphs.last,
            edge=min(its.edge, glyphs.edge),
            margin_left=its.margin_left,
            margin_right=glyphs.margin_right,
        ),
        beside=right.beside,
    )


def _may_be_part_of_a_bib(text: str) -> bool:
    return _has_digit(text) or 0 < sum(map(str.isalnum, text)) <= _MAX_PREFIX


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _adjacent_word(box: Box, words: Sequence[TextLine]) -> str | None:
    """Return the nearest word on the same line of print, to the left or the right."""
    height = box.y2 - box.y1
    gaps = [(max(box.x1 - word.box.x2, word.box.x1 - box.x2), word.text) for word in words if _level(box, word.box)]
    near = [(gap, text) for gap, text in gaps if gap <= _MAX_GAP * height]
    return min(near)[1] if near else None


def _level(one: Box, other: Box) -> bool:
    shared = min(one.y2, other.y2) - max(one.y1, other.y1)
    return shared >= 0.5 * min(one.y2 - one.y1, other.y2 - other.y1)
