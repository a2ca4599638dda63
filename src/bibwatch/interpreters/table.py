"""`table_text` and `table_lines`: the table in a reply, and the table in lines of text with boxes.

Knows what rows of cells make a table. Does not know how they are written, or how they lie in a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import clean, reply
from bibwatch.interpreters.table_formats import written_table
from bibwatch.interpreters.table_layout import laid_out
from bibwatch.runtimes.base import Gives, Prediction


@dataclass(frozen=True)
class Table:
    """Rows of cells, all of one length; cells are strings exactly as printed, "" where there is nothing."""

    header: tuple[str, ...]  # the names of the columns; () where they have none
    rows: tuple[tuple[str, ...], ...]


class TableTextOptions(InterpreterOptions):
    """How to understand the table in a reply."""

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

    needs: ClassVar[Gives] = Gives.LINES

    kind: Literal["table_lines"] = "table_lines"
    header: bool = Field(default=True, description="The first row names the columns.")
    min_score: float = Field(default=0.5, ge=0, le=1, description="Lines the model is less sure of are left out.")


class TableLines(Interpreter[TableLinesOptions, Table]):
    """Finds rows and columns by where the lines are."""

    options_type: ClassVar[type[InterpreterOptions]] = TableLinesOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Table:
        del prompt  # an OCR was not asked anything
        lines = [line for line in prediction.lines if line.score >= self.options.min_score and line.text.strip()]
        if not lines:
            raise ModelReplyError("no text in the picture, so no table")
        return table(laid_out(lines), header=self.options.header)


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
