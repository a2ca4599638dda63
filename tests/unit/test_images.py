"""Decoding: any bytes become an upright RGB photo or a PhotoError."""

from __future__ import annotations

import hashlib
import io
import math
import random
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile

from bibwatch import images
from bibwatch.errors import (
    PhotoError,
    PhotoIncompleteError,
    PhotoOversizedError,
    PhotoUndecodableError,
    PhotoUnsupportedError,
)
from bibwatch.images import ImageLimits, Photo, decode, to_rgb

LIMITS = ImageLimits()
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
CORNERS = (RED, GREEN, BLUE, WHITE)  # top left, top right, bottom left, bottom right

FORMS = ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "HEIF"]

# How a camera held that way stores the upright picture, by the EXIF orientation it writes.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def quadrants(width: int = 96, height: int = 64) -> Image.Image:
    """Make an image whose corners differ in colour."""
    image = Image.new("RGB", (2, 2))
    image.putdata(CORNERS)
    return image.resize((width, height), Image.Resampling.NEAREST)


def noise(size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Make an image that does not compress."""
    return Image.frombytes("RGB", size, random.Random(0).randbytes(size[0] * size[1] * 3))


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours in the middle of the four quadrants."""
    width, height = image.size
    return [
        image.getpixel((width * x // 4, height * y // 4))  # type: ignore[misc]
        for x, y in ((1, 1), (3, 1), (1, 3), (3, 3))
    ]


def close(found: object, expected: object, tolerance: int = 40) -> bool:
    return all(
        abs(a - b) <= tolerance
        for one, other in zip(found, expected, strict=True)  # type: ignore[call-overload]
        for a, b in zip(one, other, strict=True)
    )


def save(image: Image.Image, form: str, **options: object) -> bytes:
    images.heif_supported()
    file = io.BytesIO()
    if form == "MPO":
        options = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]} | options
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation: object = None, **details: str) -> Image.Exif:
    """Make EXIF data: an orientation, and fields of the Exif block by their names."""
    found = Image.Exif()
    if orientation is not None:
        found[ExifTags.Base.Orientation] = orientation
    block = found.get_ifd(ExifTags.IFD.Exif)
    for name, value in details.items():
        block[ExifTags.Base[name]] = value
    return found


def with_exif(data: bytes, payload: bytes) -> bytes:
    """Put an EXIF segment with any content into a JPEG."""
    return data[:2] + b"\xff\xe1" + (len(payload) + 8).to_bytes(2) + b"Exif\0\0" + payload + data[2:]


def jpeg_with_size(width: int, height: int) -> bytes:
    """Make a complete JPEG whose header claims another size."""
    data = bytearray(save(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2) + width.to_bytes(2)
    return bytes(data)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def png_with_size(width: int, height: int) -> bytes:
    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(100)))
        + png_chunk(b"IEND", b"")
    )


# Formats


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_decoded(form: str) -> None:
    data = save(quadrants(), form)
    photo = decode(data, limits=LIMITS)
    assert (photo.width, photo.height) == photo.image.size == (96, 64)
    assert photo.image.mode == "RGB"
    assert photo.scale == 1
    assert photo.sha256 == hashlib.sha256(data).hexdigest()
    assert photo.captured_at is None
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize("form", FORMS)
def test_a_single_pixel_is_a_photo(form: str) -> None:
    photo = decode(save(Image.new("RGB", (1, 1), BLUE), form), limits=LIMITS, longest_side=1)
    assert (photo.image.size, photo.scale) == ((1, 1), 1)
    assert close([photo.image.getpixel((0, 0))], [BLUE])


def test_heif_without_its_library_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(quadrants(), "HEIF")
    monkeypatch.setattr(images, "heif_supported", lambda: False)
    with pytest.raises(PhotoUnsupportedError, match=r"bibwatch\[heif\]"):
        decode(data, limits=LIMITS)


