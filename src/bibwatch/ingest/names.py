"""Which names in a drop folder are photos, and which are something else.

Knows the temporary names of common FTP and SFTP servers, sync tools and desktops.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from pathlib import PurePath

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".hif"})
RAW_SUFFIXES = frozenset(
    {".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".raf", ".orf", ".rw2", ".dng", ".pef", ".srw", ".3fr"}
)
_IGNORED_FOLDERS = frozenset(
    {"@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"}
)


class Kind(Enum):
    """What a file's name says it is."""

    PHOTO = auto()
    RAW = auto()
    OTHER = auto()


def kind_of(name: str) -> Kind:
    """Tell what a file is by its name: hidden, temporary (`X.JPG.part`, `X.JPG.filepart`) and sidecar files are OTHER.

    `IMG_1.JPG.1` is a photo: pure-ftpd's AutoRename writes a second `IMG_1.JPG` so.
    """
    if name.startswith("."):  # .in.X. .pureftpd-upload.X .sftpgo-upload.X ._X
        return Kind.OTHER
    suffix = _original(name).suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return Kind.PHOTO
    return Kind.RAW if suffix in RAW_SUFFIXES else Kind.OTHER


def stem_of(name: str) -> str:
    """Return what the two files of a RAW+JPEG pair have in common."""
    return _original(name).stem.lower()


def is_ignored_folder(name: str) -> bool:
    """Tell whether a folder holds no camera's photos: hidden ones, thumbnails, trash."""
    return name.startswith(".") or name in _IGNORED_FOLDERS


def _original(name: str) -> PurePath:
    return PurePath(re.sub(r"\.\d{1,3}$", "", name))
