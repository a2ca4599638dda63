"""Parses tables in text (JSON, Markdown, CSV, HTML and OTSL) into rows of cells.

Does not know which row is the header, unless the format specifies it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any, NamedTuple

from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.otsl import is_otsl, otsl_rows
from bibwatch.interpreters.replies import Json, fences, json_values, quoted, without_fences

_JSON = re.compile(r"\A[\[{]|[\[{]\s*[\[{\"]")
_DELIMITER_ROW = re.compile(r"\|?:?-+:?(\|:?-+:?)*\|?")  # below a Markdown header, without spaces
_TAG_IN_TAG = re.compile(r"<[a-zA-Z/][^<>]*<")
_PIPE = re.compile(r"(?<!\\)\|")
_SENTENCE = re.compile(r"[A-Z]\S*(?:\s+\S+){3,}[.!?]")
_HEADER_KEYS = ("columns", "header", "headers")
_ROW_KEYS = ("rows", "data", "table")
_MAX_SPAN = 1000  # columns or rows of an HTML cell


class ParsedTable(NamedTuple):
    """Rows of cells; `names` are the column names if the format separates them from the rows."""

    rows: Sequence[Sequence[str]]
    names: Sequence[str] | None = None


def parse_table(text: str) -> ParsedTable:
    """Return the only table in a reply. Raise ModelReplyError if there is none or more than one."""
    blocks = fences(text)
    number = len(blocks) + (bool(blocks) and _has_markup(without_fences(text)))
    if number > 1:
        raise ModelReplyError(f"expected one table in the reply, found {number} blocks: {quoted(text)}")
    text = blocks[0].text if blocks else text
    if _is_html(text):
        return ParsedTable(_html(text))
    if is_otsl(text):
        return ParsedTable(_otsl(text))
    if tables := _pipe_tables(text):
        return ParsedTable(_one(tables, text))
    if _JSON.search(text):
        return _json(_one_json(json_values(text), text), text)
    return ParsedTable(_csv(text))


def _has_markup(text: str) -> bool:
    """Return whether a text has a table that cannot be mistaken for prose."""
    return _is_html(text) or is_otsl(text) or bool(_pipe_tables(text))


def _is_html(text: str) -> bool:
    return bool(re.search(r"<table\b", text, re.IGNORECASE))


def _one(tables: Sequence[Sequence[Sequence[str]]], text: str) -> Sequence[Sequence[str]]:
    if len(tables) != 1:
        raise ModelReplyError(f"expected one table in the reply, found {len(tables)}: {quoted(text)}")
    return tables[0]


def _one_json(found: Json, text: str) -> Any:
    """Return the only value, or the list of values if there is one per line."""
    if len(found.values) == 1:
        return found.values[0]
    if found.scattered:
        raise ModelReplyError(f"expected one table in the reply, found {len(found.values)}: {quoted(text)}")
    return found.values


def _json(value: Any, text: str) -> ParsedTable:
    """Parse a list of records, a list of rows, or an object with columns and rows."""
    names = None
    if isinstance(value, dict):
        names = next((value[name] for name in _HEADER_KEYS if name in value), None)
        value = next((value[name] for name in _ROW_KEYS if name in value), None)
        if isinstance(value, dict):
            return _json(value, text)
    if not isinstance(value, list) or not (names is None or isinstance(names, list)):
        raise ModelReplyError(f"the reply's JSON is not a table: {quoted(text)}")
    if value and all(isinstance(row, dict) for row in value):
        keys = list(dict.fromkeys(key for row in value for key in row))
        return ParsedTable([[_cell(row.get(key), text) for key in keys] for row in value], keys)
    if not all(isinstance(row, list) for row in value):
        raise ModelReplyError(f"the reply's JSON is not a table: {quoted(text)}")
    rows = [[_cell(cell, text) for cell in row] for row in value]
    return ParsedTable(rows, None if names is None else [_cell(name, text) for name in names])


def _cell(value: Any, text: str) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            return value
    raise ModelReplyError(f"a table cell in the reply is not text: {quoted(text)}")


def _pipe_tables(text: str) -> list[list[list[str]]]:
    """Return the Markdown tables: lines with pipes that all start with one, or whose second is a delimiter row."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if _PIPE.search(line):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [_pipe_rows(lines) for lines in found if _is_pipe_table(lines)]


def _is_pipe_table(lines: Sequence[str]) -> bool:
    return len(lines) > 1 and (_is_delimiter_row(lines[1]) or all(line.lstrip().startswith("|") for line in lines))


def _is_delimiter_row(line: str) -> bool:
    return bool(_DELIMITER_ROW.fullmatch("".join(line.split())))


