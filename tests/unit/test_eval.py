"""`bibwatch eval`: figures and report of drawn photos, and mistakes in what it is given."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from bibwatch import cli, evaluation, evaluation_report
from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.evaluation import ReadPhoto
from bibwatch.evaluation_report import Setup
from bibwatch.images import ImageLimits
from bibwatch.judging import Race, Rules
from bibwatch.labels import Label, LabelledPhoto
from servers import Server, chat, error

Eval = Callable[..., Result]
SERVED = 'preset = "served"\n[presets.served]\nkind = "vision_openailike_api"\napi_url = "{}"\nmodel_name = "m"\n'


@pytest.fixture
def run_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eval:
    """Call `bibwatch eval` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        result = CliRunner().invoke(cli.cli, ["eval", *words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


class Tags(HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "line", "circle", "rect", "polyline"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures(page: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode((attributes["src"] or "").partition(",")[2])))
        for tag, attributes in Tags(page).tags
        if tag == "img"
    ]


@pytest.mark.heavy
def test_drawn_photos_with_the_bundled_ocr(run_eval: Eval, draw: Callable[..., bytes]) -> None:
    Path("images").mkdir()
    for name, bibs in (("one.jpg", ("1042",)), ("two.jpg", ("317", "2456")), ("three.jpg", ("88", "4711"))):
        Path("images", name).write_bytes(draw(*bibs))
    Path("images/note.jpg").write_text("this is no photo at all")
    Path("labels.csv").write_text(
        "file,bibs,race\none.jpg,1042,a\ntwo.jpg,317 2457 999,b\nthree.jpg,88,b\nnote.jpg,5,b\n"
    )
    Path("extras.csv").write_text("file,bib\nthree.jpg,4711\n")
    result = run_eval("labels.csv", "--accept-at", "0", "--report", "out/report", "--json")
    assert result.exit_code == 1
    assert "note.jpg: undecodable: not a photo" in result.stderr
    found = json.loads(result.stdout)
    assert (found["photos"], found["failed"], found["labelled"]) == (4, 1, 6)
    assert {name: found["all"][name] for name in ("right", "wrong")} == {"right": 3, "wrong": 1}
    assert found["all"]["precision"]["value"] == 0.75
    assert found["all"]["precision"]["low"] <= 0.75 <= found["all"]["precision"]["high"]
    assert found["all"]["recall"]["value"] == 0.5
    assert found["accepted"] == found["all"]
    assert found["candidate_recall"] == 0.5
    assert found["reviews_per_photo"] == 0
    assert found["seconds_per_photo"] > 0
    assert {name: race["labelled"] for name, race in found["races"].items()} == {"a": 1, "b": 5}
    assert found["races"]["a"]["all"]["f"]["value"] == 1
    (wrong,) = found["wrong"]
    assert (wrong["file"], wrong["bib"], wrong["nearest_label"]) == ("two.jpg", "2456", "2457")
    misses = {miss["bib"]: miss for miss in found["misses"]}
    assert misses.keys() == {"2457", "999", "5"}
    assert misses["2457"]["nearest"][0]["text"] == "2456"
    assert found["errors"].keys() == {"note.jpg"}
    page = Path("out/report/report.html").read_text()
    assert "Of 6 labelled bibs, 3 are accepted, 0 wait in review and 3 are missed." in page
    assert "note.jpg" in page
    assert len(pictures(page)) == 3  # of 2456, 2457 and 999; the photo with 5 cannot be opened


def test_the_tables(run_eval: Eval, server: Server, draw: Callable[..., bytes]) -> None:
    server.answer = lambda _: chat('{"bibs": [{"number": "1042"}]}')
    Path("config.toml").write_text(SERVED.format(server.url))
    Path("a.jpg").write_bytes(draw("1042"))
    Path("b.jpg").write_bytes(draw("1043"))
    Path("labels.csv").write_text("file,bibs\na.jpg,1042\nb.jpg,1043\n")
    result = run_eval("labels.csv")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0].startswith("preset served, ")
    assert any(line.startswith("all photos: 2 photos, 2 bibs, 100.0% of them among the candidates") for line in lines)
    assert "all 1 1 50.0% (0.0 to 100.0) 50.0% (0.0 to 100.0) 50.0% (0.0 to 100.0)" in lines
    assert any(line.startswith("0.95 (set) ") for line in lines)
    assert "no race named" not in result.stdout


