"""`table`: extracts a table from a photo, such as a results sheet or a start list."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from bibwatch.interpreters.base import InterpreterOptions
from bibwatch.interpreters.table import Table as Cells
from bibwatch.interpreters.table import TableLinesOptions, TableTextOptions
from bibwatch.runtimes.base import Markup, OutputKind, Prediction
from bibwatch.stages.base import StageOptions
from bibwatch.stages.regions import RegionStage, RegionStageOptions


class TableOptions(RegionStageOptions):
    """Extracts tables from photos: results sheets, start lists."""

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {
        OutputKind.LINES: TableLinesOptions(),
        OutputKind.TEXT: TableTextOptions(),
    }
    questions: ClassVar[Mapping[Markup, str]] = {
        Markup.MARKDOWN: "Copy the table in this picture as a Markdown table, exactly and completely.",
        Markup.DOCTAGS: "Convert table to OTSL.",
    }

    kind: Literal["table"] = "table"


class Table(RegionStage[TableOptions]):
    """Extracts a table from each region."""

    options_type: ClassVar[type[StageOptions]] = TableOptions

    def value(self, prediction: Prediction) -> dict[str, Any]:
        cells: Cells = self.interpreter.interpret(prediction, self.options.question)
        return {
            "header": list(cells.header),
            "rows": [list(row) for row in cells.rows],
            "doubts": [asdict(doubt) for doubt in cells.doubts],
        }

    def show(self, value: dict[str, Any]) -> str:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(([value["header"]] if value["header"] else []) + value["rows"])
        return file.getvalue().rstrip("\n")
