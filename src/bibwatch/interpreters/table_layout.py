"""Lines of text that lie like a table, to rows of cells: by geometry alone. Photos are a little tilted.

What does not clearly lie like a table is refused: rows in disorder are worse than none. Does not know what the text
says, but for this: the names of columns have no digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple, TypeAlias

from bibwatch.domain.box import Box
from bibwatch.errors import ModelReplyError
from bibwatch.runtimes.base import TextLine

_STEEPEST = 0.25  # slope of lines: 14 degrees; further, boxes say too little of where in them a line is
_TURNS = [step / 400 for step in range(-16, 17)]  # of the rows against the lines: up to 2 degrees are tried
_SAME_ROW = 0.5  # of a line's height: how far apart the middles of two lines of a row may be
_LARGE_GAP = 3.0  # of a line's height: space between rows that says no more of the slope
_MARGIN = 0.25  # of a line's height: by so much is a box wider than its text

_ALIKE = 1.5  # times as high as the median or as low: lines of one table
_MOST_ALIKE = 0.8  # of a table's lines
_FILLED = 0.6  # of its cells; photos of runners that look like tables have less
_FEWEST_CELLS = 4

_Span: TypeAlias = tuple[float, float]  # from left to right


@dataclass(frozen=True)
class _Line:
    """A line in the picture made level: its extent, the middle of its height, and its height."""

    text: str
    score: float
    left: float
    right: float
    middle: float
    height: float

    def overlaps(self, span: _Span) -> bool:
        """Return whether the text is above or below a span, the margins of its box left out."""
        margin = min(_MARGIN * self.height, (self.right - self.left) / 4)
        return self.left + margin < span[1] and span[0] < self.right - margin

    @property
    def span(self) -> _Span:
        return self.left, self.right


class Cell(NamedTuple):
    """What is in one cell: its text, and each line that it was read from or that was too unsure to be in the text."""

    text: str
    lines: tuple[tuple[str, float], ...]  # text and score


def laid_out(lines: Sequence[TextLine], unsure: Sequence[TextLine] = ()) -> list[list[Cell]]:
    """Return the rows of cells. Lines that are `unsure` make no row or column and no text, but are kept with the cell.

    Raises ModelReplyError if the lines do not lie like a table, or if the picture is not upright.
    """
    if not all(_is_somewhere(line.box) for line in (*lines, *unsure)):
        raise ModelReplyError("a line of text that is nowhere in the picture")
    if _stands_on_end(lines):
        raise ModelReplyError("the text in the picture stands on end: turn the picture by 90 degrees")
    slope = _slope(lines)
    level = _level(lines, slope)
    apart = _SAME_ROW * median(line.height for line in level)
    rows = _rows(level, apart)
    columns = _columns(rows)
    rows = [row for row in rows if not _is_title(row, columns)]
    if not _is_table(rows, columns):
        raise ModelReplyError(
            f"no table in the picture: {len(lines)} lines of text, not in rows and columns; "
            "if there is one, photograph it level and from the front"
        )
    doubts = _level(unsure, slope)
    return _without_titles([_cells(row, _beside(row, doubts, apart), columns) for row in rows])


def _is_somewhere(box: Box) -> bool:
    return all(map(math.isfinite, vars(box).values())) and box.x1 < box.x2 and box.y1 < box.y2


def _stands_on_end(lines: Sequence[TextLine]) -> bool:
    """Return whether most texts are higher than wide, those of a sign or two left out."""
    boxes = [line.box for line in lines if len(line.text.strip()) > 2]  # noqa: PLR2004
    return sum(box.y2 - box.y1 > box.x2 - box.x1 for box in boxes) * 2 > len(boxes)


def _slope(lines: Sequence[TextLine]) -> float:
    """Return how far rows go down for a pixel to the right: the slope at which the lines are in the clearest rows.

    It is near that of the lines themselves; seen steeper, cells far apart may lie in rows that are none.
    Raises ModelReplyError if the lines are too steep, or in no clear rows.
    """
    most = _LARGE_GAP * median(line.box.y2 - line.box.y1 for line in lines)
    tilt = median([line.slope for line in lines if line.slope is not None] or [0.0])

    def clearness(turn: float) -> float:
        middles = sorted(line.middle for line in _level(lines, tilt + turn))
        # Above and below the table is such a gap, too: else a table of one row would be best where it leans.
        gaps = [most, *(min(below - above, most) for above, below in pairwise(middles)), most]
        # The mean gap, weighted by itself: little gaps within rows and large ones between them, not many alike.
        # Where several slopes are as good, the nearest counts.
        return sum(gap * gap for gap in gaps) / sum(gaps) * (1 - abs(turn))

    best = max(_TURNS, key=lambda turn: (clearness(turn), -abs(turn)))
    if not abs(tilt) <= _STEEPEST or abs(best) == _TURNS[-1]:
        raise ModelReplyError(
            "the lines of text are tilted too far for a table, or not in rows: photograph it level and from the front"
        )
    return tilt + best


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
        level.append(_Line(line.text, line.score, across - width / 2, across + width / 2, (y - slope * x) / turn, less))
    return level


def _rows(lines: Sequence[_Line], apart: float) -> list[list[_Line]]:
    """Return the lines in rows from the top, each from the left."""
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: line.middle):
        if rows and line.middle - _middle(rows[-1]) <= apart:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.left) for row in rows]


def _middle(row: Sequence[_Line]) -> float:
    return fmean(line.middle for line in row)


def _beside(row: Sequence[_Line], lines: Sequence[_Line], apart: float) -> list[_Line]:
    """Return those of other lines that lie in a row."""
    return [line for line in lines if abs(line.middle - _middle(row)) <= apart]


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
    """Return whether most rows have several lines where this one is: a title, or two cells that were read as one."""
    beside = [sum(other.overlaps(line.span) for other in row) for row in rows if line not in row]
    return sum(count > 1 for count in beside) * 2 > sum(count > 0 for count in beside)


def _is_title(row: Sequence[_Line], columns: Sequence[_Span]) -> bool:
    return all(sum(map(line.overlaps, columns)) > 1 for line in row)


def _is_table(rows: Sequence[Sequence[_Line]], columns: Sequence[_Span]) -> bool:
    """Return whether the lines are alike, next to one another and in most places where a row and a column meet."""
    lines = [line for row in rows for line in row]
    if any(below.overlaps(above.span) for row in rows for above, below in pairwise(row)):
        return False
    usual = median(line.height for line in lines) if lines else 0
    alike = sum(usual / _ALIKE <= line.height <= usual * _ALIKE for line in lines)
    if len(lines) < _FEWEST_CELLS or alike < _MOST_ALIKE * len(lines):
        return False
    if len(columns) == 1:
        return _is_list(lines, usual)
    filled = sum(sum(any(line.overlaps(column) for line in row) for column in columns) for row in rows)
    return filled >= _FILLED * len(rows) * len(columns)


def _is_list(lines: Sequence[_Line], height: float) -> bool:
    """Return whether lines below one another are evenly spaced and begin or end at one edge."""
    gaps = [below.middle - above.middle for above, below in pairwise(lines)]
    even = max(gaps) <= _ALIKE * min(gaps)
    edges = ([line.left for line in lines], [line.right for line in lines])
    return even and any(max(edge) - min(edge) <= height for edge in edges)


def _without_titles(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Leave out a title no wider than a column: one that is above names of all columns, with numbers below them."""
    while len(rows) > 2 and sum(bool(cell.text) for cell in rows[0]) == 1:  # noqa: PLR2004
        names_all = all(cell.text and not _has_digit(cell) for cell in rows[1])
        if not names_all or not any(map(_has_digit, rows[2])):
            break
        rows = rows[1:]
    return rows


def _has_digit(cell: Cell) -> bool:
    return any(map(str.isdigit, cell.text))


def _cells(row: Sequence[_Line], doubts: Sequence[_Line], columns: Sequence[_Span]) -> list[Cell]:
    words: list[list[str]] = [[] for _ in columns]
    lines: list[list[tuple[str, float]]] = [[] for _ in columns]
    for line in row:
        for text, middle in _parts(line, columns):
            number = _nearest(middle, columns)
            words[number].append(text)
            lines[number].append((text, line.score))
    for line in doubts:
        number = _nearest((line.left + line.right) / 2, columns)
        if line.overlaps(columns[number]):
            lines[number].append((line.text, line.score))
    return [Cell(" ".join(said), tuple(read)) for said, read in zip(words, lines, strict=True)]


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
