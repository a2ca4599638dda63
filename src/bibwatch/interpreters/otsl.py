"""OTSL, SmolDocling's table markup: `<ched>Place<ched>Bib<nl><fcel>1<fcel>0042<nl>`."""

from __future__ import annotations

import re

# full, empty, column header, row header, section row; continuation from the left, from above, from both
_CELL = re.compile(r"<(fcel|ecel|ched|rhed|srow|lcel|ucel|xcel|nl)>")
_NOT_CELL_TEXT = re.compile(
    r"<loc_\d+>|</(?:fcel|ecel|ched|rhed|srow|lcel|ucel|xcel|nl)>|<caption>.*?(?:</caption>|\Z)", re.DOTALL
)


def is_otsl(text: str) -> bool:
    """Return whether the text contains an OTSL cell."""
    return bool(_CELL.search(text))


def otsl_rows(text: str) -> list[list[str]]:
    """Return the rows of cells; a continuation cell is ""."""
    _, *parts = _CELL.split(_NOT_CELL_TEXT.sub("", text))
    rows: list[list[str]] = [[]]
    for tag, content in zip(parts[::2], parts[1::2], strict=True):
        if tag == "nl":
            rows.append([])
        else:
            rows[-1].append(content.strip())
    return [row for row in rows if row]