def test_other_formats_need_no_heif_library(monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(quadrants(), "PNG")
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setattr(images, "heif_supported", lambda: False)
    assert decode(data, limits=LIMITS).image.size == (96, 64)


def test_a_broken_photo_is_described_in_words() -> None:
    """The reason is the decoder's, not a slip of our own."""
    data = png_with_size(10, 10).replace(b"IHDR", b"IHDX")
    with pytest.raises(PhotoUndecodableError) as caught:
        decode(data, limits=LIMITS)
    assert "broken PNG" in str(caught.value)


# Incomplete files


@pytest.mark.parametrize("percent", [1, 50, 99])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_a_cut_file_is_incomplete(form: str, percent: int) -> None:
    data = save(noise(), form)
    with pytest.raises(PhotoIncompleteError):
        decode(data[: len(data) * percent // 100], limits=LIMITS)


@pytest.mark.parametrize("percent", [1, 50, 99])
def test_a_cut_tiff_is_no_photo(percent: int) -> None:
    """TIFF has no cheap rule: its decoder decides, and may call it broken."""
    data = save(noise(), "TIFF")
    with pytest.raises(PhotoError):
        decode(data[: len(data) * percent // 100], limits=LIMITS)


@pytest.mark.parametrize("percent", [1, 25, 49])
def test_an_mpo_cut_in_its_first_image_is_incomplete(percent: int) -> None:
    data = save(noise(), "MPO")
    with pytest.raises(PhotoIncompleteError):
        decode(data[: len(data) * percent // 100], limits=LIMITS)


def test_an_mpo_cut_in_its_second_image_never_gives_another_image() -> None:
    """The first image is complete: it is either returned, or waited for."""
    data = save(noise(), "MPO")
    whole = decode(data, limits=LIMITS)
    try:
        photo = decode(data[: len(data) * 9 // 10], limits=LIMITS)
    except PhotoIncompleteError:
        return
    assert photo.image.tobytes() == whole.image.tobytes()


@pytest.mark.parametrize(
    "form",
    [
        "JPEG",
        "PNG",
        "WEBP",
        pytest.param(
            "HEIF",
        ),
    ],
)
def test_reserved_space_is_incomplete(form: str) -> None:
    data = save(noise(), form)
    half = len(data) // 2
    with pytest.raises(PhotoIncompleteError):
        decode(data[:half] + bytes(len(data) - half), limits=LIMITS)


@pytest.mark.parametrize("size", [1, 64, 100_000])
def test_zeros_alone_are_incomplete(size: int) -> None:
    with pytest.raises(PhotoIncompleteError, match="zeros"):
        decode(bytes(size), limits=LIMITS)


@pytest.mark.parametrize("head", [b"\xff", b"\xff\xd8", b"\x89PNG", b"RIFF\x10\x20\0\0", b"\0\0\0\x18ftyp"])
def test_the_first_bytes_of_a_photo_are_incomplete(head: bytes) -> None:
    with pytest.raises(PhotoIncompleteError):
        decode(head, limits=LIMITS)


@pytest.mark.parametrize("more", [bytes(3), bytes(5000), b"MAKERNOTE" * 1000, b"\xff\xd8\xff half a preview"])
def test_more_bytes_behind_a_jpeg_are_fine(more: bytes) -> None:
    photo = decode(save(quadrants(), "JPEG") + more, limits=LIMITS)
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize(
    "data",
    [
        b"42,00:31:07\n0042,00:31:09\n",
        b"<html>550 login required</html>",
        b"GIF89a" + bytes(100),
        b"\xff\xd8\xff\xe0\0\x10" + b"\x55" * 500 + b"\xff\xd9",
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b""),
        b"II*\0" + b"\xff" * 100,
    ],
)
def test_what_is_not_an_image_is_undecodable(data: bytes) -> None:
    with pytest.raises(PhotoUndecodableError):
        decode(data, limits=LIMITS)


# Limits


@pytest.mark.parametrize(
    "data",
    [
        jpeg_with_size(65535, 65535),
        png_with_size(1_000_000, 1_000_000),
        png_with_size(30_000, 30_000),
    ],
    ids=["jpeg", "png", "png bomb"],
)
def test_a_huge_image_is_refused_by_its_header(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pixel is decoded, so it takes neither time nor memory."""

    def load(_: object) -> None:
        pytest.fail("the picture was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(PhotoOversizedError, match=r"images\.max_pixels"):
        decode(data, limits=LIMITS, longest_side=1000)


def test_the_pixel_limit_is_inclusive() -> None:
    data = save(quadrants(96, 64), "JPEG")
    assert decode(data, limits=ImageLimits(max_pixels=96 * 64)).width == 96
    with pytest.raises(PhotoOversizedError, match="96x64"):
        decode(data, limits=ImageLimits(max_pixels=96 * 64 - 1))


def test_a_photo_over_pillows_own_limit_is_fine() -> None:
    """Pillow warns at 89 megapixels; medium-format cameras make more."""
    data = save(Image.new("L", (10_000, 9_000), 128), "JPEG")
    photo = decode(data, limits=LIMITS, longest_side=500)
    assert (photo.width, photo.height, photo.image.size) == (10_000, 9_000, (500, 450))


# Upright and scaled


@pytest.mark.parametrize("longest_side", [None, 24])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(orientation: int, longest_side: int | None) -> None:
    turn = STORED[orientation]
    stored = quadrants(96, 64) if turn is None else quadrants(96, 64).transpose(turn)
    photo = decode(save(stored, "JPEG", exif=exif(orientation)), limits=LIMITS, longest_side=longest_side)
    assert (photo.width, photo.height) == (96, 64)
    assert photo.image.size == ((24, 16) if longest_side else (96, 64))
    assert photo.scale == (4 if longest_side else 1)
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize("longest_side", [None, 96])
@pytest.mark.parametrize(
    "form",
    [
        "JPEG",
        "MPO",
        "PNG",
        "WEBP",
        pytest.param(
            "TIFF",
        ),
        "HEIF",
    ],
)
def test_orientation_counts_in_every_format(form: str, longest_side: int | None) -> None:
    stored = quadrants(96, 64).transpose(STORED[6])  # type: ignore[arg-type]
    photo = decode(save(stored, form, exif=exif(6).tobytes()), limits=LIMITS, longest_side=longest_side)
    assert (photo.width, photo.height) == photo.image.size == (96, 64)
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    photo = decode(save(quadrants(), "JPEG", exif=exif(orientation)), limits=LIMITS)
    assert photo.image.size == (96, 64)
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG"])
@pytest.mark.parametrize(
    ("size", "longest_side", "expected"),
    [
        ((1600, 1200), 800, (800, 600)),
        ((1600, 1200), 400, (400, 300)),
        ((1600, 1200), 300, (300, 225)),
        ((1200, 1600), 100, (75, 100)),
        ((1601, 1199), 777, (777, 582)),
        ((500, 500), 499, (499, 499)),
        ((400, 300), 400, (400, 300)),
        ((400, 300), 401, (400, 300)),
        ((1600, 10), 80, (80, 1)),  # 0.5 pixels high, and yet a picture
    ],
)
def test_scaling_keeps_the_aspect(
    form: str, size: tuple[int, int], longest_side: int, expected: tuple[int, int]
) -> None:
    photo = decode(save(quadrants(*size), form), limits=LIMITS, longest_side=longest_side)
    assert photo.image.size == expected
    assert (photo.width, photo.height) == size
    assert photo.scale == pytest.approx(size[0] / expected[0])
    if min(expected) > 10:
        assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize(
    ("size", "longest_side"), [((400, 600), 128), ((333, 1000), 100), ((14, 1000), 100), ((1001, 1500), 100)]
)
def test_the_bottom_of_a_scaled_portrait_is_the_bottom_of_the_photo(size: tuple[int, int], longest_side: int) -> None:
    photo = decode(save(quadrants(*size), "JPEG"), limits=LIMITS, longest_side=longest_side)
    assert photo.image.height * photo.scale == pytest.approx(photo.height, abs=0.01)


# Modes


def palette(transparency: int | None) -> Image.Image:
    """Make a palette image, left half red and right half blue."""
    image = Image.new("P", (40, 20), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (20, 0, 40, 20))
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def sixteen_bits() -> Image.Image:
    """Make a 16-bit image: middle grey on the left, white on the right."""
    image = Image.new("I;16", (40, 20), 32768)
    image.paste(65535, (20, 0, 40, 20))
    return image


MODES = {
    "L": (Image.new("L", (40, 20), 100), [(100, 100, 100)] * 2),
    "LA clear": (Image.new("LA", (40, 20), (0, 0)), [WHITE] * 2),
    "LA solid": (Image.new("LA", (40, 20), (50, 255)), [(50, 50, 50)] * 2),
    "P": (palette(None), [RED, BLUE]),
    "P with transparency": (palette(0), [WHITE, BLUE]),
    "RGBA half clear": (Image.new("RGBA", (40, 20), (*RED, 128)), [(255, 127, 127)] * 2),
    "RGBA clear": (Image.new("RGBA", (40, 20), (*BLACK, 0)), [WHITE] * 2),
    "1": (Image.new("1", (40, 20), 1), [WHITE] * 2),
    "I;16": (sixteen_bits(), [(128, 128, 128), WHITE]),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name: str) -> None:
    image, expected = MODES[name]
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert close([rgb.getpixel((0, 0)), rgb.getpixel((39, 19))], expected, tolerance=1)


@pytest.mark.parametrize("longest_side", [None, 20])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_read_from_a_file(name: str, longest_side: int | None) -> None:
    image, expected = MODES[name]
    data = save(image, "PNG", **({"transparency": 0} if name == "P with transparency" else {}))
    photo = decode(data, limits=LIMITS, longest_side=longest_side)
    assert photo.image.mode == "RGB"
    right = photo.image.width - 1
    assert close([photo.image.getpixel((0, 0)), photo.image.getpixel((right, 0))], expected, tolerance=1)


@pytest.mark.parametrize("longest_side", [None, 24])
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str, longest_side: int | None) -> None:
    photo = decode(save(quadrants().convert("CMYK"), form), limits=LIMITS, longest_side=longest_side)
    assert photo.image.mode == "RGB"
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize("longest_side", [None, 24])
def test_grey_jpeg(longest_side: int | None) -> None:
    photo = decode(save(Image.new("L", (96, 64), 90), "JPEG"), limits=LIMITS, longest_side=longest_side)
    assert close(corners(photo.image), [(90, 90, 90)] * 4, tolerance=3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("I", (2, 2), 65535), WHITE),
        (Image.new("I", (2, 2), 200), (200, 200, 200)),
        (Image.new("F", (2, 2), 0.0), BLACK),
        (Image.new("PA", (2, 2), 0), WHITE),
        (Image.new("YCbCr", (2, 2), (76, 85, 255)), RED),
    ],
    ids=["I of 16 bits", "I of 8 bits", "F", "PA", "YCbCr"],
)
def test_rare_modes_become_rgb(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert close([to_rgb(image).getpixel((0, 0))], [expected], tolerance=2)


def test_a_transparent_colour_of_an_rgb_image_becomes_white() -> None:
    image = Image.new("RGB", (2, 2), BLACK)
    image.info["transparency"] = BLACK
    assert to_rgb(image).getpixel((0, 0)) == WHITE


# The time


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"OffsetTimeOriginal": "+02:00"}, datetime(2026, 11, 21, 8, 0, 5, tzinfo=UTC)),
        ({"OffsetTimeOriginal": "-05:30"}, datetime(2026, 11, 21, 15, 30, 5, tzinfo=UTC)),
        ({"OffsetTimeOriginal": "Z"}, datetime(2026, 11, 21, 10, 0, 5, tzinfo=UTC)),
        ({"OffsetTime": "+01:00"}, datetime(2026, 11, 21, 9, 0, 5, tzinfo=UTC)),
        ({"OffsetTimeOriginal": "+02:00", "OffsetTime": "+01:00"}, datetime(2026, 11, 21, 8, 0, 5, tzinfo=UTC)),
        (
            {"OffsetTimeOriginal": "+00:00", "SubsecTimeOriginal": "042"},
            datetime(2026, 11, 21, 10, 0, 5, 42_000, tzinfo=UTC),
        ),
        (
            {"OffsetTimeOriginal": "+00:00", "SubsecTimeOriginal": "5"},
            datetime(2026, 11, 21, 10, 0, 5, 500_000, tzinfo=UTC),
        ),
        (
            {"OffsetTimeOriginal": "+00:00", "SubsecTimeOriginal": "123456789"},
            datetime(2026, 11, 21, 10, 0, 5, 123_456, tzinfo=UTC),
        ),
        (
            {"OffsetTimeOriginal": "+00:00", "SubsecTimeOriginal": "??"},
            datetime(2026, 11, 21, 10, 0, 5, tzinfo=UTC),
        ),
        ({}, None),
        ({"OffsetTimeOriginal": "   :  "}, None),
        ({"OffsetTimeOriginal": "summer"}, None),
        ({"OffsetTimeOriginal": "+99:99"}, None),
        ({"OffsetTimeOriginal": "+02:00", "DateTimeOriginal": "2026:11:21 24:00:00"}, None),
        ({"OffsetTimeOriginal": "+02:00", "DateTimeOriginal": "0000:00:00 00:00:00"}, None),
        ({"OffsetTimeOriginal": "+02:00", "DateTimeOriginal": "    :  :     :  :  "}, None),
        ({"OffsetTimeOriginal": "+02:00", "DateTimeOriginal": "0001:01:01 00:00:00"}, None),  # before year 1 in UTC
        ({"OffsetTimeOriginal": "+02:00", "DateTimeOriginal": "yesterday"}, None),
    ],
)
def test_capture_time(fields: dict[str, str], expected: datetime | None) -> None:
    """Without an offset from UTC the time is unknown, as it is for invalid values."""
    fields = {"DateTimeOriginal": "2026:11:21 10:00:05"} | fields
    photo = decode(save(quadrants(), "JPEG", exif=exif(**fields)), limits=LIMITS)
    assert photo.captured_at == expected
    assert photo.captured_at is None or photo.captured_at.tzinfo is UTC


def captured(zone: tzinfo | None, stamp: str, **fields: str) -> datetime | None:
    """Return when a photo was taken by a camera in this time zone, which wrote this into it."""
    written = save(quadrants(), "JPEG", exif=exif(DateTimeOriginal=stamp, **fields))
    return decode(written, limits=LIMITS, zone=zone).captured_at


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("zone", "stamp", "expected"),
    [
        (BERLIN, "2026:11:21 10:00:05", datetime(2026, 11, 21, 9, 0, 5, tzinfo=UTC)),
        (BERLIN, "2026:07:05 10:00:05", datetime(2026, 7, 5, 8, 0, 5, tzinfo=UTC)),  # summer time
        (BERLIN, "2026:10:25 01:59:59", datetime(2026, 10, 24, 23, 59, 59, tzinfo=UTC)),  # the last hour of it,
        (BERLIN, "2026:10:25 02:30:00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # an hour there twice: the first,
        (BERLIN, "2026:10:25 03:00:00", datetime(2026, 10, 25, 2, 0, tzinfo=UTC)),  # and the one after
        (BERLIN, "2026:03:29 01:59:59", datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)),
        (BERLIN, "2026:03:29 03:00:00", datetime(2026, 3, 29, 1, 0, tzinfo=UTC)),
        (ZoneInfo("Asia/Kolkata"), "2026:11:21 10:00:05", datetime(2026, 11, 21, 4, 30, 5, tzinfo=UTC)),
        (ZoneInfo("America/New_York"), "2026:11:21 22:00:05", datetime(2026, 11, 22, 3, 0, 5, tzinfo=UTC)),
        (UTC, "2026:11:21 10:00:05", datetime(2026, 11, 21, 10, 0, 5, tzinfo=UTC)),
        (BERLIN, "0001:01:01 00:00:00", None),  # before year 1 in UTC
        (BERLIN, "0000:00:00 00:00:00", None),
        (BERLIN, "yesterday", None),
    ],
)
def test_a_camera_without_an_offset_has_the_time_zone_of_the_race(
    zone: tzinfo, stamp: str, expected: datetime | None
) -> None:
    assert captured(zone, stamp) == expected


def test_the_cameras_offset_overrides_the_time_zone() -> None:
    stamp = "2026:11:21 10:00:05"
    for offset in ({"OffsetTimeOriginal": "-05:30"}, {"OffsetTime": "-05:30"}):
        assert captured(BERLIN, stamp, **offset) == captured(None, stamp, **offset)
        assert captured(BERLIN, stamp, **offset) == datetime(2026, 11, 21, 15, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize("offset", ["   :  ", "summer", "+99:99"])
def test_an_offset_that_is_none_leaves_it_to_the_time_zone(offset: str) -> None:
    taken = captured(BERLIN, "2026:11:21 10:00:05", OffsetTimeOriginal=offset, SubsecTimeOriginal="042")
    assert taken == datetime(2026, 11, 21, 9, 0, 5, 42_000, tzinfo=UTC)


def test_a_burst_keeps_its_order() -> None:
    """Twenty frames of one second differ in their subseconds."""
    moments = [
        decode(
            save(
                quadrants(),
                "JPEG",
                exif=exif(
                    DateTimeOriginal="2026:11:21 10:00:05",
                    SubsecTimeOriginal=f"{frame * 50:03}",
                    OffsetTimeOriginal="+00:00",
                ),
            ),
            limits=LIMITS,
        ).captured_at
        for frame in range(20)
    ]
    assert moments == sorted(set(moments), key=str)


@pytest.mark.parametrize("longest_side", [None, 48])
@pytest.mark.parametrize(
    "payload",
    [
        b"rubbish",
        b"II*\0",
        b"\0M\0*\0\0\0\x08" + bytes(20),
        b"\xff" * 60_000,
    ],
    ids=["text", "cut", "shifted", "long"],
)
def test_an_unknown_exif_header_does_not_cost_the_photo(payload: bytes, longest_side: int | None) -> None:
    photo = decode(with_exif(save(quadrants(), "JPEG"), payload), limits=LIMITS, longest_side=longest_side)
    assert close(corners(photo.image), CORNERS)


@pytest.mark.parametrize("longest_side", [None, 48])
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff" + bytes(20),
        b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0",  # the Exif block is nowhere
        b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0",  # the Exif block is itself
    ],
    ids=["nothing", "nowhere", "many", "block nowhere", "circle"],
)
def test_broken_exif_does_not_fail_the_photo(payload: bytes, longest_side: int | None) -> None:
    photo = decode(with_exif(save(quadrants(), "JPEG"), payload), limits=LIMITS, longest_side=longest_side)
    assert (photo.width, photo.height) == (96, 64)
    assert photo.captured_at is None
    assert close(corners(photo.image), CORNERS)


def test_a_broken_exif_block_does_not_cost_the_orientation() -> None:
    stored = quadrants(96, 64).transpose(STORED[6])  # type: ignore[arg-type]
    entries = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\x69\x87\x04\0\x01\0\0\0\xff\xff\xff\x7f"
    payload = b"II*\0\x08\0\0\0\x02\0" + entries + bytes(4)
    photo = decode(with_exif(save(stored, "JPEG"), payload), limits=LIMITS)
    assert photo.image.size == (96, 64)
    assert close(corners(photo.image), CORNERS)


# Arbitrary input

SMALL = ImageLimits(max_pixels=300_000)
SEEDS = [
    save(noise((40, 30)), "JPEG", exif=exif(6, DateTimeOriginal="2026:11:21 10:00:05", OffsetTimeOriginal="Z")),
    save(noise((40, 30)), "JPEG", progressive=True),
    save(noise((40, 30)).convert("CMYK"), "JPEG"),
    save(noise((40, 30)), "MPO"),
]
OTHERS = [save(noise((40, 30)), form) for form in ("PNG", "WEBP", "TIFF")]
SIDES = st.sampled_from([None, 1, 16, 1000])
edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


def photo_or_error(data: bytes, longest_side: int | None) -> Photo | PhotoError:
    """Decode, and check that the result is a valid photo or one of our errors."""
    try:
        photo = decode(data, limits=SMALL, longest_side=longest_side)
    except PhotoError as exc:
        return exc
    assert photo.image.mode == "RGB"
    assert photo.width * photo.height <= SMALL.max_pixels
    assert photo.scale > 0
    assert math.isfinite(photo.scale)
    assert longest_side is None or max(photo.image.size) <= longest_side
    photo.image.tobytes()
    return photo


def mutate(data: bytes, changes: list[tuple[float, int]], keep: float = 1.0) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    return bytes(changed[: math.ceil(keep * len(changed))])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"II*\0", b"MM\0*"]),
    st.binary(max_size=300),
    SIDES,
)
def test_arbitrary_bytes(magic: bytes, rest: bytes, longest_side: int | None) -> None:
    photo_or_error(magic + rest, longest_side)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(SEEDS), edits, st.floats(0, 1), SIDES)
def test_mutated_and_truncated_jpegs(
    data: bytes, changes: list[tuple[float, int]], keep: float, longest_side: int | None
) -> None:
    photo_or_error(mutate(data, changes, keep), longest_side)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(OTHERS), edits, st.sampled_from([1.0, 0.5]), SIDES)
def test_mutated_images_of_other_formats(
    data: bytes, changes: list[tuple[float, int]], keep: float, longest_side: int | None
) -> None:
    photo_or_error(mutate(data, changes, keep), longest_side)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200), SIDES, st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_arbitrary_exif_does_not_cost_the_photo(payload: bytes, longest_side: int | None, magic: bytes) -> None:
    assert isinstance(photo_or_error(with_exif(SEEDS[1], magic + payload), longest_side), Photo)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(edits, SIDES)
def test_mutated_exif_does_not_cost_the_photo(changes: list[tuple[float, int]], longest_side: int | None) -> None:
    """A turned photo, with all the EXIF a camera writes, some of it broken."""
    full = exif(
        8, DateTimeOriginal="2026:11:21 10:00:05", SubsecTimeOriginal="042", OffsetTimeOriginal="+02:00", LensModel="X"
    )
    full[ExifTags.Base.Make] = "Maker"
    full[ExifTags.Base.XResolution] = 72.0
    full.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    payload = mutate(full.tobytes()[6:], changes)
    assert isinstance(photo_or_error(with_exif(SEEDS[1], payload), longest_side), Photo)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_an_image_without_pixels_is_not_a_photo(size: tuple[int, int]) -> None:
    for data in (jpeg_with_size(*size), png_with_size(*size)):
        assert isinstance(photo_or_error(data, None), PhotoError)


def test_limits_are_documented_defaults() -> None:
    assert (LIMITS.max_pixels, LIMITS.max_bytes) == (250_000_000, 268_435_456)


def test_sha256_is_of_the_bytes(draw: Callable[..., bytes]) -> None:
    data = draw("0042")
    assert images.sha256(data) == hashlib.sha256(data).hexdigest() == decode(data, limits=LIMITS).sha256
