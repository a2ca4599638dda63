"""Start list files: whatever a race's software writes, and in words what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bibwatch import entry_files
from bibwatch.entry_files import BIB_HEADERS, EntryFile
from bibwatch.errors import ConfigurationError

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        file = tmp_path / "entries.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


@pytest.fixture
def workbook(tmp_path: Path) -> Callable[..., Path]:
    def workbook(*rows: list[Any], formats: dict[str, str] | None = None) -> Path:
        book = openpyxl.Workbook()
        sheet = book.active
        assert sheet is not None
        for row in rows:
            sheet.append(row)
        for cell, number_format in (formats or {}).items():
            sheet[cell].number_format = number_format
        book.save(tmp_path / "entries.xlsx")
        return tmp_path / "entries.xlsx"

    return workbook


def bibs(found: EntryFile) -> list[str]:
    return [entry.bib for entry in found.entries]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_any_delimiter_and_encoding(write: Write, delimiter: str, encoding: str) -> None:
    lines = ["Name;Startnummer;Ort", "Jörg;0042;Köln", "Anna;M101;Bern"]
    text = "\r\n".join(lines).replace(";", delimiter)
    found = entry_files.load(write(text.encode(encoding)))
    assert bibs(found) == ["0042", "M101"]
    assert found.entries[0].fields == {"Name": "Jörg", "Ort": "Köln"}
    assert (found.column, found.columns, found.notes) == ("Startnummer", ("Name", "Ort"), ())


@pytest.mark.parametrize(
    "header",
    [
        *("bib", "Bib", "BIB #", "Bib Number", "bib_no", "Race Number", "No.", "Nr", "#", "Number", "Start-Nr."),
        *("Startnummer", "StNr", "Dossard", "N° dossard", "Numéro de dossard", "Dorsal", "Pettorale", "Número"),
    ],
)
def test_the_column_is_found_by_its_header(write: Write, header: str) -> None:
    found = entry_files.load(write(f"Place,{header},Name\n1,42,Anna\n"))
    assert (bibs(found), found.column) == (["42"], header)


def test_every_header_of_the_table_is_one_that_can_be_written() -> None:
    assert all(header.isascii() and header.isalpha() and header.islower() for header in BIB_HEADERS)
    assert len(set(BIB_HEADERS)) == len(BIB_HEADERS)


def test_of_several_such_columns_the_plainest_counts(write: Write) -> None:
    assert bibs(entry_files.load(write("No,Name,Bib\n1,Anna,42\n"))) == ["42"]


def test_names_with_other_delimiters_do_not_confuse(write: Write) -> None:
    text = 'Title\n\nNr;Name\n42;Meyer, Anna, Dr, MA\n43;"Kim; jr\n2nd"\n44;X\n'
    found = entry_files.load(write(text))
    assert bibs(found) == ["42", "43", "44"]
    assert found.entries[1].fields == {"Name": "Kim; jr\n2nd"}


def test_a_single_column_needs_no_header(write: Write) -> None:
    found = entry_files.load(write("0042\n43\n"))
    assert (bibs(found), found.column, found.columns) == (["0042", "43"], None, ())


def test_what_is_odd_is_mended_or_left_out_and_told(write: Write) -> None:
    found = entry_files.load(write("bib,name\n12.0,A\n,B\n42,C\nDNS,D\n42,E\n m 101 ,F\n,,\n,G\n"))
    assert bibs(found) == ["12", "42", "M101"]
    assert found.notes == (
        "1 row has a number with decimals, which are left out: row 2 (12.0)",
        "2 rows have no bib: row 3, 9",
        "1 row has a bib without a digit: row 5 (DNS)",
        "1 row has the bib of an earlier row, which counts: row 6 (42, row 4)",
    )


def test_a_workbook_is_read_as_it_shows(workbook: Callable[..., Path]) -> None:
    rows = (["City Run"], [], ["Bib", "Name"], [42, "A"], [12.0, "B"], ["0007", "C"], ["M10151", None], [None, "D"])
    found = entry_files.load(workbook(*rows, formats={"A4": "0000"}))
    assert bibs(found) == ["0042", "12", "0007", "M10151"]
    assert found.entries[0].fields == {"Name": "A"}
    assert found.notes == ("1 row has no bib: row 8",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty; it needs a column of bibs under a header such as `bib`"),
        ("\n , \n", "empty; it needs a column"),
        ("Place,Runner\n1,Anna\n", "row 1 has no column that is named as bibs are (bib, number, startnummer, "),
        ("Place,Runner\n1,Anna\n", "'Place', 'Runner'; rename the right one to bib"),
        ("bib,name\n,Anna\n", "no bib in column 'bib': 1 row has no bib: row 2"),
        ("bib,name\n", "no bib in column 'bib': there is no row below the header"),
        (b"PK\x03\x04 broken", "not an XLSX workbook that can be read; save it again, or as CSV"),
        (b"\x89PNG\r\n\x00\x00", "neither CSV nor XLSX; save it as one of them"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(write: Write, content: str | bytes, message: str) -> None:
    file = write(content)
    with pytest.raises(ConfigurationError) as raised:
        entry_files.load(file)
    assert str(raised.value).startswith(f"start list {file}: ")
    assert message in str(raised.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"entries\.csv: cannot be read \(No such file or directory\)"):
        entry_files.load(tmp_path / "entries.csv")


@given(st.binary(max_size=200))
def test_no_file_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(content)
    with suppress(ConfigurationError):
        assert entry_files.load(file).entries
