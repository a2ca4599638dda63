"""Bytes to an upright RGB picture within limits, with the facts the file carries about itself.

Knows Pillow and EXIF. Knows nothing of folders, models or SQL.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import threading
import warnings
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image
from pydantic import BaseModel, ConfigDict, Field

from bibwatch import containers, files
from bibwatch.errors import (
    PhotoIncompleteError,
    PhotoOversizedError,
    PhotoUndecodableError,
    PhotoUnsupportedError,
)

# Our own limit (ImageLimits.max_pixels) replaces Pillow's, which warns at 89 megapixels: a 102 MP photo is normal.
Image.MAX_IMAGE_PIXELS = None

_PADDING = " \0"  # of EXIF's texts
_WHITE_8, _WHITE_16 = 255, 65535
_TURN = {  # EXIF orientation: what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = {5, 6, 7, 8}  # the orientations that turn the picture on its side
_LARGE = 50_000_000  # pixels; pictures over this are decoded one at a time, for the sake of memory
_ONE_LARGE = threading.Lock()
_RESIZABLE = {"L", "RGB", "RGBA", "CMYK"}  # modes that are made smaller first and RGB afterwards


class ImageLimits(BaseModel):
    """What a photo may be at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: int = Field(
        default=250_000_000, ge=1, description="Pixels a photo may have; checked before it is decoded."
    )
    max_bytes: int = Field(default=268_435_456, ge=1, description="Bytes a photo file may have.")


@dataclass(frozen=True)
class Photo:
    """A decoded photo: upright, RGB, perhaps smaller than the file's own picture."""

    image: Image.Image
    width: int  # pixels of the upright picture at full size
    height: int
    sha256: str  # of the file's bytes
    captured_at: datetime | None  # UTC; None where the camera did not say its offset from UTC

    @property
    def scale(self) -> float:
        """Full-size pixels per pixel of `image`."""
        return max(self.width, self.height) / max(self.image.size)


def sha256(data: bytes) -> str:
    """Return the identity of an image: the SHA-256 of its file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


@cache
def heif_supported() -> bool:
    """Return whether HEIF photos can be read, and register the reader if so."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def open_photo(
    path: str | Path, *, limits: ImageLimits | None = None, longest_side: int | None = None, zone: tzinfo | None = None
) -> Photo:
    """Read and decode a photo file. Raises PhotoError."""
    limits = limits or ImageLimits()
    data = files.load(os.path.realpath(path), max_bytes=limits.max_bytes)
    return decode(data, limits=limits, longest_side=longest_side, zone=zone)


def decode(data: bytes, *, limits: ImageLimits, longest_side: int | None = None, zone: tzinfo | None = None) -> Photo:
    """Decode a photo, upright and RGB; no longer than `longest_side` pixels if that is given.

    `zone` is the time zone of cameras that write none.

    A JPEG is decoded at 1/2, 1/4 or 1/8 size straight away where that is enough (Pillow's draft mode).
    Raises PhotoIncompleteError, PhotoUndecodableError, PhotoOversizedError or PhotoUnsupportedError.
    """
    kind = containers.format_of(data)
    if kind is None:
        if containers.is_blank(data):
            raise PhotoIncompleteError("only zeros yet (space reserved, not written); waiting for the rest")
        if containers.is_head(data):
            raise PhotoIncompleteError(f"the first {len(data)} bytes of a photo; waiting for the rest")
        raise PhotoUndecodableError(f"not a photo: the file starts with {data[:12]!r}")
    if kind == "HEIF" and not heif_supported():
        raise PhotoUnsupportedError("a HEIF photo; to read them: pip install 'bibwatch[heif]'")
    with warnings.catch_warnings():
        # Pillow warns of odd EXIF and metadata; a photo is no worse a photo for it.
        warnings.simplefilter("ignore")
        return _decode(data, kind, limits, longest_side, zone)


def _decode(data: bytes, kind: str, limits: ImageLimits, longest_side: int | None, zone: tzinfo | None) -> Photo:
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
    except Exception as exc:
        raise _broken(data, kind, exc) from exc
    with image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise PhotoOversizedError(f"{width}x{height} pixels is over images.max_pixels = {limits.max_pixels}")
        if not containers.is_complete(data) or (kind == "TIFF" and _strips_end(image) > len(data)):
            raise PhotoIncompleteError(f"a truncated {kind} ({len(data)} bytes); waiting for the rest")
        try:
            with _ONE_LARGE if width * height > _LARGE else nullcontext():
                picture = _rgb(image, longest_side)
            orientation, captured_at = _exif(image, zone)
            if orientation in _TURN:
                picture = picture.transpose(_TURN[orientation])
        except Exception as exc:
            raise _broken(data, kind, exc) from exc
    if orientation in _SWAPPED:
        width, height = height, width
    return Photo(picture, width, height, sha256(data), captured_at)


