"""`bib_lines`: what may be bibs among the lines of text that an OCR found.

A line is a candidate as a whole: `1234`, and also `RUN 2026` and `14:32`. Does not know which of them are bibs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import clean
from bibwatch.runtimes.base import OutputKind, Prediction, TextLine

_LONE = 2  # characters of a text without digits that may be part of a bib: a letter, or a pair of them
_NEAR = 1.0  # heights of a line between it and what stands beside it


class BibLinesOptions(InterpreterOptions):
    """Nothing to choose: which lines are bibs is for the judge."""

    accepts: ClassVar[OutputKind] = OutputKind.LINES
    produces: ClassVar[str] = "candidates"
    moved: ClassVar[dict[str, str]] = {"pattern": "race.bibs", "min_confidence": "judging.min_confidence"}

    kind: Literal["bib_lines"] = "bib_lines"


class BibLines(Interpreter[BibLinesOptions, tuple[Candidate, ...]]):
    """Take every line that has a digit, and every lone letter, each with the letter or word beside it."""

    options_type: ClassVar[type[InterpreterOptions]] = BibLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
        del prompt  # an OCR was not asked anything
        lines = [replace(line, text=clean(line.text)) for line in prediction.lines]
        words = [line for line in lines if not _has_digit(line.text) and line.text.strip()]
        return tuple(
            Candidate(
                text=line.text,
                score=max(0.0, min(line.score, 1.0)),  # in this order NaN is 0
                box=line.box,
                source=Source.LINE,
                beside=_beside(line.box, words) if _has_digit(line.text) else None,
            )
            for line in lines
            if _may_be_part_of_a_bib(line.text)
        )


def _may_be_part_of_a_bib(text: str) -> bool:
    return _has_digit(text) or 0 < sum(map(str.isalnum, text)) <= _LONE


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _beside(box: Box, words: Sequence[TextLine]) -> str | None:
    """Return the nearest word on the same line of print, to the left or the right."""
    height = box.y2 - box.y1
    gaps = [(max(box.x1 - word.box.x2, word.box.x1 - box.x2), word.text) for word in words if _level(box, word.box)]
    near = [(gap, text) for gap, text in gaps if gap <= _NEAR * height]
    return min(near)[1] if near else None


def _level(one: Box, other: Box) -> bool:
    shared = min(one.y2, other.y2) - max(one.y1, other.y1)
    return shared >= 0.5 * min(one.y2 - one.y1, other.y2 - other.y1)
