"""Draws finish-line photos, with runners, bibs and a banner with a year, and writes them as a camera does.

For the demo and the tests, so that no photo of a person is needed. Knows nothing about the rest of bibwatch.
"""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

_SKY, _ROAD, _PAPER, _INK = "#a9c7e8", "#7d7f83", "#f7f6f1", "#15151a"
_SHIRTS = ("#c8323c", "#2c5fb3", "#2f8f4e", "#d98a1f", "#6a3d9a", "#16808a")
_SKIN = ("#f0c8a6", "#c68a5e", "#8d5a3b", "#5e3a24")
_BIB_ASPECT = 0.66  # height of a bib divided by its width


def photo(bibs: tuple[str, ...], *, size: tuple[int, int] = (1200, 800), seed: int = 0) -> Image.Image:
    """Draw a finish line with one runner per bib. The same arguments draw the same image."""
    rng = random.Random(f"{seed}:{bibs}")  # noqa: S311  # not a secret
    width, height = size
    image = Image.new("RGB", size, _SKY)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, height * 0.45, width, height), fill=_ROAD)
    _banner(pen, width, height)
    for place, bib in enumerate(bibs):
        _runner(image, rng, bib, x=width * (place + 0.5) / len(bibs), width=width / len(bibs), height=height)
    return image.filter(ImageFilter.GaussianBlur(0.6))


def bib_closeup(bib: str, *, size: tuple[int, int] = (160, 112), seed: int = 0) -> Image.Image:
    """Draw one bib as if cropped from a photo, tight or with a margin; an empty `bib` draws a crop without one.

    Position, tilt, colours, light, blur and noise are random. The same bib, size and seed draw the same image.
    """
    rng = random.Random(f"{seed}:{size}:{bib}")  # noqa: S311  # not a secret
    image = _background(rng, size)
    if bib:
        width = min(size[0], size[1] / _BIB_ASPECT) * rng.uniform(0.62, 1.02)
        tilt = rng.uniform(-6, 6)
        label = _bib(bib, int(width), rng).rotate(tilt, Image.Resampling.BICUBIC, expand=True)
        x, y = (0.5 + rng.uniform(-0.05, 0.05) for _ in size)
        image.paste(label, (int(size[0] * x - label.width / 2), int(size[1] * y - label.height / 2)), label)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.008) * size[0]))
    noise = Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))
    return ImageEnhance.Brightness(Image.blend(image, noise, rng.uniform(0, 0.1))).enhance(rng.uniform(0.7, 1.1))


def jpeg(image: Image.Image, captured_at: datetime | None = None, quality: int = 90) -> bytes:
    """Return the bytes a camera would write: a JPEG with the capture time and its offset from UTC."""
    exif = Image.Exif()
    moment = (captured_at or datetime.now(UTC)).astimezone(UTC)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = moment.strftime("%Y:%m:%d %H:%M:%S")
    details[ExifTags.Base.SubsecTimeOriginal] = f"{moment.microsecond // 1000:03}"
    details[ExifTags.Base.OffsetTimeOriginal] = "+00:00"
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, exif=exif)
    return file.getvalue()


def write_like_a_camera(data: bytes, path: Path, *, pieces: int = 4) -> None:
    """Write a photo the way an FTP upload does: under a temporary name, piece by piece, then renamed."""
    temporary = path.with_name(f".in.{path.name}.")
    step = len(data) // pieces + 1
    with temporary.open("wb", buffering=0) as file:
        for start in range(0, len(data), step):
            file.write(data[start : start + step])
    temporary.replace(path)


def _banner(pen: ImageDraw.ImageDraw, width: int, height: int) -> None:
    pen.rectangle((0, height * 0.04, width, height * 0.15), fill="#1d3557")
    font = ImageFont.load_default(height * 0.075)
    pen.text((width / 2, height * 0.095), "CITY RUN 2026  FINISH", font=font, fill="white", anchor="mm")


def _runner(image: Image.Image, rng: random.Random, bib: str, *, x: float, width: float, height: float) -> None:
    pen = ImageDraw.Draw(image)
    size = min(width * 0.85, height * 0.36) * rng.uniform(0.85, 1.0)  # of the shirt
    x += rng.uniform(-0.05, 0.05) * width
    top = height * 0.38 + rng.uniform(0, 0.06) * height
    skin, shirt = rng.choice(_SKIN), rng.choice(_SHIRTS)
    pen.ellipse((x - size * 0.17, top - size * 0.46, x + size * 0.17, top - size * 0.06), fill=skin)
    for side in (-1, 1):
        pen.line(
            (x + side * size * 0.4, top + size * 0.1, x + side * size * 0.62, top + size * 0.62), skin, int(size / 8)
        )
        pen.line((x + side * size * 0.18, top + size, x + side * size * 0.24, top + size * 1.7), skin, int(size / 6))
    pen.rounded_rectangle((x - size * 0.42, top, x + size * 0.42, top + size), size * 0.1, fill=shirt)
    pen.rectangle((x - size * 0.36, top + size * 0.92, x + size * 0.36, top + size * 1.2), fill=_INK)
    label = _bib(bib, int(size * 0.7), rng).rotate(rng.uniform(-5, 5), Image.Resampling.BICUBIC, expand=True)
    image.paste(label, (int(x - label.width / 2), int(top + size * 0.26)), label)


def _background(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Draw the background of a bib: all or part of a shirt, an arm, sky and road."""
    width, height = size
    image = Image.new("RGB", size, rng.choice((_SKY, _ROAD, *_SHIRTS)))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, height * rng.uniform(0.2, 1.2), width, height * 1.3), fill=_ROAD)
    left = rng.uniform(-0.5, 0.6) * width
    pen.rectangle((left, rng.uniform(-0.6, 0.6) * height, left + width, height * 1.1), fill=rng.choice(_SHIRTS))
    start, end = ((rng.uniform(0, width), rng.uniform(0, height)) for _ in range(2))
    pen.line((start, end), rng.choice(_SKIN), max(int(height * rng.uniform(0, 0.15)), 1))
    return image


def _bib(bib: str, width: int, rng: random.Random) -> Image.Image:
    label = Image.new("RGBA", (width, int(width * _BIB_ASPECT)), _PAPER)
    pen = ImageDraw.Draw(label)
    pen.rectangle((0, 0, width, width * 0.12), fill=rng.choice(_SHIRTS))
    font = ImageFont.load_default(min(width * 0.5, width * 1.5 / len(bib)))
    pen.text((width / 2, width * 0.39), bib, font=font, fill=_INK, anchor="mm", stroke_width=1, stroke_fill=_INK)
    return label
