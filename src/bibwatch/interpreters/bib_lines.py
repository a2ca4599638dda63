"""`bib_lines`: bibs among the lines of text that an OCR found.

A line is a bib when the whole line is one: `1234` yes, `RUN 2026` and `14:32` no. Knows how bibs are written;
does not know which of them to trust.
"""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.interpreters.base import Bib, Interpreter, InterpreterOptions
from bibwatch.runtimes.base import Prediction, TextLine


class BibLinesOptions(InterpreterOptions):
    """Which lines of text are bibs."""

    kind: Literal["bib_lines"] = "bib_lines"
    pattern: re.Pattern[str] = Field(
        default=re.compile(r"\d{2,5}|[A-Z]\d{3,5}"),
        description="Regular expression for a whole bib, in capitals, without spaces.",
    )
    min_confidence: float = Field(default=0.85, ge=0, le=1, description="Lines less sure than this are not bibs.")


class BibLines(Interpreter[BibLinesOptions, tuple[Bib, ...]]):
    """Picks the lines that are bibs; a number seen twice in a picture is one bib, the surer one."""

    options_type: ClassVar[type[InterpreterOptions]] = BibLinesOptions

    def interpret(self, prediction: Prediction) -> tuple[Bib, ...]:
        surest: dict[str, Bib] = {}
        for line in prediction.lines:
            bib = self._bib(line)
            if bib and (bib.text not in surest or surest[bib.text].confidence < bib.confidence):
                surest[bib.text] = bib
        return tuple(surest.values())

    def _bib(self, line: TextLine) -> Bib | None:
        # Full-width digits are digits; other scripts' digits would be a bib that no query finds.
        text = re.sub(r"\s+", "", unicodedata.normalize("NFKC", line.text)).upper()
        foreign = any(sign.isdigit() and not sign.isascii() for sign in text)
        sure = line.score >= self.options.min_confidence
        if foreign or not sure or not self.options.pattern.fullmatch(text):
            return None
        return Bib(text, min(1.0, line.score), line.box)
