"""Stages other than bib_number, from the command line and in the daemon."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image, ImageDraw, ImageFont

from bibwatch import drawing
from servers import Server, chat

SHEET = [["Place", "Bib", "Name"], ["1", "0042", "Ada Lovelace"], ["2", "1815", "Mary Anning"], ["3", "731", "Bo Ek"]]

pytestmark = pytest.mark.heavy


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    """Draw a results sheet and return its photo."""
    image = Image.new("RGB", (1000, 600), "white")
    pen = ImageDraw.Draw(image)
    for number, row in enumerate(SHEET):
        for left, cell in zip((100, 300, 500), row, strict=True):
            pen.text((left, 100 + 80 * number), cell, font=ImageFont.load_default(36), fill="black")
    folder = tmp_path / "sheets"
    folder.mkdir()
    (folder / "sheet.jpg").write_bytes(drawing.jpeg(image))
    return folder / "sheet.jpg"


def bibwatch(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bibwatch", *words], cwd=place, capture_output=True, text=True, check=False
    )


def test_a_results_sheet_becomes_csv(sheet: Path, tmp_path: Path) -> None:
    done = bibwatch(tmp_path, "read", "--stage", "table", str(sheet))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(csv.reader(done.stdout.splitlines())) == SHEET


def test_a_results_sheet_becomes_json(sheet: Path, tmp_path: Path) -> None:
    done = bibwatch(tmp_path, "read", "--stage", "table", "--json", str(sheet))
    (region,) = json.loads(done.stdout)["output"]["regions"]
    assert region["header"] == SHEET[0]
    assert region["rows"] == SHEET[1:]
    assert region["box"] == [0, 0, 1000, 600]


def test_several_files_are_labelled(sheet: Path, tmp_path: Path) -> None:
    done = bibwatch(tmp_path, "read", "--stage", "table", str(sheet), str(sheet))
    assert done.stdout.count(f"{sheet}:\nPlace,Bib,Name\n") == 2


def test_the_daemon_records_a_table(sheet: Path, tmp_path: Path) -> None:
    words = ("run", "--once", "--stage", "table", "--camera", f"sheets={sheet.parent}")
    done = bibwatch(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    connection = sqlite3.connect(tmp_path / "bibwatch.db")
    ((stage, preset, output),) = connection.execute("SELECT stage, preset, output_json FROM stage_outputs")
    bibs = connection.execute(
        "SELECT json_extract(row.value, '$[1]') FROM stage_outputs,"
        " json_each(output_json, '$.regions[0].rows') row ORDER BY row.key"
    ).fetchall()
    connection.close()
    assert (stage, preset) == ("table", "rapidocr")
    assert json.loads(output)["regions"][0]["rows"] == SHEET[1:]
    assert bibs == [("0042",), ("1815",), ("731",)]


def test_a_photo_without_a_table_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (200, 200), "white").save(tmp_path / "blank.jpg")
    done = bibwatch(tmp_path, "read", "--stage", "table", "blank.jpg")
    assert done.returncode == 1
    assert "blank.jpg: " in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("stage", ["picture_description", "vision_convert", "code_understanding"])
def test_ocr_is_refused_for_a_text_stage_before_reading(stage: str, tmp_path: Path) -> None:
    done = bibwatch(tmp_path, "read", "--stage", stage, "no-such.jpg")
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert line == (
        f"bibwatch: stages.{stage}: preset rapidocr returns lines of text, but this stage needs replies to a prompt; "
        "choose another with --preset (see `bibwatch presets`)"
    )


class Served(NamedTuple):
    """A stage with a model behind a server."""

    stage: str
    base: str  # preset to derive from
    reply: str
    question: str  # start of the prompt
    printed: str


SERVED = [
    Served(
        "bib_number",
        "qwen-vllm",
        '{"bibs": [{"number": "0042"}]}',
        "Read the race bibs that runners wear in this photo. Answer with JSON only",
        "photo.jpg: 0042 (50%, review)",
    ),
    Served(
        "picture_description",
        "qwen-vllm",
        "Two runners cross a finish line.",
        "Describe this picture in a few sentences.",
        "Two runners cross a finish line.",
    ),
    Served(
        "vision_convert",
        "qwen-vllm",
        "# Start list\n\n1. Ada Lovelace",
        "Convert this page to Markdown. Leave out nothing and add nothing.",
        "# Start list\n\n1. Ada Lovelace",
    ),
    Served(
        "vision_convert",
        "smoldocling-vllm",
        "<doctag><section_header_level_1><loc_0><loc_0><loc_250><loc_100>Start list</section_header_level_1>"
        "<text><loc_0><loc_110><loc_250><loc_150>Ada Lovelace</text></doctag>",
        "Convert this page to docling.",
        "## Start list\n\nAda Lovelace",
    ),
    Served(
        "code_understanding",
        "qwen-vllm",
        "```python\nfor bib in bibs:\n    print(bib)\n```",
        "Copy the code in this picture exactly, into one fenced block that names the language.",
        "for bib in bibs:\n    print(bib)",
    ),
    Served(
        "table",
        "qwen-vllm",
        "| Bib | Name |\n|---|---|\n| 0042 | Lovelace, Ada |",
        "Copy the table in this picture as a Markdown table, exactly and completely.",
        'Bib,Name\n0042,"Lovelace, Ada"',
    ),
    Served(
        "table",
        "smoldocling-vllm",
        "<otsl><ched>Bib<ched>Name<nl><fcel>0042<fcel>Ada Lovelace<nl></otsl>",
        "Convert table to OTSL.",
        "Bib,Name\n0042,Ada Lovelace",
    ),
]


@pytest.mark.parametrize("case", SERVED, ids=lambda case: f"{case.stage}-{case.base}")
def test_the_reply_of_a_server_is_printed(case: Served, tmp_path: Path, server: Server) -> None:
    server.answer = lambda _: chat(case.reply)
    (tmp_path / "photo.jpg").write_bytes(drawing.jpeg(drawing.photo(("0042",))))
    (tmp_path / "config.toml").write_text(f'[presets.served]\nbase = "{case.base}"\napi_url = "{server.url}"\n')
    done = bibwatch(tmp_path, "read", "--stage", case.stage, "--preset", "served", "photo.jpg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{case.printed}\n"
    asked = [each for each in server.asked if each.method == "POST"]
    assert asked[0].picture.size == (1200, 800), "the photo; what comes after it are parts of it"
    for each in asked:
        _, text = each.body["messages"][0]["content"]
        assert text["text"].startswith(case.question)


@pytest.fixture
def server_down(tmp_path: Path) -> Path:
    """Configure a preset whose server is down, and one photo; return the folder."""
    (tmp_path / "finish").mkdir()
    (tmp_path / "finish" / "photo.jpg").write_bytes(drawing.jpeg(drawing.photo(("7",))))
    (tmp_path / "config.toml").write_text(
        '[presets.remote]\nbase = "qwen-vllm"\napi_url = "http://127.0.0.1:9/v1"\n[cameras.finish]\npath = "finish"\n'
    )
    return tmp_path


def test_a_server_that_is_down_is_a_one_line_error(server_down: Path) -> None:
    done = bibwatch(server_down, "read", "--preset", "remote", "finish/photo.jpg")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("finish/photo.jpg: remote at 127.0.0.1:9 cannot be reached")


def test_the_daemon_starts_without_the_server_and_loses_no_photos(server_down: Path) -> None:
    """`--once` gives up after a while and reports that the photo is waiting; it uses up no attempts."""
    done = bibwatch(server_down, "run", "--once", "--preset", "remote")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("the photos wait in the ledger for the next run")
    connection = sqlite3.connect(server_down / "bibwatch.db")
    states = connection.execute("SELECT state, attempts FROM image_status").fetchall()
    connection.close()
    assert states == [("ready", 0)]
    done = bibwatch(server_down, "run", "--once")
    assert done.returncode == 0, done.stderr
