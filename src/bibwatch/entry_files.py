"""Start list files: CSV or XLSX, whatever the delimiter, the encoding and the name of the column with the bibs.

Knows files and the many names of a bib number. Does not know what a start list is for.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bibwatch.domain.candidates import normalized
from bibwatch.errors import ConfigurationError

# How a column of bibs may be headed, without spaces, signs and accents; of several in one file the first here counts.
BIB_HEADERS = (
    *("bib", "bibs", "bibno", "bibnr", "bibnum", "bibnumber", "racebib", "racebibnumber"),  # English
    *("racenumber", "raceno", "racenum", "startnumber", "startno", "runnernumber", "competitornumber"),
    *("startnummer", "startnr", "stnr", "snr", "stn"),  # German, Dutch, Danish, Swedish
    *("startnummern", "rugnummer", "borstnummer", "nummerlapp", "kilpailunumero"),
    *("dossard", "dossards", "ndossard", "nodossard", "numdossard", "numerodossard", "numerodedossard"),  # French
    *("dorsal", "dorsales", "ndorsal", "nodorsal", "numerodorsal", "numerodedorsal"),  # Spanish
    *("pettorale", "pettorali", "pett", "npettorale", "numerodipettorale", "pettorina"),  # Italian
    *("peitoral", "numerodepeito", "numeropeito", "numerstartowy", "startovnicislo"),  # Portuguese, Polish, Czech
    *("number", "nummer", "numero", "numer", "num", "no", "nr", "n"),
)
_DELIMITERS = ",;\t|"
_HEADER_ROWS = 10  # a title may stand above the header
_NAMED = 5  # rows that a note names
_SIGNS = re.compile(r"[^a-z]")


@dataclass(frozen=True)
class Entry:
    """One runner: the bib as printed, and the other columns."""

    bib: str
    fields: dict[str, str]


@dataclass(frozen=True)
class EntryFile:
    """What a file holds, and how it was understood."""

    entries: tuple[Entry, ...]
    column: str | None  # the header of the column with the bibs; None: no header, one column
    columns: tuple[str, ...]  # the headers of the others
    notes: tuple[str, ...]  # what was left out or mended, a line each


def load(path: Path) -> EntryFile:
    """Return the entries of a file, in its order. Raises ConfigurationError that names file, row and remedy."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"start list {path}: cannot be read ({exc.strerror})") from exc
    rows = _workbook(path, data) if data.startswith(b"PK\x03\x04") else _table(path, data)
    return _entries(path, rows)


def _table(path: Path, data: bytes) -> list[list[str]]:
    text = _decoded(data)
    if "\0" in text:
        raise ConfigurationError(f"start list {path}: neither CSV nor XLSX; save it as one of them")
    try:
        tables = [_split(text, delimiter) for delimiter in _DELIMITERS]
    except csv.Error as exc:
        raise ConfigurationError(f"start list {path}: not CSV ({exc}); save it as CSV or XLSX") from exc
    return max(tables, key=_columns)  # of equals the first


def _split(text: str, delimiter: str) -> list[list[str]]:
    return [list(map(str.strip, row)) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)]


def _columns(table: Sequence[Sequence[str]]) -> int:
    """Return the number of columns of the header; 0 where no row has a column that is named as bibs are."""
    return next((len(row) for row in table[:_HEADER_ROWS] if _bib_column(row) is not None), 0)


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # "Unicode text" of a spreadsheet program
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # takes any byte; bibs are ASCII in both


def _workbook(path: Path, data: bytes) -> list[list[str]]:
    """Return the rows of the first sheet, as it shows them."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some programs write a wrong size
            return [[_shown(cell) for cell in row] for row in sheet.iter_rows()]
        finally:
            book.close()
    except Exception as exc:  # what a parser makes of a broken file can be anything
        raise ConfigurationError(
            f"start list {path}: not an XLSX workbook that can be read; save it again, or as CSV"
        ) from exc


def _shown(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    zeros = re.fullmatch(r"0+", str(getattr(cell, "number_format", "")))
    if zeros and isinstance(value, int) and not isinstance(value, bool):
        return str(value).zfill(len(zeros[0]))
    return str(value).strip()


def _entries(path: Path, rows: Sequence[Sequence[str]]) -> EntryFile:
    filled = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    if not filled:
        raise ConfigurationError(f"start list {path}: empty; it needs a column of bibs under a header such as `bib`")
    place, header, first = _header(path, filled)
    names = [name or f"column {index + 1}" for index, name in enumerate(header)]
    notes = _Notes()
    seen: dict[str, int] = {}
    entries: list[Entry] = []
    for number, row in filled[first:]:
        bib = _bib(row[place] if place < len(row) else "", number, notes)
        if bib is None:
            continue
        if bib in seen:
            notes.add("the bib of an earlier row, which counts", f"{number} ({bib}, row {seen[bib]})")
            continue
        seen[bib] = number
        fields = {name: value for index, (name, value) in enumerate(zip(names, row, strict=False)) if index != place}
        entries.append(Entry(bib, fields))
    if not entries:
        why = "; ".join(notes.lines()) or "there is no row below the header"
        raise ConfigurationError(f"start list {path}: no bib in column {names[place]!r}: {why}")
    others = tuple(name for index, name in enumerate(names) if index != place)
    return EntryFile(tuple(entries), names[place] if first else None, others, notes.lines())


def _header(path: Path, filled: Sequence[tuple[int, Sequence[str]]]) -> tuple[int, Sequence[str], int]:
    """Return the column with the bibs, the header, and how many rows come before the first entry."""
    for index, (_, row) in enumerate(filled[:_HEADER_ROWS]):
        if (column := _bib_column(row)) is not None:
            return column, row, index + 1
    if all(len(row) == 1 or not any(row[1:]) for _, row in filled) and _has_digit(filled[0][1][0]):
        return 0, ["bib"], 0
    number, row = filled[0]
    raise ConfigurationError(
        f"start list {path}: row {number} has no column that is named as bibs are (bib, number, startnummer, "
        f"dossard, dorsal, ...): {', '.join(map(repr, filter(None, row)))}; rename the right one to bib"
    )


def _bib_column(row: Sequence[str]) -> int | None:
    names = list(map(_plain, row))
    return next((names.index(name) for name in BIB_HEADERS if name in names), None)


def _plain(header: str) -> str:
    """Return a header as `BIB_HEADERS` has it; `#` is a number, too."""
    if header.strip() == "#":
        return "no"
    return _SIGNS.sub("", unicodedata.normalize("NFKD", header).casefold())


def _bib(text: str, row: int, notes: _Notes) -> str | None:
    """Return a bib as printed; None where there is none."""
    plain = " ".join(text.split())
    if number := re.fullmatch(r"(\d+)[.,]0+", plain):
        notes.add("a number with decimals, which are left out", f"{row} ({plain})")
        plain = number[1]
    if not plain:
        notes.add("no bib", str(row))
        return None
    if not _has_digit(plain):
        notes.add("a bib without a digit", f"{row} ({plain})")
        return None
    return normalized(plain)


def _has_digit(text: str) -> bool:
    return any("0" <= character <= "9" for character in text)


class _Notes:
    """What is to be told of rows, by kind."""

    def __init__(self) -> None:
        self._rows: dict[str, list[str]] = {}

    def add(self, what: str, row: str) -> None:
        self._rows.setdefault(what, []).append(row)

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines())

    def _lines(self) -> Iterator[str]:
        for what, rows in self._rows.items():
            named = ", ".join(rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
            yield f"{len(rows)} {'row has' if len(rows) == 1 else 'rows have'} {what}: row {named}"
