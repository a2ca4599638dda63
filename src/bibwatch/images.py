"""Decodes photo files to upright RGB images, within limits, and reads their metadata.

Knows Pillow and EXIF. Knows nothing about folders, models or SQL.
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

# ImageLimits.max_pixels replaces Pillow's limit, which warns at 89 megapixels: 102 MP photos are normal.
Image.MAX_IMAGE_PIXELS = None

_PADDING = " \0"  # of EXIF strings
_WHITE_8, _WHITE_16 = 255, 65535
_TRANSPOSES = {  # by EXIF orientation: the operation that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = {5, 6, 7, 8}  # the orientations that swap width and height
_LARGE = 50_000_000  # pixels; larger images are decoded one at a time, to save memory
_LARGE_LOCK = threading.Lock()
_RESIZABLE = {"L", "RGB", "RGBA", "CMYK"}  # modes that are resized before the conversion to RGB


class ImageLimits(BaseModel):
    """The maximum size of a photo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_pixels: int = Field(
        default=250_000_000, ge=1, description="Maximum pixels of a photo; checked before it is decoded."
    )
    max_bytes: int = Field(default=268_435_456, ge=1, description="Maximum bytes of a photo file.")


@dataclass(frozen=True)
class Photo:
    """A decoded photo: upright, RGB, possibly scaled down."""

    image: Image.Image
    width: int  # pixels of the upright image at full size
    height: int
    sha256: str  # of the file's bytes
    captured_at: datetime | None  # UTC; None if the offset from UTC is unknown

    @property
    def scale(self) -> float:
        """Full-size pixels per pixel of `image`."""
        return max(self.width, self.height) / max(self.image.size)


def sha256(data: bytes) -> str:
    """Return an image's identity: the SHA-256 of its file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


@cache
def heif_supported() -> bool:
    """Return whether HEIF photos can be read; if so, register the decoder."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def open_photo(
    path: str | Path, *, limits: ImageLimits | None = None, longest_side: int | None = None, zone: tzinfo | None = None
) -> Photo:
    """Load and decode a photo file. Raises PhotoError."""
    limits = limits or ImageLimits()
    data = files.load(os.path.realpath(path), max_bytes=limits.max_bytes)
    return decode(data, limits=limits, longest_side=longest_side, zone=zone)


def decode(data: bytes, *, limits: ImageLimits, longest_side: int | None = None, zone: tzinfo | None = None) -> Photo:
    """Decode a photo to an upright RGB image, scaled down to `longest_side` pixels if given.

    `zone` is the time zone of cameras that write no offset. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where
    that is enough (Pillow's draft mode).

    Raises PhotoIncompleteError, PhotoUndecodableError, PhotoOversizedError or PhotoUnsupportedError.
    """
    kind = containers.format_of(data)
    if kind is None:
        if containers.is_blank(data):
            raise PhotoIncompleteError("only zeros so far (allocated, not written); the rest is missing")
        if containers.is_head(data):
            raise PhotoIncompleteError(f"the first {len(data)} bytes of a photo; the rest is missing")
        raise PhotoUndecodableError(f"not a photo: the file starts with {data[:12]!r}")
    if kind == "HEIF" and not heif_supported():
        raise PhotoUnsupportedError("a HEIF photo; to read them: pip install 'bibwatch[heif]'")
    with warnings.catch_warnings():
        # Pillow warns about odd EXIF and metadata, which does not matter here.
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
            raise PhotoIncompleteError(f"a truncated {kind} ({len(data)} bytes); the rest is missing")
        try:
            with _LARGE_LOCK if width * height > _LARGE else nullcontext():
                upright = _rgb(image, longest_side)
            orientation, captured_at = _exif(image, zone)
            if orientation in _TRANSPOSES:
                upright = upright.transpose(_TRANSPOSES[orientation])
        except Exception as exc:
            raise _broken(data, kind, exc) from exc
    if orientation in _SWAPPED:
        width, height = height, width
    return Photo(upright, width, height, sha256(data), captured_at)


def _broken(data: bytes, kind: str, exc: Exception) -> PhotoIncompleteError | PhotoUndecodableError:
    """Return the error for a truncated or a corrupt photo. Decoders raise almost anything on corrupt data."""
    reason = " ".join(re.sub("<[^>]*>", "", str(exc)).split())[:120] or type(exc).__name__
    if not containers.is_complete(data) or "truncated" in reason or isinstance(exc, EOFError):
        return PhotoIncompleteError(f"a truncated {kind} ({len(data)} bytes: {reason}); the rest is missing")
    return PhotoUndecodableError(f"a broken {kind} ({reason})")


def _strips_end(image: Image.Image) -> int:
    """Return the end of a TIFF's last strip or tile in bytes, according to its directory."""
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
    """Return the RGB image, scaled down if its longest side exceeds `longest_side` pixels."""
    factor = longest_side / max(image.size)
    return image if factor >= 1 else resize(image, scaled_size(image.size, factor))


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return the size times `factor`, in whole pixels; neither side is ever 0."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image resized, bicubic; large images are reduced first."""
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def widen(image: Image.Image, least: int) -> Image.Image:
    """Return the RGB image padded to at least `least` pixels per side, with white on the right and at the bottom."""
    if min(image.size) >= least:
        return image
    canvas = Image.new("RGB", (max(image.width, least), max(image.height, least)), "white")
    canvas.paste(image, (0, 0))
    return canvas


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB; transparency becomes white, 16 bits become 8."""
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
    except Exception:  # noqa: BLE001  # broken EXIF must not fail the photo
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
    """Return EXIF's time (`2026:11:21 10:00:05`, `042`, `+02:00`) in UTC; `zone` is used if there is no offset."""
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
