"""`table_text` and `table_lines`: the table in a reply, and the table in lines of text with boxes.

Knows what rows of cells make a table. Does not know how they are written, or how they lie in a picture.
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
from bibwatch.interpreters.table_formats import written_table
from bibwatch.interpreters.table_layout import Cell, laid_out
from bibwatch.runtimes.base import OutputKind, Prediction


@dataclass(frozen=True)
class Doubt:
    """A cell to look at again: what was read there, and how sure that is (0 to 1). It may be missing in the cell."""

    row: int | None  # of `rows`, the first is 0; None is the header
    column: int
    text: str
    confidence: float


@dataclass(frozen=True)
class Table:
    """Rows of cells, all of one length; cells are strings exactly as printed, "" where there is nothing."""

    header: tuple[str, ...]  # the names of the columns; () where they have none
    rows: tuple[tuple[str, ...], ...]
    doubts: tuple[Doubt, ...] = ()


class TableTextOptions(InterpreterOptions):
    """How to understand the table in a reply."""

    produces: ClassVar[str] = "table"

    kind: Literal["table_text"] = "table_text"
    header: bool = Field(default=True, description="The first row names the columns.")


class TableText(Interpreter[TableTextOptions, Table]):
    """Reads JSON, Markdown, CSV, HTML and OTSL."""

    options_type: ClassVar[type[InterpreterOptions]] = TableTextOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Table:
        written = written_table(reply(prediction, prompt))
        return table(written.rows, header=self.options.header, names=written.names)


class TableLinesOptions(InterpreterOptions):
    """How to understand lines of text that lie like a table."""

    accepts: ClassVar[OutputKind] = OutputKind.LINES
    produces: ClassVar[str] = "table"

    kind: Literal["table_lines"] = "table_lines"
    header: bool = Field(default=True, description="The first row names the columns.")
    min_score: float = Field(default=0.5, ge=0, le=1, description="Lines less sure than this are left out of cells.")
    sure: float = Field(default=0.85, ge=0, le=1, description="Cells less sure than this are listed as doubtful.")


class TableLines(Interpreter[TableLinesOptions, Table]):
    """Finds rows and columns by where the lines are; says which cells it is unsure of."""

    options_type: ClassVar[type[InterpreterOptions]] = TableLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Table:
        del prompt  # an OCR was not asked anything
        tidy = (replace(line, text=_tidy(line.text)) for line in prediction.lines if line.look is Look.PHOTO)
        lines = [line for line in tidy if line.text]
        sure = [line for line in lines if line.score >= self.options.min_score]
        if not sure:
            raise ModelReplyError("no text in the picture, so no table")
        unsure = [line for line in lines if not line.score >= self.options.min_score]
        if sum(line.score >= self.options.sure for line in sure) * 2 < len(sure):
            raise ModelReplyError("most of the text is too unsure for a table: is the picture upright and sharp?")
        cells = laid_out(sure, unsure)
        found = table([[cell.text for cell in row] for row in cells], header=self.options.header)
        return replace(found, doubts=tuple(self._doubts(cells)))

    def _doubts(self, cells: Sequence[Sequence[Cell]]) -> Iterator[Doubt]:
        for number, row in enumerate(cells, -1 if self.options.header else 0):
            for column, cell in enumerate(row):
                for text, score in cell.lines:
                    if not score >= self.options.sure:  # so that a score that is no number is one, too
                        yield Doubt(None if number < 0 else number, column, text, 0.0 if math.isnan(score) else score)


def table(rows: Sequence[Sequence[str]], *, header: bool, names: Sequence[str] | None = None) -> Table:
    """Return rows of cells as a table: short rows filled up, blank ones left out.

    `names` are the columns' where they are known; else the first row has them if `header` says so.
    Raises ModelReplyError if no row is left, or if one has more cells than there are names.
    """
    rows = [row for row in rows if row]
    if names is None:
        names, rows = (rows[0], rows[1:]) if header and rows else ((), rows)
    tidy = [cells for row in rows if any(cells := tuple(_tidy(cell) for cell in row))]
    if not tidy:
        raise ModelReplyError("a table without a row")
    width = len(names) or max(map(len, tidy))
    for number, cells in enumerate(tidy, 1):
        if len(cells) > width:
            raise ModelReplyError(f"row {number} of the table has {len(cells)} cells, its header {width}")
    return Table(tuple(_tidy(name) for name in names), tuple(row + ("",) * (width - len(row)) for row in tidy))


def _tidy(cell: str) -> str:
    return " ".join(clean(cell).split())