def _pipe_rows(lines: Sequence[str]) -> list[list[str]]:
    return [_pipe_cells(line) for number, line in enumerate(lines) if number != 1 or not _is_delimiter_row(line)]


def _pipe_cells(line: str) -> list[str]:
    cells = [cell.strip().replace("\\|", "|") for cell in _PIPE.split(line.strip())]
    return cells[not cells[0] : len(cells) - (len(cells) > 1 and not cells[-1])]


def _csv(text: str) -> list[list[str]]:
    """Parse the first block that a separator splits into two or more columns, no row wider than the first."""
    for block in (text, *re.split(r"\n\s*\n", text)):
        found = [rows for separator in ",;\t|" if not _is_prose(block) and (rows := _separated(block, separator))]
        if found:
            return max(found, key=lambda rows: len(rows[0]))
    raise ModelReplyError(f"no table in the reply: {quoted(text)}")


def _is_prose(text: str) -> bool:
    """Return whether at least half of the lines look like sentences, or all commas separate words."""
    lines = text.strip().split("\n")
    sentences = sum(bool(_SENTENCE.fullmatch(line.strip())) for line in lines)
    among_words = ", " in text and not re.search(r"\d|,\S|[\";\t|]", text)
    return sentences * 2 >= len(lines) or among_words


def _separated(text: str, separator: str) -> list[list[str]]:
    try:
        lines = csv.reader(
            io.StringIO(text.strip(), newline=""), delimiter=separator, skipinitialspace=True, strict=True
        )
        rows = [row for row in lines if row]
    except csv.Error:
        return []
    return rows if len(rows) > 1 and all(1 < len(row) <= len(rows[0]) for row in rows) else []


def _otsl(text: str) -> Sequence[Sequence[str]]:
    _, *tables = text.split("<otsl>")
    if not all("</otsl>" in table for table in tables):
        raise ModelReplyError(f"the reply's table is incomplete: {quoted(text)}")
    return _one([otsl_rows(table.partition("</otsl>")[0]) for table in tables or [text]], text)


def _html(text: str) -> Sequence[Sequence[str]]:
    if _TAG_IN_TAG.search(text):  # html.parser would rescan the rest of the reply for each such tag
        raise ModelReplyError(f"an HTML tag in the reply's table is incomplete: {quoted(text)}")
    reader = _HtmlTables()
    try:
        reader.feed(re.sub(r"<[!?][^>]*>?", "", text))
        reader.close()
    except ValueError as exc:  # a character reference of thousands of digits
        raise ModelReplyError(f"the reply's table is not valid HTML: {quoted(text)}") from exc
    if reader.depth:
        raise ModelReplyError(f"the reply's table is incomplete: {quoted(text)}")
    return _one(reader.tables, text)


class _HtmlTables(HTMLParser):
    """Collects the outermost tables; a cell that spans several columns or rows fills the first, the others are ""."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.depth = 0
        self._cell: list[str] | None = None
        self._rowspans: dict[int, int] = {}  # column: remaining rows covered by a cell above

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.depth += 1
            if self.depth == 1:
                self.tables.append([])
                self._rowspans = {}
        elif self.depth == 1 and tag == "tr":
            self._end_cell()
            self.tables[-1].append([])
        elif self.depth == 1 and tag in {"td", "th"} and self.tables[-1]:
            self._end_cell()
            self._start_cell(dict(attrs))
        elif self._cell is not None and tag in {"br", "p", "div", "li"}:
            self._cell.append(" ")  # these separate words, <b> and the like do not

    def handle_endtag(self, tag: str) -> None:
        if self.depth == 1 and tag in {"td", "th", "tr", "table"}:
            self._end_cell()
        if tag == "table" and self.depth:
            self.depth -= 1

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def _start_cell(self, attrs: dict[str, str | None]) -> None:
        row = self.tables[-1][-1]
        self._fill_rowspans(row)
        width, height = _span(attrs.get("colspan")), _span(attrs.get("rowspan"))
        if height > 1:
            self._rowspans |= {len(row) + column: height - 1 for column in range(width)}
        self._cell, self._width = [], width

    def _end_cell(self) -> None:
        if self._cell is not None:
            self.tables[-1][-1].extend(["".join(self._cell), *[""] * (self._width - 1)])
            self._cell = None

    def _fill_rowspans(self, row: list[str]) -> None:
        while self._rowspans.get(len(row), 0):
            self._rowspans[len(row)] -= 1
            row.append("")


def _span(value: str | None) -> int:
    plain = re.fullmatch(r"\d{1,4}", value or "", re.ASCII)
    return min(max(int(plain[0]), 1), _MAX_SPAN) if plain else 1
