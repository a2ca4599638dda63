"""The ways to write a table as text: JSON, Markdown, CSV, HTML and OTSL; each becomes rows of cells.

Does not know which row is the header, unless the way of writing says so.
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
_RULE = re.compile(r"\|?:?-+:?(\|:?-+:?)*\|?")  # under a header in Markdown, its spaces left out
_TAG_IN_TAG = re.compile(r"<[a-zA-Z/][^<>]*<")
_PIPE = re.compile(r"(?<!\\)\|")
_SENTENCE = re.compile(r"[A-Z]\S*(?:\s+\S+){3,}[.!?]")
_NAMES = ("columns", "header", "headers")
_ROWS = ("rows", "data", "table")
_WIDEST = 1000  # columns that one cell of HTML may span


class Written(NamedTuple):
    """Rows of cells; `names` are the columns' where the way of writing names them apart."""

    rows: Sequence[Sequence[str]]
    names: Sequence[str] | None = None


def written_table(text: str) -> Written:
    """Return the one table in a reply. Raises ModelReplyError if there is none, or if there are several."""
    blocks = fences(text)
    number = len(blocks) + (bool(blocks) and _has_markup(without_fences(text)))
    if number > 1:
        raise ModelReplyError(f"{number} blocks in the reply, one table is wanted: {quoted(text)}")
    text = blocks[0].text if blocks else text
    if _is_html(text):
        return Written(_html(text))
    if is_otsl(text):
        return Written(_otsl(text))
    if blocks_of_pipes := _pipe_tables(text):
        return Written(_one(blocks_of_pipes, text))
    if _JSON.search(text):
        return _json(_one_json(json_values(text), text), text)
    return Written(_csv(text))


def _has_markup(text: str) -> bool:
    """Return whether a text has a table that cannot be taken for prose."""
    return _is_html(text) or is_otsl(text) or bool(_pipe_tables(text))


def _is_html(text: str) -> bool:
    return bool(re.search(r"<table\b", text, re.IGNORECASE))


def _one(tables: Sequence[Sequence[Sequence[str]]], text: str) -> Sequence[Sequence[str]]:
    if len(tables) != 1:
        raise ModelReplyError(f"{len(tables) or 'no'} tables in the reply, one is wanted: {quoted(text)}")
    return tables[0]


def _one_json(found: Json, text: str) -> Any:
    """Return the one value, or records one a line as a list of them."""
    if len(found.values) == 1:
        return found.values[0]
    if found.scattered:
        raise ModelReplyError(f"{len(found.values)} tables in the reply, one is wanted: {quoted(text)}")
    return found.values


def _json(value: Any, text: str) -> Written:
    """Read a list of records, a list of rows, or an object that has columns and rows."""
    names = None
    if isinstance(value, dict):
        names = next((value[name] for name in _NAMES if name in value), None)
        value = next((value[name] for name in _ROWS if name in value), None)
        if isinstance(value, dict):
            return _json(value, text)
    if not isinstance(value, list) or not (names is None or isinstance(names, list)):
        raise ModelReplyError(f"the reply's JSON is no table: {quoted(text)}")
    if value and all(isinstance(row, dict) for row in value):
        keys = list(dict.fromkeys(key for row in value for key in row))
        return Written([[_cell(row.get(key), text) for key in keys] for row in value], keys)
    if not all(isinstance(row, list) for row in value):
        raise ModelReplyError(f"the reply's JSON is no table: {quoted(text)}")
    rows = [[_cell(cell, text) for cell in row] for row in value]
    return Written(rows, None if names is None else [_cell(name, text) for name in names])


def _cell(value: Any, text: str) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            return value
    raise ModelReplyError(f"a cell of the reply's table is not text: {quoted(text)}")


def _pipe_tables(text: str) -> list[list[list[str]]]:
    """Return the Markdown tables: lines with pipes that all begin with one, or whose second is the rule."""
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if _PIPE.search(line):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [_pipe_rows(lines) for lines in found if _is_pipe_table(lines)]


def _is_pipe_table(lines: Sequence[str]) -> bool:
    return len(lines) > 1 and (_is_rule(lines[1]) or all(line.lstrip().startswith("|") for line in lines))


def _is_rule(line: str) -> bool:
    return bool(_RULE.fullmatch("".join(line.split())))


def _pipe_rows(lines: Sequence[str]) -> list[list[str]]:
    return [_pipe_cells(line) for number, line in enumerate(lines) if number != 1 or not _is_rule(line)]


def _pipe_cells(line: str) -> list[str]:
    cells = [cell.strip().replace("\\|", "|") for cell in _PIPE.split(line.strip())]
    return cells[not cells[0] : len(cells) - (len(cells) > 1 and not cells[-1])]


def _csv(text: str) -> list[list[str]]:
    """Read the block of lines that some separator divides as its first line, into two columns or more."""
    for block in (text, *re.split(r"\n\s*\n", text)):
        found = [rows for separator in ",;\t|" if not _is_prose(block) and (rows := _separated(block, separator))]
        if found:
            return max(found, key=lambda rows: len(rows[0]))
    raise ModelReplyError(f"no table in the reply: {quoted(text)}")


def _is_prose(text: str) -> bool:
    """Return whether lines are sentences: half of them look so, or all commas are those of words."""
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
        raise ModelReplyError(f"the reply's table does not end: {quoted(text)}")
    return _one([otsl_rows(table.partition("</otsl>")[0]) for table in tables or [text]], text)


def _html(text: str) -> Sequence[Sequence[str]]:
    if _TAG_IN_TAG.search(text):  # html.parser would look at the rest of the reply again for each
        raise ModelReplyError(f"a tag of the reply's table does not end: {quoted(text)}")
    reader = _HtmlTables()
    try:
        reader.feed(re.sub(r"<[!?][^>]*>?", "", text))
        reader.close()
    except ValueError as exc:  # a character reference of thousands of digits
        raise ModelReplyError(f"the reply's table is not HTML: {quoted(text)}") from exc
    if reader.depth:
        raise ModelReplyError(f"the reply's table does not end: {quoted(text)}")
    return _one(reader.tables, text)


class _HtmlTables(HTMLParser):
    """Collects the outermost tables; what spans several columns or rows stands in its first, the others are ""."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.depth = 0
        self._cell: list[str] | None = None
        self._below: dict[int, int] = {}  # column: rows in which a cell from above is still there

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.depth += 1
            if self.depth == 1:
                self.tables.append([])
                self._below = {}
        elif self.depth == 1 and tag == "tr":
            self._end_cell()
            self.tables[-1].append([])
        elif self.depth == 1 and tag in {"td", "th"} and self.tables[-1]:
            self._end_cell()
            self._start_cell(dict(attrs))
        elif self._cell is not None and tag in {"br", "p", "div", "li"}:
            self._cell.append(" ")  # they part words, <b> and the like do not

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
        self._from_above(row)
        width, height = _span(attrs.get("colspan")), _span(attrs.get("rowspan"))
        if height > 1:
            self._below |= {len(row) + column: height - 1 for column in range(width)}
        self._cell, self._width = [], width

    def _end_cell(self) -> None:
        if self._cell is not None:
            self.tables[-1][-1].extend(["".join(self._cell), *[""] * (self._width - 1)])
            self._cell = None

    def _from_above(self, row: list[str]) -> None:
        while self._below.get(len(row), 0):
            self._below[len(row)] -= 1
            row.append("")


def _span(written: str | None) -> int:
    plain = re.fullmatch(r"\d{1,4}", written or "", re.ASCII)
    return min(max(int(plain[0]), 1), _WIDEST) if plain else 1
