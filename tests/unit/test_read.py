"""`bibwatch read`: folders, and the picture of --explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from bibwatch import annotation, cli
from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.domain.readings import Reading, Reason, Verdict
from bibwatch.errors import BibwatchError
from bibwatch.images import Photo
from bibwatch.judging import Judge, Judgement
from bibwatch.judging.explanation import Explanation, explain
from servers import Server, chat

Read = Callable[..., Result]
SERVED = 'preset = "served"\n[presets.served]\nkind = "vision_openailike_api"\napi_url = "{}"\nmodel_name = "m"\n'


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Read:
    """Call `bibwatch read` in an empty folder, with a model that sees 1042 and a year in every photo."""
    monkeypatch.chdir(tmp_path)
    server.answer = lambda _: chat('{"bibs": [{"number": "1042"}, {"number": "2026"}]}')
    Path("config.toml").write_text(SERVED.format(server.url))

    def read(*words: str) -> Result:
        result = CliRunner().invoke(cli.cli, ["read", *words])
        if result.exception and not isinstance(result.exception, SystemExit | BibwatchError):
            raise result.exception
        return result

    return read


def put(data: bytes, *names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def paths(result: Result) -> list[str]:
    return [json.loads(line)["path"] for line in result.stdout.splitlines()]


def test_a_folder_is_walked_as_a_cameras_is(read: Read, draw: Callable[..., bytes]) -> None:
    put(draw("1042"), "card/b/2.jpg", "card/b/10.JPG", "card/a.png", "z.jpg")
    put(
        b"x",
        "card/.hidden.jpg",
        "card/b/2.cr3",
        "card/alone.nef",
        "card/notes.txt",
        "card/@eaDir/2.jpg",
        "card/3.jpg.part",
    )
    result = read("--json", "z.jpg", "card")
    assert result.exit_code == 0, result.output
    assert paths(result) == ["z.jpg", "card/a.png", "card/b/10.JPG", "card/b/2.jpg"]


def test_a_folder_without_photos_and_one_that_cannot_be_listed(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").mkdir()
    result = read("empty")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "empty: no photos\n")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bibwatch.ingest.scanning.os.scandir", refuse)
    result = read("empty")
    assert result.exit_code == 1
    assert result.stderr == "empty: cannot be listed: Permission denied\n"


def test_explain_draws_the_photo(read: Read, draw: Callable[..., bytes]) -> None:
    put(draw("1042"), "photo.jpg")
    for _ in range(2):  # the second time over the first
        result = read("--explain", "out.png", "photo.jpg")
        assert result.exit_code == 0, result.output
    assert "1042" in result.stdout
    with Image.open("out.png") as picture:
        assert picture.width == 1200
        assert picture.height > 800


def test_explain_takes_a_folder_with_one_photo(read: Read, draw: Callable[..., bytes]) -> None:
    put(draw("1042"), "card/photo.jpg")
    assert read("--explain", "out.png", "card").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("out.png", "photo.jpg", "photo.jpg"), "--explain draws one photo, not 2"),
        (("out.png", "empty"), "--explain draws one photo, not 0"),
        (("photo.jpg", "other.jpg"), "--explain writes a PNG; name it so: photo.png"),
        (("photo.png", "photo.jpg"), "--explain overwrites only what it has drawn, and photo.png is none of that"),
        (("out.png", "photo.jpg", "--stage", "table"), "--explain is about bibs, and stage table reads none"),
    ],
)
def test_explain_refuses_what_it_cannot_do(
    read: Read, draw: Callable[..., bytes], words: tuple[str, ...], message: str
) -> None:
    photo = draw("1042")
    put(photo, "photo.jpg", "photo.png")
    Path("empty").mkdir()
    result = read("--explain", *words)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {message}"
    assert Path("photo.jpg").read_bytes() == Path("photo.png").read_bytes() == photo


def test_a_picture_that_cannot_be_written(read: Read, draw: Callable[..., bytes]) -> None:
    put(draw("1042"), "photo.jpg")
    result = read("--explain", "none/out.png", "photo.jpg")
    assert str(result.exception) == "none/out.png cannot be written: No such file or directory"


# The picture


BOX = Box(200, 100, 300, 160)
LINE = Candidate("1042", 0.99, BOX, source=Source.LINE)
READING = Reading("1042", 0.99, Verdict.ACCEPTED, BOX)


def at(picture: Image.Image, x: float, y: float) -> str:
    return "#{:02x}{:02x}{:02x}".format(*picture.getpixel((round(x), round(y))))  # type: ignore[misc]


def photo(size: tuple[int, int], shown: float = 1.0) -> Photo:
    """Make a black photo that is decoded at a share of its size."""
    image = Image.new("RGB", (round(size[0] * shown), round(size[1] * shown)))
    return Photo(image, *size, sha256="", captured_at=None)


@pytest.mark.parametrize(
    ("reading", "colour"),
    [
        (READING, "accepted"),
        (replace(READING, verdict=Verdict.REVIEW, reasons=(Reason("year", "may be a year"),)), "review"),
        (None, "rejected"),
    ],
)
@pytest.mark.parametrize(
    ("size", "shown", "drawn"),
    [((400, 300), 1.0, 1200), ((1600, 1200), 1.0, 1600), ((6000, 4000), 1.0, 2400), ((6000, 4000), 0.25, 1500)],
)
def test_a_box_has_the_colour_of_its_verdict(
    reading: Reading | None, colour: str, size: tuple[int, int], shown: float, drawn: int
) -> None:
    """On small and large photos, and on those decoded smaller than they are."""
    factor = drawn / size[0]
    place = BOX.scaled(size[0] / 400)
    picture = annotation.annotate(photo(size, shown), [Explanation(replace(LINE, box=place), reading, ("why",))])
    assert picture.width == drawn
    middle = (place.y1 + place.y2) / 2 * factor
    assert at(picture, place.x1 * factor - 2, middle) == annotation.COLOURS[colour]
    assert at(picture, place.x2 * factor + 2, middle) == annotation.COLOURS[colour]
    assert at(picture, (place.x1 + place.x2) / 2 * factor, middle) == "#000000"


def test_accepted_ones_come_first_and_every_candidate_has_a_line() -> None:
    rows = [
        Explanation(replace(LINE, text="x"), None, ("a reason that is far too long for a line of it. " * 5,)),
        Explanation(replace(LINE, box=None), READING, ()),
    ]
    short = annotation.annotate(photo((400, 300)), rows[1:])
    both = annotation.annotate(photo((400, 300)), rows)
    assert both.height > short.height + 60
    listing_start = 900
    assert annotation.COLOURS["accepted"] in {at(both, 24, listing_start + y) for y in range(20, 40)}


@pytest.mark.parametrize(
    "box", [Box(-90, -90, -50, -50), Box(390, 290, 500, 400), Box(0, 0, 400, 300), Box(9, 9, 9, 9)]
)
@pytest.mark.parametrize("text", ["", "跑步", "long " * 100])
def test_any_place_and_any_text_can_be_drawn(box: Box, text: str) -> None:
    annotation.annotate(photo((400, 300)), [Explanation(Candidate(text, 0.5, box), None, ())] * 120)


def test_a_photo_without_candidates_is_drawn() -> None:
    assert annotation.annotate(photo((100, 300)), []).size[0] == 1200


# What became of a candidate


def test_each_candidate_is_explained() -> None:
    candidates = (
        LINE,
        Candidate("l042", 0.9, BOX, source=Source.LINE, alternatives=("1042",)),
        Candidate("FINISH", 0.9, source=Source.LINE),
        Candidate("2026", 0.96, source=Source.LINE),
    )
    found = explain(candidates, Judge().judge(candidates))
    assert [each.candidate for each in found] == list(candidates)
    assert [each.verdict for each in found] == ["accepted", "review", "rejected", "review"]
    assert [each.reading and each.reading.bib for each in found] == ["1042", "L042", None, "2026"]
    assert found[2].reasons == ("not of this race's form",)
    assert found[3].reasons == ("may be a year",)


def test_a_candidate_supports_the_reading_at_its_place() -> None:
    """A judge may put a bib together from several candidates."""
    candidates = (Candidate("A", 0.9, Box(190, 100, 205, 160)), Candidate("1042", 0.9, BOX), Candidate("7", 0.9))
    reading = replace(READING, bib="A1042", box=Box(190, 100, 300, 160))
    found = explain(candidates, Judgement((reading,), (None, None, None)))
    assert [each.reading for each in found] == [reading, reading, None]
    assert found[2].reasons == ("supports no reading",)
