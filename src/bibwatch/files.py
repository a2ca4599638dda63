"""One file on disk: what tells it from another without reading it, and a safe way to read it.

Knows the system's calls and their errors; knows nothing of pictures.
"""

from __future__ import annotations

import errno
import os
import stat as stat_modes
from typing import NamedTuple

from bibwatch.errors import (
    PhotoChangedError,
    PhotoEmptyError,
    PhotoError,
    PhotoGoneError,
    PhotoOversizedError,
    PhotoUnreadableError,
    PhotoUnsupportedError,
)

_GONE = {errno.ENOENT, errno.ENOTDIR}
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK  # never block on a FIFO named x.jpg


class Stat(NamedTuple):
    """The cheap identity of a file's content: same tuple, same bytes.

    The device number is left out: it changes when a card reader or a network mount comes back.
    """

    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, result: os.stat_result) -> Stat:
        """Take the tuple from a system stat result."""
        return cls(result.st_ino, result.st_size, _clamped(result.st_mtime_ns), _clamped(result.st_ctime_ns))


def _clamped(nanoseconds: int) -> int:
    """Keep a time within what a database's integer holds: files may claim to be from the year 2300."""
    return max(-(2**63), min(2**63 - 1, nanoseconds))


def load(path: str, *, expected: Stat | None = None, max_bytes: int) -> bytes:
    """Return the whole content of the regular file at `path`, which does not change meanwhile.

    Raises the PhotoError that fits: gone, unreadable, changed (against `expected` or while read), empty, oversized.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:  # Path.open takes no opener
            before = os.fstat(file.fileno())
            _refuse(before, expected, max_bytes)
            data = file.readall()
            after = Stat.of(os.fstat(file.fileno()))
    except OSError as exc:
        raise _error_for(exc) from exc
    if after != Stat.of(before) or len(data) != after.size:
        raise PhotoChangedError("changed while it was read; waiting for it to settle")
    return data


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


def _refuse(found: os.stat_result, expected: Stat | None, max_bytes: int) -> None:
    if not stat_modes.S_ISREG(found.st_mode):
        raise PhotoUnreadableError("not a regular file")
    if expected is not None and Stat.of(found) != expected:
        raise PhotoChangedError("changed since it was found complete; waiting for it to settle")
    if found.st_size == 0:
        raise PhotoEmptyError("empty (0 bytes); waiting for it to be written")
    if found.st_size > max_bytes:
        raise PhotoOversizedError(f"{found.st_size} bytes is over images.max_bytes = {max_bytes}")


def _error_for(exc: OSError) -> PhotoError:
    reason = exc.strerror or str(exc)
    if exc.errno in _GONE:
        return PhotoGoneError(f"not there when it was to be read ({reason})")
    if exc.errno == errno.ELOOP:
        return PhotoUnsupportedError("a symbolic link; links are not followed")
    return PhotoUnreadableError(f"cannot be read ({reason})")
