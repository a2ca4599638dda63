"""Lines of text that lie like a table, to rows of cells: by geometry alone. Photos are a little tilted.

Does not know what the text says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TypeAlias

from bibwatch.errors import ModelReplyError
from bibwatch.runtimes.base import TextLine

_SLOPES = [step / 400 for step in range(-48, 49)]  # that are tried: up to 7 degrees
_SAME_ROW = 0.5  # of a line's height: how far apart the middles of two lines of a row may be
_LARGE_GAP = 3.0  # of a line's height: space between rows that says no more of the slope
_MARGIN = 0.25  # of a line's height: by so much is a box wider than its text

_Span: TypeAlias = tuple[float, float]  # from left to right


@dataclass(frozen=True)
class _Line:
    """A line in the picture made level: its extent, the middle of its height, and its height."""

    text: str
    left: float
    right: float
    middle: float
    height: float

    def overlaps(self, span: _Span) -> bool:
        """Tell whether the text is above or below a span, the margins of its box left out."""
        margin = min(_MARGIN * self.height, (self.right - self.left) / 4)
        return self.left + margin < span[1] and span[0] < self.right - margin

    @property
    def span(self) -> _Span:
        return self.left, self.right


def laid_out(lines: Sequence[TextLine]) -> list[list[str]]:
    """Return the rows of cells. Raises ModelReplyError if the lines do not lie in two columns or more."""
    if not all(math.isfinite(side) for line in lines for side in vars(line.box).values()):
        raise ModelReplyError("a line of text that is nowhere in the picture")
    rows = _rows(_level(lines, _slope(lines)))
    columns = _columns(rows)
    if len(columns) < 2:  # noqa: PLR2004
        raise ModelReplyError(f"no table in the picture: {len(lines)} lines of text, not in columns")
    cells = [_cells(row, columns) for row in rows if not _is_title(row, columns)]
    while cells and sum(map(bool, cells[0])) == 1:  # a title no wider than a column
        del cells[0]
    return cells


def _slope(lines: Sequence[TextLine]) -> float:
    """Return how far rows go down for a pixel to the right: the slope at which the lines are in the clearest rows."""
    most = _LARGE_GAP * median(line.box.y2 - line.box.y1 for line in lines)

    def clearness(slope: float) -> float:
        middles = sorted(line.middle for line in _level(lines, slope))
        gaps = [min(below - above, most) for above, below in pairwise(middles)]
        # The mean gap, weighted by itself: little gaps within rows and large ones between them, not many alike.
        # Where several slopes are as good, the table leans the least.
        return sum(gap * gap for gap in gaps) / (sum(gaps) or 1) * (1 - abs(slope))

    return max(_SLOPES, key=lambda slope: (clearness(slope), -abs(slope)))


def _level(lines: Sequence[TextLine], slope: float) -> list[_Line]:
    """Turn the lines about the corner of the picture."""
    turn = math.hypot(1, slope)
    level = []
    for line in lines:
        box = line.box
        x, y, width, height = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, box.x2 - box.x1, box.y2 - box.y1
        across = (x + slope * y) / turn
        # A box is upright and encloses its tilted line; the line itself is less high.
        less = max(height - abs(slope) * width, height / 4)
        level.append(_Line(line.text, across - width / 2, across + width / 2, (y - slope * x) / turn, less))
    return level


def _rows(lines: Sequence[_Line]) -> list[list[_Line]]:
    """Return the lines in rows from the top, each from the left."""
    apart = _SAME_ROW * median(line.height for line in lines)
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: line.middle):
        if rows and line.middle - fmean(other.middle for other in rows[-1]) <= apart:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.left) for row in rows]


def _columns(rows: Sequence[Sequence[_Line]]) -> list[_Span]:
    """Return the columns: lines that overlap are in one. Lines that join what other rows keep apart do not count."""
    lines = sorted((line for row in rows for line in row if not _joins(line, rows)), key=lambda line: line.left)
    columns: list[_Span] = []
    for line in lines:
        if columns and line.overlaps(columns[-1]):
            columns[-1] = (columns[-1][0], max(columns[-1][1], line.right))
        else:
            columns.append(line.span)
    return columns


def _joins(line: _Line, rows: Sequence[Sequence[_Line]]) -> bool:
    """Tell whether most rows have several lines where this one is: a title, or two cells that were read as one."""
    beside = [sum(other.overlaps(line.span) for other in row) for row in rows if line not in row]
    return sum(count > 1 for count in beside) * 2 > sum(count > 0 for count in beside)


def _is_title(row: Sequence[_Line], columns: Sequence[_Span]) -> bool:
    return all(sum(map(line.overlaps, columns)) > 1 for line in row)


def _cells(row: Sequence[_Line], columns: Sequence[_Span]) -> list[str]:
    cells: list[list[str]] = [[] for _ in columns]
    for line in row:
        for text, middle in _parts(line, columns):
            cells[_nearest(middle, columns)].append(text)
    return [" ".join(words) for words in cells]


def _parts(line: _Line, columns: Sequence[_Span]) -> Iterator[tuple[str, float]]:
    """Yield the texts of a line and their middles: the whole, or word by word if it lies in several columns."""
    if sum(map(line.overlaps, columns)) <= 1:
        yield line.text, (line.left + line.right) / 2
        return
    for word in re.finditer(r"\S+", line.text):
        share = (word.start() + word.end()) / 2 / len(line.text)
        yield word[0], line.left + share * (line.right - line.left)


def _nearest(middle: float, columns: Sequence[_Span]) -> int:
    def distance(number: int) -> float:
        left, right = columns[number]
        return max(left - middle, middle - right, 0.0)

    return min(range(len(columns)), key=distance)
