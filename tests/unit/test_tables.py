"""`table_text` and `table_lines`: tables from replies and from lines with boxes."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from contextlib import suppress
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from bibwatch.domain.box import Box
from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.table import Doubt, Table, TableLines, TableLinesOptions, TableText, TableTextOptions
from bibwatch.runtimes.base import Prediction, TextLine
from bibwatch.runtimes.ocr import VisionOcr, VisionOcrOptions

_TABLE = Table(("Place", "Bib", "Name"), (("1", "0042", "Anna"), ("2", "M1234", "")))


def read(text: str, *, header: bool = True) -> Table:
    return TableText(TableTextOptions(header=header)).interpret(Prediction(text=text))


@pytest.mark.parametrize(
    "text",
    [
        '[{"Place": 1, "Bib": 0042, "Name": "Anna"}, {"Place": 2, "Bib": "M1234"}]',
        '{"Place": 1, "Bib": 0042, "Name": "Anna"}\n{"Place": 2, "Bib": "M1234", "Name": null}',
        '[["Place", "Bib", "Name"], [1, "0042", "Anna"], [2, "M1234"]]',
        '{"columns": ["Place", "Bib", "Name"], "rows": [[1, 0042, "Anna"], [2, "M1234", null]]}',
        '{"header": ["Place", "Bib", "Name"], "data": [[1, 0042, "Anna"], [2, "M1234"]]}',
        '{"table": {"rows": [{"Place": 1, "Bib": "0042", "Name": "Anna"}, {"Place": 2, "Bib": "M1234"}]}}',
        'Here:\n```json\n[["Place", "Bib", "Name"], [1, 0042, "Anna"], [2, "M1234"]]\n```',
        "| Place | Bib | Name |\n|:---|---:|:-:|\n| 1 | 0042 | Anna |\n| 2 | M1234 | |",
        "Here it is:\n\nPlace | Bib | Name\n--- | --- | ---\n1 | 0042 | Anna\n2 | M1234 |\n\nThat is all.",
        "| Place | Bib | Name |\n| 1 | 0042 | Anna |\n| 2 | M1234 | |",
        "```markdown\n| Place | Bib | Name |\n|---|---|---|\n| 1 | 0042 | Anna |\n| 2 | M1234 |\n```",
        "Place,Bib,Name\n1,0042,Anna\n2,M1234\n",
        "Place;Bib;Name\n1;0042;Anna\n2;M1234;\n",
        "Place\tBib\tName\n1\t0042\tAnna\n2\tM1234\t",
        'Here is the CSV:\n\n"Place", "Bib", "Name"\n"1", "0042", "Anna"\n"2", "M1234", ""\n\nDone.',
        (
            "<table><thead><tr><th>Place</th><th>Bib</th><th>Name</th></tr></thead><tbody>"
            "<tr><td>1</td><td>00<b>42</b></td><td>Anna</td></tr><tr><td>2<td>M1234<td></tbody></table>"
        ),
        (
            "<otsl><loc_1><loc_2><loc_3><loc_4><ched>Place<ched>Bib<ched>Name<nl>\n<rhed>1<fcel>0042<fcel>Anna<nl>"
            "<rhed>2<fcel>M1234<ecel><nl><caption>Table 1</caption></otsl>"
        ),
        (
            "<ched>Place</ched><ched>Bib</ched><ched>Name</ched><nl><fcel>1</fcel><fcel>0042</fcel><fcel>Anna</fcel>"
            "<nl><fcel>2</fcel><fcel>M1234</fcel><ecel>"
        ),
    ],
)
def test_table_formats(text: str) -> None:
    assert read(text) == _TABLE


def test_without_a_header_the_first_row_is_a_row() -> None:
    assert read("1,0042\n2,", header=False) == Table((), (("1", "0042"), ("2", "")))
    assert read("[[1, 0042], [2]]", header=False) == Table((), (("1", "0042"), ("2", "")))
    assert read('[{"Bib": 0042}]', header=False) == Table(("Bib",), (("0042",),))


def test_pipes_in_cells() -> None:
    assert read("| a | b |\n|---|---|\n| 1\\|2 | 3 |").rows == (("1|2", "3"),)


def test_decimal_commas_do_not_separate_cells() -> None:
    assert read("km;time\n10,5;1:02,3\n21,1;2:00,0") == Table(("km", "time"), (("10,5", "1:02,3"), ("21,1", "2:00,0")))


def test_cells_that_span_columns_and_rows() -> None:
    html = (
        "<table><tr><th rowspan=2>Bib<th colspan=2>Time</tr><tr><th>Gun<th>Net</tr>"
        "<tr><td>0042<td>1:01<td>1:00</tr></table>"
    )
    assert read(html) == Table(("Bib", "Time", ""), (("", "Gun", "Net"), ("0042", "1:01", "1:00")))
    otsl = "<otsl><ched>Bib<ched>Time<lcel><nl><ucel><ched>Gun<ched>Net<nl><fcel>0042<fcel>1:01<fcel>1:00<nl></otsl>"
    assert read(otsl) == read(html)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("There is no table in this picture.", "no table"),
        ("Sorry, I cannot.", "no table"),
        ("| a | b |\n|---|---|", "has no rows"),
        ("| a | b |\n|---|---|\n| 1 | 2 | 3 |", "row 1 of the table has 3 cells, but its header has 2"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n\n| c | d |\n|---|---|\n| 1 | 2 |", "found 2:"),
        ("[]", "has no rows"),
        ("{}", "is not a table"),
        ('{"error": "no table"}', "is not a table"),
        ('["a", "b"]', "is not a table"),
        ('[{"a": {"b": 1}}]', "is not text"),
        ('[\n{"a": 1, "b": 2},\n{"a": 1,', "incomplete"),
        ("<table><tr><td>1", "incomplete"),
        ("<table></table><table></table>", "found 2:"),
        ("<otsl><ched>a<ched>b<nl>", "incomplete"),
        ('a,b\n"1,2', "no table"),
        ("There is no table, sorry.\nThe photo shows runners, cheering.", "no table"),
        ("Sorry, there is none\nOnly runners, and a dog", "no table"),
        ("```\na,b\n1,2\n```\n```\na,b\n3,4\n```", "found 2 blocks"),
        ("```\na,b\n1,2\n```\n| a | b |\n|---|---|\n| 3 | 4 |", "found 2 blocks"),
        ('[{"a": 1}] or [{"a": 2}]', "found 2:"),
    ],
)
def test_invalid_tables_are_errors(text: str, message: str) -> None:
    with pytest.raises(ModelReplyError, match=message):
        read(text)


_CELLS = st.text(st.sampled_from("abcÄ09 ,;|\"'<>.:-\\"), max_size=6).map(lambda cell: " ".join(cell.split()))
_WORDS = st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True)


@settings(deadline=None)
@given(
    st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(_WORDS | _CELLS, min_size=width, max_size=width), min_size=2)
    )
)
def test_json_tables_round_trip(grid: list[list[str]]) -> None:
    rows = tuple(tuple(row) for row in grid[1:] if any(row))
    assume(rows)
    assert read(json.dumps(grid)) == Table(tuple(grid[0]), rows)


@settings(deadline=None)
@given(
    st.integers(2, 4).flatmap(lambda width: st.lists(st.lists(_WORDS, min_size=width, max_size=width), min_size=2)),
    st.sampled_from(",;\t"),
)
def test_csv_markdown_html_and_otsl_tables_round_trip(grid: list[list[str]], separator: str) -> None:
    table = Table(tuple(grid[0]), tuple(map(tuple, grid[1:])))
    file = io.StringIO()
    csv.writer(file, delimiter=separator).writerows(grid)
    pipes = ["| " + " | ".join(row) + " |" for row in grid]
    html = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in grid)
    otsl = "".join("".join(f"<fcel>{cell}" for cell in row) + "<nl>" for row in grid)
    assert read(file.getvalue()) == table
    assert read("\n".join([pipes[0], "|---" * len(grid[0]) + "|", *pipes[1:]])) == table
    assert read(f"<table>{html}</table>") == table
    assert read(f"<otsl>{otsl}</otsl>") == table


# Lines with boxes


def lay(grid: list[list[str]], lefts: list[float], degrees: float = 0.0, *, align: float = 0.0) -> list[TextLine]:
    """Return the lines an OCR would see of a table whose columns begin at `lefts` (align 0), or end there (1)."""
    turn = math.radians(degrees)
    lines = []
    for number, row in enumerate(grid):
        for left, cell in zip(lefts, row, strict=True):
            width, height = 12.0 * len(cell), 24.0
            x, y = left + (0.5 - align) * width, 100.0 + 44 * number
            across, down = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
            high = height * abs(math.cos(turn)) + width * abs(math.sin(turn))
            width = width * abs(math.cos(turn)) + height * abs(math.sin(turn))
            if cell:
                box = Box(across - width / 2, down - high / 2, across + width / 2, down + high / 2)
                lines.append(TextLine(cell, 0.99, box, slope=math.tan(turn)))
    return lines


def lines_read(lines: list[TextLine], **options: bool | float) -> Table:
    random.Random(0).shuffle(lines)
    return TableLines(TableLinesOptions(**options)).interpret(Prediction(lines=tuple(lines)))


_SHEET = [
    ["Place", "Bib", "Name", "Club", "Time"],
    ["1", "0042", "Anna Keller", "TV Bern", "31:02.4"],
    ["2", "M1234", "Bo Li", "", "31:10.0"],
    ["3", "0007", "Christina Oberholzer", "LC Zug", "32:45.9"],
    ["4", "", "Dan Roth", "", "33:00.1"],
    ["5", "0815", "Eva Marti", "STB", "33:21.7"],
    ["6", "1024", "Finn Aebi", "TV Bern", ""],
    ["7", "0043", "Gian Caduff", "", "35:59.0"],
    ["8", "2048", "Hanna Frei", "LC Zug", "36:10.3"],
    ["9", "0100", "Ivo Zeller", "Run Club Thun", "36:12.8"],
    ["10", "3001", "Jana Suter", "STB", "38:40.5"],
    ["11", "0099", "Kim Weber", "", "41:07.2"],
    ["12", "0500", "Lea Graf", "TV Bern", "44:44.4"],
]
_LEFTS = [50.0, 180, 320, 620, 860]
_EXPECTED = Table(tuple(_SHEET[0]), tuple(map(tuple, _SHEET[1:])))


@pytest.mark.parametrize("degrees", [-12, -5, -2, -1, 0, 0.5, 1, 2, 5, 12])
@pytest.mark.parametrize("align", [0, 1])
def test_lines_of_a_tilted_sheet(degrees: float, align: float) -> None:
    edges = [110.0, 250, 560, 760, 930] if align else _LEFTS
    assert lines_read(lay(_SHEET, edges, degrees, align=align)) == _EXPECTED


def test_words_of_one_cell_are_joined_by_a_space() -> None:
    lines = lay(_SHEET, _LEFTS)
    (name,) = [line for line in lines if line.text == "Anna Keller"]
    middle = name.box.x1 + 60
    halves = [
        TextLine("Anna", 0.9, Box(name.box.x1, name.box.y1, middle - 10, name.box.y2)),
        TextLine("Keller", 0.9, Box(middle, name.box.y1, name.box.x2, name.box.y2)),
    ]
    assert lines_read([*(line for line in lines if line is not name), *halves]) == _EXPECTED


def test_two_cells_read_as_one_line_are_parted_where_the_columns_are() -> None:
    lines = lay(_SHEET, [50.0, 120, 190, 620, 860])
    place, bib = [next(line for line in lines if line.text == text) for text in ("12", "0500")]
    joined = TextLine("12 0500", 0.9, Box(place.box.x1, place.box.y1, bib.box.x2, bib.box.y2))
    assert lines_read([*(line for line in lines if line not in (place, bib)), joined]) == _EXPECTED


def test_a_title_and_a_footer_are_no_rows() -> None:
    title = TextLine("City Run 2026: official results of the men", 0.9, Box(60, 10, 800, 60))
    footer = TextLine("All times without any guarantee whatsoever", 0.9, Box(60, 800, 700, 824))
    narrow = TextLine("Men", 0.9, Box(50, 65, 90, 84))
    lines = lay(_SHEET, _LEFTS)
    assert lines_read([title, narrow, *lines, footer]) == _EXPECTED


@pytest.mark.parametrize("confidence", [0.3, 0.49, math.nan])
def test_a_cell_that_is_too_unsure_is_empty_and_doubtful(confidence: float) -> None:
    smudge = TextLine("%%", confidence, Box(700, 396, 720, 420))
    elsewhere = TextLine("%%", confidence, Box(700, 10, 720, 30))
    table = lines_read([*lay(_SHEET, _LEFTS), smudge, elsewhere])
    sure = 0.0 if math.isnan(confidence) else confidence
    assert table == replace(_EXPECTED, doubts=(Doubt(6, 3, "%%", sure),))


def test_an_unsure_cell_is_doubtful_and_stays() -> None:
    lines = [replace(line, score=0.7) if line.text in {"0815", "Name"} else line for line in lay(_SHEET, _LEFTS)]
    doubts = (Doubt(None, 2, "Name", 0.7), Doubt(4, 1, "0815", 0.7))
    assert lines_read(lines) == replace(_EXPECTED, doubts=doubts)
    assert lines_read(lines, sure=0.7) == _EXPECTED
    without_header = [line for line in lines if line.box.y1 > 110]
    assert lines_read(without_header, header=False).doubts == (Doubt(4, 1, "0815", 0.7),)


def test_a_sheet_with_mostly_low_scores_is_an_error() -> None:
    with pytest.raises(ModelReplyError, match="too low"):
        lines_read([replace(line, score=0.7) for line in lay(_SHEET, _LEFTS)])


def test_lines_without_a_header() -> None:
    table = lines_read(lay(_SHEET[1:], _LEFTS), header=False)
    assert table == Table((), _EXPECTED.rows)


@pytest.mark.parametrize("degrees", [0, 2, -4])
def test_one_row_is_a_table(degrees: float) -> None:
    table = lines_read(lay([_SHEET[1]], _LEFTS, degrees), header=False)
    assert table == Table((), _EXPECTED.rows[:1])
    assert lines_read(lay(_SHEET[:2], _LEFTS, degrees)) == Table(_EXPECTED.header, _EXPECTED.rows[:1])


def test_a_header_that_names_one_column_is_a_header() -> None:
    grid = [["Bib", ""], ["0042", "Anna"], ["0815", "Berta"], ["1024", "Clara"]]
    assert lines_read(lay(grid, [50.0, 200])) == Table(("Bib", ""), tuple(map(tuple, grid[1:])))


def test_one_column_is_a_table() -> None:
    grid = [["Bib"], ["0042"], ["M1234"], ["7"]]
    assert lines_read(lay(grid, [50.0])) == Table(("Bib",), (("0042",), ("M1234",), ("7",)))


@pytest.mark.parametrize("degrees", [-90, -60, -45, -30, -17, 17, 20, 25, 45, 60, 90])
def test_a_sheet_tilted_too_far_is_an_error(degrees: float) -> None:
    with pytest.raises(ModelReplyError, match=r"tilted too far|sideways|no table"):
        lines_read(lay(_SHEET, _LEFTS, degrees))


@settings(deadline=None, max_examples=50)
@given(st.floats(-90, 90), st.sampled_from([_LEFTS, [50.0, 120, 190, 620, 860], [50.0, 450, 850, 1250, 1650]]))
def test_a_sheet_is_right_or_an_error_at_any_tilt(degrees: float, lefts: list[float]) -> None:
    with suppress(ModelReplyError):
        assert lines_read(lay(_SHEET, lefts, degrees)) == _EXPECTED


def test_text_scattered_over_a_photo_is_not_a_table() -> None:
    """With spacing and sizes as on shirts and banners."""
    placed = [
        ("FINISH", 300, 20, 60), ("10 km", 620, 40, 40), ("1042", 120, 300, 48), ("1187", 420, 310, 30),
        ("CITY RUN", 110, 260, 16), ("CITY RUN", 415, 290, 12), ("31:02", 700, 120, 40), ("203", 600, 420, 36),
    ]  # fmt: skip
    lines = [TextLine(text, 0.99, Box(x, y, x + 0.5 * height * len(text), y + height)) for text, x, y, height in placed]
    with pytest.raises(ModelReplyError, match=r"no table|not in rows"):
        lines_read(lines)


def test_overlapping_lines_are_not_a_row() -> None:
    lines = lay(_SHEET, _LEFTS)
    (name,) = [line for line in lines if line.text == "Anna Keller"]
    moved = Box(name.box.x1, name.box.y1 + 8, name.box.x2, name.box.y2 + 8)
    with pytest.raises(ModelReplyError, match="no table"):
        lines_read([*lines, TextLine("Berta", 0.99, moved)])


@pytest.mark.parametrize("texts", [[], ["FINISH"], ["one", "below", "the other"]])
def test_lines_that_are_not_a_table(texts: list[str]) -> None:
    with pytest.raises(ModelReplyError, match="no table"):
        lines_read(lay([[text] for text in texts], [100.0]))


# Drawn sheets, read by the real OCR


@cache
def ocr() -> VisionOcr:
    return VisionOcr(VisionOcrOptions(threads=1))


def sheet(*, degrees: float = 0.0, rules: bool = False) -> Image.Image:
    image = Image.new("RGB", (1500, 1000), "white")
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(30)
    for number, row in enumerate(_SHEET):
        for left, cell in zip((100, 260, 430, 860, 1170), row, strict=True):
            pen.text((left, 120 + 60 * number), cell, font=font, fill="black")
        if rules:
            pen.line((80, 108 + 60 * number, 1400, 108 + 60 * number), fill="gray", width=2)
    return image.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor="white")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("degrees", "rules"), [(0, False), (0, True), (-1, True), (2, False), (-6, False), (12, False)]
)
def test_a_drawn_results_sheet_is_read_exactly(degrees: float, rules: bool) -> None:  # noqa: FBT001
    (prediction,) = ocr().predict_batch([sheet(degrees=degrees, rules=rules)], "")
    assert TableLines(TableLinesOptions()).interpret(prediction) == _EXPECTED


@pytest.mark.heavy
@pytest.mark.parametrize("degrees", [25, 90])
def test_a_drawn_sheet_tilted_too_far_is_an_error(degrees: float) -> None:
    (prediction,) = ocr().predict_batch([sheet(degrees=degrees)], "")
    with pytest.raises(ModelReplyError, match=r"tilted too far|sideways"):
        TableLines(TableLinesOptions()).interpret(prediction)