def test_a_photo_without_an_answer_is_listed(run_eval: Eval, server: Server, draw: Callable[..., bytes]) -> None:
    server.answer = lambda asked: error(400, "a strange picture") if asked.picture.width == 600 else chat("{}")
    Path("config.toml").write_text(SERVED.format(server.url))
    Path("a.jpg").write_bytes(draw("1042"))
    Path("labels.csv").write_text("file,bibs\na.jpg,1042\n")
    result = run_eval("labels.csv", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["failed"] == 1
    assert found["all"]["recall"]["value"] == 0
    assert found["all"]["precision"] == {"value": None, "low": None, "high": None}
    assert "a strange picture" in found["errors"]["a.jpg"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("none.csv",), 1, "none.csv cannot be read as CSV"),
        (("bad.csv",), 1, "bad.csv: the first line must name the columns file,bibs"),
        (("labels.csv", "--images", "elsewhere"), 1, "1 of the 1 photos of labels.csv are not in elsewhere: a.jpg"),
        (("labels.csv", "--report", "a.jpg"), 1, "--report a.jpg: cannot be made a folder"),
        (("labels.csv", "--stage", "table"), 2, "eval is about bibs, and stage table reads none"),
        ((), 2, "Missing argument 'LABELS.csv'"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    run_eval: Eval, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, message: str
) -> None:
    Path("a.jpg").touch()
    Path("labels.csv").write_text("file,bibs\na.jpg,1\n")
    Path("bad.csv").write_text("photo,number\na.jpg,1\n")
    monkeypatch.setattr(cli.sys, "argv", ["bibwatch", "eval", *words])
    monkeypatch.setattr("bibwatch.stages.base.Stage.warm_up", lambda _: pytest.fail("loaded"))
    said = io.StringIO()
    monkeypatch.setattr(cli.sys, "stderr", said)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert message in said.getvalue().splitlines()[-1]


# The page


SETUP = Setup("<labels>.csv", "bib_number", "rapidocr", "PP-OCRv6", 0.95, 0.5)


def page_of(*reads: ReadPhoto) -> str:
    judged = evaluation.judge_photos(reads, Race(), Rules())
    return evaluation_report.page(SETUP, judged, evaluation.sweep(reads, Race(), Rules()), ImageLimits())


def seen(text: str, score: float, box: Box | None = None) -> Candidate:
    return Candidate(text, score, box, source=Source.LINE)


def test_every_mistake_has_its_picture_and_its_reasons(tmp_path: Path, draw: Callable[..., bytes]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(draw("1042"))
    labels = (Label("1442", ("1443",), Box(10, 10, 60, 30)), Label("999"))
    photo = LabelledPhoto("<a>.jpg", path, labels, race="<r>")
    candidates = (seen("442", 0.99, Box(100, 100, 150, 120)), seen("77", 0.86), seen("1442", 0.3, Box(9, 9, 60, 30)))
    page = page_of(ReadPhoto(photo, candidates))
    accepted, missed, review = re.split("<h2>(?:Missed|Wrong)", page)[1:]
    assert "442" in accepted
    assert "like 1442, which is labelled" in accepted
    assert "nothing spoke against it" in accepted
    assert "1442 (0.300) rejected: confidence 0.300 is below 0.85" in missed
    assert "in the notes: 1443" in missed
    assert "nothing like it was seen" in missed
    assert "probability 0.860 is below 0.95" in review
    assert "&lt;r&gt;: &lt;a&gt;.jpg" in missed
    assert "<a>" not in page
    crop, place, whole, other = pictures(page)
    assert crop.size == place.size == (420, 280) or min(crop.width, place.width) > 100
    assert whole.size == other.size == (420, 280)  # of 600x400: no place is known


def test_the_page_stands_alone_and_is_well_formed(tmp_path: Path) -> None:
    page = page_of(ReadPhoto(LabelledPhoto("a.jpg", tmp_path / "gone.jpg", (Label("1"),)), error="a <reason>"))
    tags = Tags(page)
    assert tags.open == []
    assert not {tag for tag, _ in tags.tags} & {"script", "link", "iframe"}
    assert not any((attributes.get("src") or "data:").startswith("http") for _, attributes in tags.tags)
    assert "url(" not in page
    assert "a &lt;reason&gt;" in page
    assert "the photo could not be opened" in page
    assert "$" not in page


def test_the_page_of_photos_without_a_bib(tmp_path: Path) -> None:
    page = page_of(ReadPhoto(LabelledPhoto("a.jpg", tmp_path / "a.jpg")))
    assert "No bib is labelled; 0 were read, 0 of them accepted." in page
    assert page.count("<p>None.</p>") == 3


@pytest.mark.parametrize(
    "box", [Box(-50, -50, -10, -10), Box(590, 390, 900, 800), Box(5, 5, 5, 5), Box(0, 0, 600, 400)]
)
def test_a_box_may_lie_anywhere(tmp_path: Path, draw: Callable[..., bytes], box: Box) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(draw("1042"))
    (picture,) = pictures(page_of(ReadPhoto(LabelledPhoto("a.jpg", path, (Label("7", box=box),)))))
    assert 0 < picture.width <= 420
    assert 0 < picture.height <= 280
