"""Arranges text lines in rows of cells, by geometry alone; tolerates slightly tilted photos.

Rejects anything that is not clearly a table: jumbled rows are worse than none. Ignores what the text says, except that
column names have no digits.
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

_MAX_SLOPE = 0.25  # of lines, 14 degrees: in a steeper line's box, the position of the text is too uncertain
_SLOPE_OFFSETS = [step / 400 for step in range(-16, 17)]  # of the rows relative to the lines, up to 2.3 degrees
_ROW_TOLERANCE = 0.5  # maximum distance between the centres of two lines in a row, in line heights
_LARGE_GAP = 3.0  # in line heights; wider gaps between rows say nothing more about the slope
_MARGIN = 0.25  # of a box around its text, in line heights

_MAX_RATIO = 1.5  # of the heights in a table to their median, and of the gaps in a list
_MIN_SIMILAR = 0.8  # share of lines with such a height
_MIN_FILLED = 0.6  # share of cells with text; photos of runners that look like tables have less
_MIN_CELLS = 4

_Span: TypeAlias = tuple[float, float]  # from left to right


@dataclass(frozen=True)
class _Line:
    """A line in the levelled image: its horizontal extent, vertical centre and height."""

    text: str
    score: float
    left: float
    right: float
    middle: float
    height: float

    def overlaps(self, span: _Span) -> bool:
        """Return whether the text, without the margins of its box, overlaps a span horizontally."""
        margin = min(_MARGIN * self.height, (self.right - self.left) / 4)
        return self.left + margin < span[1] and span[0] < self.right - margin

    @property
    def span(self) -> _Span:
        return self.left, self.right


class Cell(NamedTuple):
    """The text of a cell and all its lines, including those with too low a score to be in the text."""

    text: str
    lines: tuple[tuple[str, float], ...]  # text and score


def arrange_cells(lines: Sequence[TextLine], illegible: Sequence[TextLine] = ()) -> list[list[Cell]]:
    """Return the rows of cells; `illegible` lines add no rows, columns or text, but are listed with their cells.

    Raise ModelReplyError if the lines do not form a table or the image is not upright.
    """
    if not all(_is_valid(line.box) for line in (*lines, *illegible)):
        raise ModelReplyError("a line of text has an invalid box")
    if _is_sideways(lines):
        raise ModelReplyError("the text in the image is sideways: rotate the image by 90 degrees")
    slope = _slope(lines)
    level = _level(lines, slope)
    tolerance = _ROW_TOLERANCE * median(line.height for line in level)
    rows = _rows(level, tolerance)
    columns = _columns(rows)
    rows = [row for row in rows if not _is_title(row, columns)]
    if not _is_table(rows, columns):
        raise ModelReplyError(
            f"no table in the image: {len(lines)} lines of text, not in rows and columns; "
            "if there is one, photograph it level and head-on"
        )
    level_illegible = _level(illegible, slope)
    return _without_titles([_cells(row, _lines_in_row(row, level_illegible, tolerance), columns) for row in rows])


def _is_valid(box: Box) -> bool:
    return all(map(math.isfinite, vars(box).values())) and box.x1 < box.x2 and box.y1 < box.y2


def _is_sideways(lines: Sequence[TextLine]) -> bool:
    """Return whether most texts of three or more characters are taller than wide."""
    boxes = [line.box for line in lines if len(line.text.strip()) > 2]  # noqa: PLR2004
    return sum(box.y2 - box.y1 > box.x2 - box.x1 for box in boxes) * 2 > len(boxes)


def _slope(lines: Sequence[TextLine]) -> float:
    """Return the slope (pixels down per pixel to the right) that separates the rows best.

    Only slopes near that of the lines are tried: at others, unrelated cells may happen to line up.
    Raise ModelReplyError if the lines are too steep or do not form clear rows.
    """
    largest = _LARGE_GAP * median(line.box.y2 - line.box.y1 for line in lines)
    tilt = median([line.slope for line in lines if line.slope is not None] or [0.0])

    def separation(offset: float) -> float:
        middles = sorted(line.middle for line in _level(lines, tilt + offset))
        # Count a gap above and below the table too; otherwise a single row would score best when tilted.
        gaps = [largest, *(min(below - above, largest) for above, below in pairwise(middles)), largest]
        # The mean gap, weighted by itself, favours small gaps within rows and large ones between them.
        # Among equal slopes, prefer the one nearest to the lines'.
        return sum(gap * gap for gap in gaps) / sum(gaps) * (1 - abs(offset))

    best = max(_SLOPE_OFFSETS, key=lambda offset: (separation(offset), -abs(offset)))
    if not abs(tilt) <= _MAX_SLOPE or abs(best) == _SLOPE_OFFSETS[-1]:
        raise ModelReplyError(
            "the lines of text are tilted too far for a table, or not in rows: photograph it level and head-on"
        )
    return tilt + best


def _level(lines: Sequence[TextLine], slope: float) -> list[_Line]:
    """Rotate the lines about the corner of the image."""
    turn = math.hypot(1, slope)
    level = []
    for line in lines:
        box = line.box
        x, y, width, height = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, box.x2 - box.x1, box.y2 - box.y1
        across = (x + slope * y) / turn
        # An upright box encloses the tilted line, so the line itself is less tall.
        line_height = max(height - abs(slope) * width, height / 4)
        level.append(
            _Line(line.text, line.score, across - width / 2, across + width / 2, (y - slope * x) / turn, line_height)
        )
    return level


def _rows(lines: Sequence[_Line], tolerance: float) -> list[list[_Line]]:
    """Return the lines in rows, top to bottom and left to right."""
    rows: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: line.middle):
        if rows and line.middle - _middle(rows[-1]) <= tolerance:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.left) for row in rows]


def _middle(row: Sequence[_Line]) -> float:
    return fmean(line.middle for line in row)


def _lines_in_row(row: Sequence[_Line], lines: Sequence[_Line], tolerance: float) -> list[_Line]:
    """Return the lines that belong to a row."""
    return [line for line in lines if abs(line.middle - _middle(row)) <= tolerance]


def _columns(rows: Sequence[Sequence[_Line]]) -> list[_Span]:
    """Return the columns: overlapping lines share one. Ignore lines that span what other rows keep separate."""
    lines = sorted((line for row in rows for line in row if not _spans_columns(line, rows)), key=lambda line: line.left)
    columns: list[_Span] = []
    for line in lines:
        if columns and line.overlaps(columns[-1]):
            columns[-1] = (columns[-1][0], max(columns[-1][1], line.right))
        else:
            columns.append(line.span)
    return columns


def _spans_columns(line: _Line, rows: Sequence[Sequence[_Line]]) -> bool:
    """Return whether most rows have several lines where this one is: a title, or two cells read as one."""
    beside = [sum(other.overlaps(line.span) for other in row) for row in rows if line not in row]
    return sum(count > 1 for count in beside) * 2 > sum(count > 0 for count in beside)


def _is_title(row: Sequence[_Line], columns: Sequence[_Span]) -> bool:
    return all(sum(map(line.overlaps, columns)) > 1 for line in row)


def _is_table(rows: Sequence[Sequence[_Line]], columns: Sequence[_Span]) -> bool:
    """Return whether lines are similar in height, do not overlap in their row, and fill most of the cells."""
    lines = [line for row in rows for line in row]
    if any(below.overlaps(above.span) for row in rows for above, below in pairwise(row)):
        return False
    typical = median(line.height for line in lines) if lines else 0
    similar = sum(typical / _MAX_RATIO <= line.height <= typical * _MAX_RATIO for line in lines)
    if len(lines) < _MIN_CELLS or similar < _MIN_SIMILAR * len(lines):
        return False
    if len(columns) == 1:
        return _is_list(lines, typical)
    filled = sum(sum(any(line.overlaps(column) for line in row) for column in columns) for row in rows)
    return filled >= _MIN_FILLED * len(rows) * len(columns)


def _is_list(lines: Sequence[_Line], height: float) -> bool:
    """Return whether the lines are evenly spaced and aligned left or right."""
    gaps = [below.middle - above.middle for above, below in pairwise(lines)]
    even = max(gaps) <= _MAX_RATIO * min(gaps)
    edges = ([line.left for line in lines], [line.right for line in lines])
    return even and any(max(edge) - min(edge) <= height for edge in edges)


def _without_titles(rows: list[list[Cell]]) -> list[list[Cell]]:
    """Drop a title no wider than a column: one above a full row of column names with numbers below."""
    while len(rows) > 2 and sum(bool(cell.text) for cell in rows[0]) == 1:  # noqa: PLR2004
        names_all = all(cell.text and not _has_digit(cell) for cell in rows[1])
        if not names_all or not any(map(_has_digit, rows[2])):
            break
        rows = rows[1:]
    return rows


def _has_digit(cell: Cell) -> bool:
    return any(map(str.isdigit, cell.text))


def _cells(row: Sequence[_Line], illegible: Sequence[_Line], columns: Sequence[_Span]) -> list[Cell]:
    words: list[list[str]] = [[] for _ in columns]
    lines: list[list[tuple[str, float]]] = [[] for _ in columns]
    for line in row:
        for text, middle in _parts(line, columns):
            number = _nearest(middle, columns)
            words[number].append(text)
            lines[number].append((text, line.score))
    for line in illegible:
        number = _nearest((line.left + line.right) / 2, columns)
        if line.overlaps(columns[number]):
            lines[number].append((line.text, line.score))
    return [Cell(" ".join(texts), tuple(scored)) for texts, scored in zip(words, lines, strict=True)]


def _parts(line: _Line, columns: Sequence[_Span]) -> Iterator[tuple[str, float]]:
    """Yield the texts of a line and their centres: the whole line, or each word if it spans several columns."""
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
