"""Make the picture of README.md: a drawn photo, what bibwatch reads in it, and the rows that come of it.

    python docs/picture.py

The photo is drawn, the boxes and rows are read by the default preset and judged as a race with bibs of three and four
digits, or a letter and five.
"""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bibwatch import drawing
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.images import Photo
from bibwatch.judging import Race, judge
from bibwatch.registry import Registry

FILE = Path(__file__).parent / "finish-line.png"
BIBS = ("1042", "M10151", "2026", "0317")
COLOURS = {Verdict.ACCEPTED: "#1b7f3b", Verdict.REVIEW: "#c77700"}


def main() -> None:
    """Draw, read, judge, and draw what came of it."""
    image = drawing.photo(BIBS, size=(1120, 620), seed=4)
    with Registry().stage("bib_number", "rapidocr") as stage:
        (outcome,) = stage.read([Photo(image, *image.size, sha256="", captured_at=None)])
    readings = judge(outcome.candidates, Race(forms=(re.compile(r"\d{3,4}|[A-Z]\d{5}"),)))
    picture = Image.new("RGB", (image.width, image.height + 40 + 38 * (len(readings) + 1)), "white")
    picture.paste(image, (0, 0))
    pen = ImageDraw.Draw(picture)
    for reading in readings:
        outline(pen, reading)
    table(pen, readings, top=image.height + 20)
    picture.quantize(128).save(FILE, optimize=True)


def outline(pen: ImageDraw.ImageDraw, reading: Reading) -> None:
    if reading.box is None:
        return
    x1, y1, x2, y2 = reading.box.x1 - 6, reading.box.y1 - 6, reading.box.x2 + 6, reading.box.y2 + 6
    pen.rectangle((x1, y1, x2, y2), outline=COLOURS[reading.verdict], width=5)


def table(pen: ImageDraw.ImageDraw, readings: tuple[Reading, ...], *, top: int) -> None:
    """Write the rows that `SELECT bib, confidence, verdict, reasons FROM bib_results` gives."""
    font = ImageFont.load_default(24)
    columns = (40, 240, 440, 640)
    rows = [
        (each.bib, f"{each.probability:.3f}", str(each.verdict), "; ".join(map(str, each.reasons))) for each in readings
    ]
    for place, row in enumerate([("bib", "confidence", "verdict", "reasons"), *rows]):
        colour = "#555555" if place == 0 else COLOURS[readings[place - 1].verdict]
        for x, text in zip(columns, row, strict=True):
            pen.text((x, top + 38 * place), text, font=font, fill=colour)
    pen.line((40, top + 34, 1080, top + 34), fill="#999999", width=2)


if __name__ == "__main__":
    main()
