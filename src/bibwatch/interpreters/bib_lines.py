"""`bib_lines`: bibs among the lines of text that an OCR found.

A line is a bib when the whole line is one: `1234` yes, `RUN 2026` and `14:32` no. Does not know which of them to trust.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.interpreters.base import Bib, Interpreter, InterpreterOptions
from bibwatch.interpreters.bibs import BibOptions, surest
from bibwatch.runtimes.base import OutputKind, Prediction, TextLine


class BibLinesOptions(BibOptions):
    """Which lines of text are bibs."""

    accepts: ClassVar[OutputKind] = OutputKind.LINES
    produces: ClassVar[str] = "bibs"

    kind: Literal["bib_lines"] = "bib_lines"
    min_confidence: float = Field(default=0.85, ge=0, le=1, description="Lines less sure than this are not bibs.")


class BibLines(Interpreter[BibLinesOptions, tuple[Bib, ...]]):
    """Picks the lines that are bibs; a number seen twice in a picture is one bib, the surer one."""

    options_type: ClassVar[type[InterpreterOptions]] = BibLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Bib, ...]:
        del prompt  # an OCR was not asked anything
        return surest(bib for line in prediction.lines if (bib := self._bib(line)))

    def _bib(self, line: TextLine) -> Bib | None:
        text = self.options.bib(line.text)
        sure = line.score >= self.options.min_confidence
        return Bib(text, min(1.0, line.score), line.box) if text and sure else None
