"""How bibs are written, and one bib out of several readings of it. Does not know where the readings come from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from pydantic import Field

from bibwatch.interpreters.base import Bib, InterpreterOptions


class BibOptions(InterpreterOptions):
    """What a bib looks like."""

    pattern: re.Pattern[str] = Field(
        default=re.compile(r"\d{2,5}|[A-Z]\d{3,5}"),
        description="Regular expression for a whole bib, in capitals, without spaces.",
    )

    def bib(self, text: str) -> str | None:
        """Return the bib that a text is as a whole, in capitals and without spaces; None if it is no bib."""
        # Full-width digits are digits; other scripts' digits would be a bib that no query finds.
        plain = re.sub(r"\s+", "", unicodedata.normalize("NFKC", text)).upper()
        foreign = any(sign.isdigit() and not sign.isascii() for sign in plain)
        return plain if not foreign and self.pattern.fullmatch(plain) else None


def surest(bibs: Iterable[Bib]) -> tuple[Bib, ...]:
    """Return each number once, in order: the surest reading of it."""
    found: dict[str, Bib] = {}
    for bib in bibs:
        if bib.text not in found or found[bib.text].confidence < bib.confidence:
            found[bib.text] = bib
    return tuple(found.values())
