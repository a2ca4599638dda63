"""Which names in a drop folder are photos: not the temporary files of FTP and SFTP servers, sync tools, desktops."""

from __future__ import annotations

import re
from enum import Enum, auto

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".hif"})
RAW_SUFFIXES = frozenset(
    {".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".dng", ".pef", ".srw", ".3fr"}
)
_AUTO_RENAMED = re.compile(r"\.\d{1,3}$")
_IGNORED_FOLDERS = frozenset(
    {"@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"}
)


class Kind(Enum):
    """The kind of a file, by its name."""

    PHOTO = auto()
    RAW = auto()
    OTHER = auto()


def kind_of(name: str) -> Kind:
    """Return the kind of a file; hidden, temporary (`X.JPG.part`, `X.JPG.filepart`) and sidecar files are OTHER.

    `IMG_1.JPG.1` is a photo: it is how pure-ftpd's AutoRename stores a second `IMG_1.JPG`.
    """
    if name.startswith("."):  # .in.X. .pureftpd-upload.X .sftpgo-upload.X ._X
        return Kind.OTHER
    suffix = _split(name)[1]
    if suffix in PHOTO_SUFFIXES:
        return Kind.PHOTO
    return Kind.RAW if suffix in RAW_SUFFIXES else Kind.OTHER


def stem_of(name: str) -> str:
    """Return the part of the name that the files of a RAW+JPEG pair share."""
    return _split(name)[0]


def is_ignored_folder(name: str) -> bool:
    """Return whether a folder is hidden, or holds thumbnails or trash rather than a camera's photos."""
    return name.startswith(".") or name in _IGNORED_FOLDERS


def _split(name: str) -> tuple[str, str]:
    """Return stem and suffix in lower case, without the number that AutoRename adds."""
    stem, dot, suffix = _AUTO_RENAMED.sub("", name.lower()).rpartition(".")
    return stem, dot + suffix
