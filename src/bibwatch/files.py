"""Files on disk: a cheap identity of their content, and a safe way to load them.

Knows system calls and their errors. Knows nothing about images.
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
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO named x.jpg must not block


class Stat(NamedTuple):
    """A cheap identity of a file's content: the same values mean the same bytes.

    The device number is left out: it changes when a card reader or network mount reconnects.
    """

    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, result: os.stat_result) -> Stat:
        """Make one from an `os.stat_result`."""
        return cls(result.st_ino, result.st_size, _clamped(result.st_mtime_ns), _clamped(result.st_ctime_ns))


def _clamped(nanoseconds: int) -> int:
    """Clamp a time to a 64-bit integer, as databases store it: files may be dated to the year 2300."""
    return max(-(2**63), min(2**63 - 1, nanoseconds))


def load(path: str, *, expected: Stat | None = None, max_bytes: int) -> bytes:
    """Return the content of the regular file at `path`, all from one moment.

    Raises a PhotoError if the file is gone, unreadable, empty, oversized, or changed (from `expected`, or while read).
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:  # Path.open takes no opener
            before = os.fstat(file.fileno())
            _check(before, expected, max_bytes)
            data = file.readall()
            after = Stat.of(os.fstat(file.fileno()))
    except OSError as exc:
        raise _error_for(exc) from exc
    if after != Stat.of(before) or len(data) != after.size:
        raise PhotoChangedError("changed while it was read; waiting for it to settle")
    return data


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | _FLAGS)


def _check(found: os.stat_result, expected: Stat | None, max_bytes: int) -> None:
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
        return PhotoGoneError(f"cannot be opened ({reason})")
    if exc.errno == errno.ELOOP:
        return PhotoUnsupportedError("a symbolic link; links are not followed")
    return PhotoUnreadableError(f"cannot be read ({reason})")