def _broken(data: bytes, kind: str, exc: Exception) -> PhotoIncompleteError | PhotoUndecodableError:
    """Tell a photo cut short from a broken one. Decoders raise nearly anything on hostile bytes."""
    reason = " ".join(re.sub("<[^>]*>", "", str(exc)).split())[:120] or type(exc).__name__
    if not containers.is_complete(data) or "truncated" in reason or isinstance(exc, EOFError):
        return PhotoIncompleteError(f"a truncated {kind} ({len(data)} bytes: {reason}); waiting for the rest")
    return PhotoUndecodableError(f"a broken {kind} ({reason})")


def _strips_end(image: Image.Image) -> int:
    """Return where the last of a TIFF's strips or tiles ends, in bytes; its directory says so."""
    tags = getattr(image, "tag_v2", {})
    ends = [
        start + length
        for offsets, counts in ((273, 279), (324, 325))
        for start, length in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
    ]
    return max(ends, default=0)


def _rgb(image: Image.Image, longest_side: int | None) -> Image.Image:
    width, height = image.size
    if longest_side and max(width, height) > longest_side:
        factor = longest_side / max(width, height)
        size = scaled_size(image.size, factor)
        image.draft("RGB", (math.ceil(width * factor), math.ceil(height * factor)))
        image.load()
        if image.mode not in _RESIZABLE:
            image = to_rgb(image)
        image = to_rgb(resize(image, size))
    else:
        image.load()
        image = to_rgb(image)
    return image


def shrink(image: Image.Image, longest_side: int) -> Image.Image:
    """Return an RGB picture whose longest side has at most so many pixels."""
    factor = longest_side / max(image.size)
    return image if factor >= 1 else resize(image, scaled_size(image.size, factor))


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return a size in whole pixels, `factor` times as large; neither side is ever 0."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image at another size, the way it is done everywhere here: bicubic, large ones reduced first."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def widen(image: Image.Image, least: int) -> Image.Image:
    """Return an RGB picture with at least so many pixels on either side: white is added on the right and below."""
    if min(image.size) >= least:
        return image
    canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), "white")
    canvas.paste(image, (0, 0))
    return canvas


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the picture as RGB, whatever its mode; transparent parts become white, 16 bit become 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":  # one channel of 16 or 32 bits
        values = image.convert("F")
        white = _WHITE_16 if float(values.getextrema()[1]) > _WHITE_8 else _WHITE_8  # type: ignore[arg-type]
        return values.point(lambda value: value * (_WHITE_8 / white)).convert("L").convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _exif(image: Image.Image, zone: tzinfo | None) -> tuple[int, datetime | None]:
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  # broken EXIF must not cost the photo
        return 1, None
    try:
        details = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:  # noqa: BLE001
        details = {}
    captured = _captured_at(
        details.get(ExifTags.Base.DateTimeOriginal),
        details.get(ExifTags.Base.SubsecTimeOriginal),
        details.get(ExifTags.Base.OffsetTimeOriginal) or details.get(ExifTags.Base.OffsetTime),
        zone,
    )
    return (orientation if orientation in range(1, 9) else 1), captured


def _captured_at(stamp: object, subsec: object, offset: object, zone: tzinfo | None) -> datetime | None:
    """Return EXIF's time in UTC: `2026:11:21 10:00:05`, `042`, `+02:00`; the time zone stands in for no offset."""
    if not isinstance(stamp, str):
        return None
    digits = re.sub(r"\D", "", str(subsec or ""))[:6].ljust(6, "0")
    try:
        local = datetime.strptime(f"{stamp.strip(_PADDING)}.{digits}", "%Y:%m:%d %H:%M:%S.%f").replace(tzinfo=zone)
        if isinstance(offset, str):
            with suppress(ValueError):
                local = local.replace(tzinfo=datetime.strptime(offset.strip(_PADDING), "%z").tzinfo)
        return local.astimezone(UTC) if local.tzinfo else None
    except (ValueError, OverflowError):
        return None
