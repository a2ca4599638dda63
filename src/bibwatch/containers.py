"""Image containers: the format of a file's bytes, and whether the file is complete.

Knows how each format ends (JPEG EOI, PNG IEND, RIFF and ISO-BMFF box lengths). Decodes nothing.
Cameras and FTP servers leave files that are truncated, or preallocated at full size and filled with zeros.
Decoders accept some of both (Pillow's `verify()` accepts half a JPEG).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

_MAGIC_LENGTH = 12  # bytes that identify any of the formats
_MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0", b"MM\0*", b"\0\0\0")
_TAIL = 256  # a complete WebP does not end with this many zeros
_PAGE = 4096  # this many zeros at the end are more than padding
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xff\xd9"
_BOX_HEADER = 8  # bytes: length and kind of an ISO-BMFF box


def format_of(data: bytes) -> str | None:
    """Return the format by its magic bytes: JPEG, PNG, WEBP, TIFF, HEIF or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in {b"II*\0", b"MM\0*"}:
        return "TIFF"
    if data[4:8] == b"ftyp" and data[8:12] in {b"heic", b"heix", b"hevc", b"heim", b"mif1", b"msf1"}:
        return "HEIF"
    return None


def is_head(data: bytes) -> bool:
    """Return whether these bytes are too few to identify the format, but may be the start of a photo."""
    return len(data) < _MAGIC_LENGTH and any(magic.startswith(data[: len(magic)]) for magic in _MAGICS)


def is_blank(data: bytes) -> bool:
    """Return whether the first bytes are all zeros: space that is allocated but not yet written."""
    return not any(data[:64])


def is_complete(data: bytes) -> bool:
    """Return whether the container's end marker is there. Formats without a cheap check count as complete."""
    check = _CHECKS.get(format_of(data) or "")
    return check(data) if check else True


def _jpeg(data: bytes) -> bool:
    # Segments are skipped by their length, so that the end marker of an embedded thumbnail does not count.
    # In the scan data, ff d9 can only be the end; what follows it is padding or a maker's trailer.
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == _START_OF_SCAN:
            return _END_OF_IMAGE in data[position:]
        position += 1 if marker == b"\xff" else 2 + int.from_bytes(data[position + 2 : position + 4])
    # No scan: truncated or preallocated if the rest is empty or zeros; otherwise the decoder decides.
    return any(data[position : position + _PAGE])


def _png(data: bytes) -> bool:
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        if not data[position + 4 : position + 8].isalpha():
            return False
        position += 12 + length
        if data[position - length - 8 : position - length - 4] == b"IEND":
            return position <= len(data)
    return False


def _webp(data: bytes) -> bool:
    end: int = 8 + int.from_bytes(data[4:8], "little")
    return len(data) >= end and any(data[max(0, end - _TAIL) : end])


def _heif(data: bytes) -> bool:
    position, kinds = 0, set[bytes]()
    while position + _BOX_HEADER <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if not any(kind):  # padding, or not written yet
            break
        if length == 1 and position + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, position + 8)
        elif length == 0:  # the box runs to the end of the file
            length = len(data) - position
        if length < _BOX_HEADER:
            return False
        position += length
        kinds.add(kind)
    whole = {b"meta", b"mdat"} <= kinds and position <= len(data)
    return whole and any(data[max(0, position - _PAGE) : position])


_CHECKS: dict[str, Callable[[bytes], bool]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "HEIF": _heif}
