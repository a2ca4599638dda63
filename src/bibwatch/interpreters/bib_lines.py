"""`bib_lines`: bib candidates from the text lines found by OCR.

Each line is one candidate: `1234`, but also `RUN 2026` and `14:32`. Does not decide which of them are bibs.
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

_MAX_PREFIX = 2  # characters of a digitless line that may be part of a bib
_MAX_GAP = 1.0  # distance to an adjacent word, in line heights


class BibLinesOptions(InterpreterOptions):
    """No options: the judge decides which lines are bibs."""

    accepts: ClassVar[OutputKind] = OutputKind.LINES
    produces: ClassVar[str] = "candidates"
    moved: ClassVar[dict[str, str]] = {"pattern": "race.bibs", "min_confidence": "judging.min_confidence"}

    kind: Literal["bib_lines"] = "bib_lines"


class BibLines(Interpreter[BibLinesOptions, tuple[Candidate, ...]]):
    """Makes a candidate of every line that has a digit or is only one or two characters long."""

    options_type: ClassVar[type[InterpreterOptions]] = BibLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
        del prompt  # OCR takes no prompt
        lines = [replace(line, text=clean(line.text)) for line in prediction.lines]
        words = [line for line in lines if not _has_digit(line.text) and line.text.strip()]
        return tuple(
            Candidate(
                text=line.text,
                score=max(0.0, min(line.score, 1.0)),  # this order turns NaN into 0
                box=line.box,
                source=Source.LINE,
                beside=_adjacent_word(line.box, words) if _has_digit(line.text) else None,
            )
            for line in lines
            if _may_be_part_of_a_bib(line.text)
        )


def _may_be_part_of_a_bib(text: str) -> bool:
    return _has_digit(text) or 0 < sum(map(str.isalnum, text)) <= _MAX_PREFIX


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _adjacent_word(box: Box, words: Sequence[TextLine]) -> str | None:
    """Return the nearest word to the left or right on the same row, if close enough."""
    height = box.y2 - box.y1
    gaps = [
        (max(box.x1 - word.box.x2, word.box.x1 - box.x2), word.text) for word in words if _on_same_row(box, word.box)
    ]
    near = [(gap, text) for gap, text in gaps if gap <= _MAX_GAP * height]
    return min(near)[1] if near else None


def _on_same_row(one: Box, other: Box) -> bool:
    overlap = min(one.y2, other.y2) - max(one.y1, other.y1)
    return overlap >= 0.5 * min(one.y2 - one.y1, other.y2 - other.y1)
