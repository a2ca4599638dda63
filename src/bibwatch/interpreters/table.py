"""`table_text` and `table_lines`: a table from a reply, or from text lines with boxes.

Knows what makes rows of cells a table. Does not know text formats or image geometry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.domain.candidates import Look
from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import clean, reply
from bibwatch.interpreters.table_formats import parse_table
from bibwatch.interpreters.table_layout import Cell, arrange_cells
from bibwatch.runtimes.base import OutputKind, Prediction


@dataclass(frozen=True)
class Doubt:
    """Text read with low confidence (0 to 1) in a cell; the cell itself may omit it."""

    row: int | None  # index into `rows`; None for the header
    column: int
    text: str
    confidence: float


@dataclass(frozen=True)
class Table:
    """Rows of cells, all of equal length; cells are strings exactly as printed, "" if empty."""

    header: tuple[str, ...]  # column names; () if there are none
    rows: tuple[tuple[str, ...], ...]
    doubts: tuple[Doubt, ...] = ()


class TableTextOptions(InterpreterOptions):
    """How to interpret the table in a reply."""

    produces: ClassVar[str] = "table"

    kind: Literal["table_text"] = "table_text"
    header: bool = Field(default=True, description="Use the first row as column names.")


class TableText(Interpreter[TableTextOptions, Table]):
    """Parses JSON, Markdown, CSV, HTML and OTSL."""

    options_type: ClassVar[type[InterpreterOptions]] = TableTextOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Table:
        parsed = parse_table(reply(prediction, prompt))
        return table(parsed.rows, header=self.options.header, names=parsed.names)


class TableLinesOptions(InterpreterOptions):
    """How to interpret text lines laid out as a table."""

    accepts: ClassVar[OutputKind] = OutputKind.LINES
    produces: ClassVar[str] = "table"

    kind: Literal["table_lines"] = "table_lines"
    header: bool = Field(default=True, description="Use the first row as column names.")
    min_score: float = Field(default=0.5, ge=0, le=1, description="Omit lines with a lower score from cells.")
    sure: float = Field(default=0.85, ge=0, le=1, description="List text with a lower score under `doubts`.")


class TableLines(Interpreter[TableLinesOptions, Table]):
    """Derives rows and columns from the positions of lines; lists text read with low confidence."""

    options_type: ClassVar[type[InterpreterOptions]] = TableLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Table:
        del prompt  # OCR takes no prompt
        tidy = (replace(line, text=_tidy(line.text)) for line in prediction.lines if line.look is Look.PHOTO)
        lines = [line for line in tidy if line.text]
        legible = [line for line in lines if line.score >= self.options.min_score]
        if not legible:
            raise ModelReplyError("no table: no legible text in the image")
        illegible = [line for line in lines if not line.score >= self.options.min_score]
        if sum(line.score >= self.options.sure for line in legible) * 2 < len(legible):
            raise ModelReplyError(
                "confidence in most of the text is too low for a table: is the image upright and sharp?"
            )
        cells = arrange_cells(legible, illegible)
        found = table([[cell.text for cell in row] for row in cells], header=self.options.header)
        return replace(found, doubts=tuple(self._doubts(cells)))

    def _doubts(self, cells: Sequence[Sequence[Cell]]) -> Iterator[Doubt]:
        for number, row in enumerate(cells, -1 if self.options.header else 0):
            for column, cell in enumerate(row):
                for text, score in cell.lines:
                    if not score >= self.options.sure:  # also true for NaN
                        yield Doubt(None if number < 0 else number, column, text, 0.0 if math.isnan(score) else score)


def table(rows: Sequence[Sequence[str]], *, header: bool, names: Sequence[str] | None = None) -> Table:
    """Make a table of rows of cells: pad short rows, drop blank ones.

    `names` are the column names, if known; otherwise they are the first row, if `header` is true.
    Raise ModelReplyError if there are no rows, or if a row has more cells than there are names.
    """
    rows = [row for row in rows if row]
    if names is None:
        names, rows = (rows[0], rows[1:]) if header and rows else ((), rows)
    tidy = [cells for row in rows if any(cells := tuple(_tidy(cell) for cell in row))]
    if not tidy:
        raise ModelReplyError("the table has no rows")
    width = len(names) or max(map(len, tidy))
    for number, cells in enumerate(tidy, 1):
        if len(cells) > width:
            raise ModelReplyError(f"row {number} of the table has {len(cells)} cells, but its header has {width}")
    return Table(tuple(_tidy(name) for name in names), tuple(row + ("",) * (width - len(row)) for row in tidy))


def _tidy(cell: str) -> str:
    return " ".join(clean(cell).split())
