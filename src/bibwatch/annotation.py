"""Draws what was seen on a photo: a box around each candidate, and below the photo a line with verdict and reasons.

Knows explanations and pixels. Does not know how a candidate was found or judged.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from bibwatch import images
from bibwatch.domain.box import Box
from bibwatch.images import Photo
from bibwatch.judging.explanation import Explanation

COLOURS = {"accepted": "#1b7f3b", "review": "#c77700", "rejected": "#6b6f76"}
_SOFTWARE = "bibwatch read --explain"
_LEAST, _MOST = 1200, 2400  # pixels of the longest side of the photo as it is drawn
_PAPER, _INK, _LINE = "white", "#202124", "#dadce0"
_FONT = 22  # pixels of a line of text, where the picture is `_LEAST` wide
_COLUMNS = (0.0, 0.045, 0.225, 0.4)  # where number, text, verdict and reasons start, as a share of the width
_TEXT_LENGTH = 16  # characters of a candidate's text
_CHARACTER = 0.52  # mean width of a character, as a share of the font's size


def annotate(photo: Photo, explanations: Iterable[Explanation]) -> Image.Image:
    """Return the photo with each candidate outlined and numbered, and the list of them below.

    Accepted ones come first, then those for review, then the rejected; of each kind the most confident first.
    """
    order = list(COLOURS)
    ranked = sorted(explanations, key=lambda each: (order.index(each.verdict), -each.candidate.score))
    factor = min(_MOST, max(_LEAST, *photo.image.size)) / max(photo.image.size)
    image = images.resize(photo.image, images.scaled_size(photo.image.size, factor))
    width = max(image.width, _LEAST)
    font = round(_FONT * width / _LEAST)
    listing = _listing(ranked, width, font)
    picture = Image.new("RGB", (width, image.height + listing.height), _PAPER)
    left = (width - image.width) // 2
    picture.paste(image, (left, 0))
    picture.paste(listing, (0, image.height))
    pen = ImageDraw.Draw(picture)
    scale = factor / photo.scale
    for number, each in reversed(list(enumerate(ranked, 1))):  # accepted ones are drawn last, over the rest
        if each.candidate.box:
            box = each.candidate.box.scaled(scale).moved(left, 0)
            _outline(pen, box, str(number), colour=COLOURS[each.verdict], size=font, bounds=(width, image.height))
    return picture


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG that `is_own` knows again. Raises OSError."""
    marks = PngInfo()
    marks.add_text("Software", _SOFTWARE)
    picture.save(path, "PNG", pnginfo=marks)


def is_own(path: Path) -> bool:
    """Return whether a file was written by `save`: anything else may be somebody's photo."""
    try:
        with Image.open(path) as picture:
            return bool(picture.info.get("Software") == _SOFTWARE)
    except OSError:
        return False


def _outline(
    pen: ImageDraw.ImageDraw, box: Box, number: str, *, colour: str, size: int, bounds: tuple[int, int]
) -> None:
    """Draw a box with a margin, and its number on a flag above it; below it where there is no room above."""
    line = max(2, size // 7)
    x1, y1 = max(0.0, box.x1 - line), max(0.0, box.y1 - line)
    x2, y2 = min(bounds[0] - 1.0, max(x1 + 1, box.x2 + line)), min(bounds[1] - 1.0, max(y1 + 1, box.y2 + line))
    if x1 > x2 or y1 > y2:
        return
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=line)
    font = ImageFont.load_default(size * 0.9)
    wide, high = pen.textlength(number, font=font) + size * 0.5, size * 1.15
    left = min(x1, bounds[0] - wide)
    top = y1 - high if y1 >= high else min(y2, bounds[1] - high)
    pen.rectangle((left, top, left + wide, top + high), fill=colour)
    pen.text((left + wide / 2, top + high / 2), number, font=font, fill=_PAPER, anchor="mm")


def _listing(ranked: Sequence[Explanation], width: int, size: int) -> Image.Image:
    """Write the list of candidates: number, text, verdict, reasons."""
    margin, step = size, round(size * 1.5)
    columns = [margin + share * (width - 2 * margin) for share in _COLUMNS]
    rows = [
        _row(number, each, int((width - margin - columns[-1]) / (size * _CHARACTER)))
        for number, each in enumerate(ranked, 1)
    ]
    lines = sum(len(reasons) for *_, reasons in rows)
    listing = Image.new("RGB", (width, 2 * margin + step * max(1, lines)), _PAPER)
    pen = ImageDraw.Draw(listing)
    font = ImageFont.load_default(size)
    if not rows:
        pen.text((columns[0], margin), "no candidate", font=font, fill=_INK)
    y = margin
    for number, text, verdict, colour, reasons in rows:
        flag = pen.textlength(number, font=font) + size * 0.5
        pen.rectangle((columns[0], y, columns[0] + flag, y + size * 1.2), fill=colour)
        pen.text((columns[0] + flag / 2, y + size * 0.6), number, font=font, fill=_PAPER, anchor="mm")
        pen.text((columns[1], y), text, font=font, fill=_INK)
        pen.text((columns[2], y), verdict, font=font, fill=colour)
        for line in reasons:
            pen.text((columns[3], y), line, font=font, fill=_INK)
            y += step
        pen.line((columns[0], y - size * 0.2, width - margin, y - size * 0.2), fill=_LINE)
    return listing


def _row(number: int, each: Explanation, length: int) -> tuple[str, str, str, str, list[str]]:
    verdict = f"{each.verdict} {each.reading.probability:.1%}" if each.reading else each.verdict
    text = textwrap.shorten(each.candidate.text, _TEXT_LENGTH, placeholder="...") or each.candidate.text[:_TEXT_LENGTH]
    text = text.encode("latin-1", "replace").decode("latin-1")  # what the font has
    read = f"read as part of {each.reading.bib}; " if each.reading and each.reading.bib != each.candidate.text else ""
    reasons = read + "; ".join(each.reasons) or "nothing speaks against it"
    return str(number), text, verdict, COLOURS[each.verdict], textwrap.wrap(reasons, max(length, 20)) or [""]
