"""Container rules: which format some bytes are, and whether all of them are there."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bibwatch import containers, images

FORMS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "HEIF")
RULED = ("JPEG", "PNG", "WEBP", "HEIF")  # TIFF has no cheap rule

MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0", b"\0\0\0\x18ftypheic")


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Make a picture that does not compress: its file is as large as a real photo's for its size."""
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


@pytest.fixture(scope="module")
def files(encode: Callable[..., bytes]) -> dict[str, bytes]:
    """One complete file of each format, all over 40 kB."""
    if not images.heif_supported():
        pytest.skip("pillow_heif is not installed")
    first, second = noise((320, 240)), noise((320, 240), seed=1)
    return {
        form: encode(first, form, **({"save_all": True, "append_images": [second]} if form == "MPO" else {}))
        for form in FORMS
    }


@pytest.fixture(scope="module")
def thumbed(encode: Callable[..., bytes]) -> tuple[bytes, int]:
    """A small JPEG with a thumbnail in its EXIF, and where the thumbnail ends."""
    thumb = encode(noise((32, 24)), "JPEG")
    photo = encode(noise((100, 80)), "JPEG")
    segment = b"\xff\xe1" + (len(thumb) + 8).to_bytes(2) + b"Exif\0\0" + thumb
    return photo[:2] + segment + photo[2:], 2 + len(segment)


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


FTYP = box(b"ftyp", b"heic\0\0\0\0mif1heic")
META = box(b"meta", b"x" * 20)


@pytest.mark.parametrize("form", FORMS)
def test_format_is_told_from_the_magic_bytes(files: dict[str, bytes], form: str) -> None:
    assert containers.format_of(files[form]) == ("JPEG" if form == "MPO" else form)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"])
def test_heif_brands(brand: bytes) -> None:
    assert containers.format_of(box(b"ftyp", brand + bytes(4))) == "HEIF"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a bib list, not a photo\n",
        b"GIF89a" + bytes(20),
        b"BM" + bytes(20),
        b"RIFF\x24\0\0\0WAVEfmt ",
        box(b"ftyp", b"isom" + bytes(4)),
        b"%PDF-1.7",
        bytes(100),
    ],
)
def test_other_bytes_have_no_format(data: bytes) -> None:
    assert containers.format_of(data) is None


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_file_is_complete(files: dict[str, bytes], form: str) -> None:
    assert containers.is_complete(files[form])


@pytest.mark.parametrize("percent", [1, 50, 99])
@pytest.mark.parametrize("form", RULED)
def test_a_cut_file_is_not_complete(files: dict[str, bytes], form: str, percent: int) -> None:
    data = files[form]
    assert not containers.is_complete(data[: len(data) * percent // 100])


@pytest.mark.parametrize("form", RULED)
def test_a_single_missing_byte_is_noticed(files: dict[str, bytes], form: str) -> None:
    assert not containers.is_complete(files[form][:-1])


@pytest.mark.parametrize("percent", [1, 25, 49])
def test_an_mpo_cut_in_its_first_picture_is_not_complete(files: dict[str, bytes], percent: int) -> None:
    data = files["MPO"]
    assert not containers.is_complete(data[: len(data) * percent // 100])


@pytest.mark.parametrize("written", [1, 50, 90])
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
def test_reserved_space_is_not_complete(files: dict[str, bytes], form: str, written: int) -> None:
    """The file has its full size, and only the first part of it is written."""
    data = files[form]
    cut = len(data) * written // 100
    if form == "HEIF" and written == 1:  # the box lengths themselves are missing: noticed already
        cut = len(data) // 4
    assert not containers.is_complete(data[:cut] + bytes(len(data) - cut))


@pytest.mark.parametrize("pad", [1, 3, 16, 5000])
@pytest.mark.parametrize(
    "form",
    [
        "JPEG",
        "PNG",
        "WEBP",
        pytest.param("HEIF"),
    ],
)
def test_zeros_after_the_end_are_fine(files: dict[str, bytes], form: str, pad: int) -> None:
    """Cameras and card readers pad files."""
    assert containers.is_complete(files[form] + bytes(pad))


@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG", "WEBP"])
def test_a_makers_trailer_is_fine(files: dict[str, bytes], form: str) -> None:
    assert containers.is_complete(files[form] + b"MAKERNOTE" * 1000)


def test_a_trailer_of_any_length_is_fine(files: dict[str, bytes]) -> None:
    """Phones append a video of some megabytes behind the picture (motion photo)."""
    assert containers.is_complete(files["JPEG"] + b"\0\0\0\x18ftypmp42" + b"VIDEO" * 50_000)


def test_a_jpeg_with_a_thumbnail_is_complete(thumbed: tuple[bytes, int]) -> None:
    assert containers.is_complete(thumbed[0])


@pytest.mark.parametrize("tail", [200, 1000, 3000])
def test_a_thumbnails_end_is_not_the_photos_end(thumbed: tuple[bytes, int], tail: int) -> None:
    data, _ = thumbed
    assert not containers.is_complete(data[:-tail] + bytes(tail))


def test_a_file_written_up_to_the_thumbnails_end_is_not_complete(thumbed: tuple[bytes, int]) -> None:
    data, end = thumbed
    assert not containers.is_complete(data[:end] + bytes(len(data) - end))


def test_a_png_chunk_longer_than_the_file_is_not_complete(files: dict[str, bytes]) -> None:
    assert not containers.is_complete(files["PNG"][:8] + b"\xff\xff\xff\xffIDAT" + bytes(100))


@pytest.mark.parametrize(
    ("boxes", "complete"),
    [
        (box(b"mdat", b"x" * 40), True),
        (box(b"mdat", b"x" * 40) + box(b"sefd", b"x" * 40), True),  # a maker's trailer
        (box(b"mdat", b"x" * 40)[:-1], False),
        (struct.pack(">I4sQ", 1, b"mdat", 56) + b"x" * 40, True),  # a length of 64 bits
        (struct.pack(">I4sQ", 1, b"mdat", 57) + b"x" * 40, False),
        (struct.pack(">I4s", 0, b"mdat") + b"x" * 40, True),  # to the end of the file
        (bytes(48), False),  # reserved, not written
        (struct.pack(">I4s", 7, b"mdat") + b"x" * 40, False),  # shorter than its own header
    ],
)
def test_heif_boxes(boxes: bytes, complete: bool) -> None:  # noqa: FBT001
    assert containers.is_complete(FTYP + META + boxes) is complete


@pytest.mark.parametrize(
    ("data", "blank"),
    [(bytes(64), True), (bytes(10_000), True), (b"text", False), (FTYP, False), (bytes(63) + b"\1", False)],
)
def test_blank(data: bytes, blank: bool) -> None:  # noqa: FBT001
    assert containers.is_blank(data) is blank


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(MAGICS), st.binary(max_size=400))
def test_any_bytes_get_an_answer(magic: bytes, rest: bytes) -> None:
    assert containers.format_of(magic + rest) is not None
    assert containers.is_complete(magic + rest) in {True, False}
