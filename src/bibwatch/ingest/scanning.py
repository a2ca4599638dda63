"""Finds every photo in a camera's folder, with the cheap identity of its content.

Opens no file. Follows no links: a link could lead out of the folder, or form a loop.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import NamedTuple

from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.ingest.names import Kind, is_ignored_folder, kind_of, stem_of


class Entry(NamedTuple):
    """A photo found in a folder. `ends_as` and `reason` are set if it is not to be read."""

    path: str
    stat: Stat
    ends_as: State | None = None
    reason: str | None = None


_LONE_RAW = (State.RAW, "a RAW photo with no JPEG beside it; set the camera to RAW+JPEG")
_PAIRED = (State.PAIRED, "its JPEG is read instead")


def walk(folder: str, on_error: Callable[[str], None]) -> Iterator[Entry]:
    """Yield every photo under `folder`; pass a message to `on_error` for each subfolder that cannot be listed.

    Raises OSError if `folder` itself cannot be listed.
    """
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError as exc:
            if path == folder:
                raise
            if not isinstance(exc, FileNotFoundError):
                on_error(f"cannot list {path}: {exc.strerror}")
            continue
        waiting += [
            entry.path for entry in entries if not is_ignored_folder(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
        yield from _photos(entries, on_error)


def find(folder: str, path: str) -> Entry | None:
    """Return the photo at `path` in `folder`, None where a walk would find none; RAW photos are left to the walk."""
    if not path.startswith(folder.rstrip("/") + "/"):  # events name the folder itself too
        return None
    *above, name = PurePath(path).relative_to(folder).parts
    if kind_of(name) is not Kind.PHOTO or any(map(is_ignored_folder, above)):
        return None
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Entry(path, Stat.of(found))


def _photos(entries: list[os.DirEntry[str]], on_error: Callable[[str], None]) -> Iterator[Entry]:
    kinds = [kind_of(entry.name) for entry in entries]
    stems: set[str] = set()
    if Kind.RAW in kinds:
        photos = (entry for entry, kind in zip(entries, kinds, strict=True) if kind is Kind.PHOTO)
        stems = {stem_of(entry.name) for entry in photos if entry.is_file(follow_symlinks=False)}
    for entry, kind in zip(entries, kinds, strict=True):
        if kind is Kind.OTHER:
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # removed since it was listed
            continue
        except OSError as exc:
            on_error(f"cannot access the files of {PurePath(entry.path).parent}: {exc.strerror}")
            return
        if stat.S_ISREG(found.st_mode):
            ends_as = () if kind is Kind.PHOTO else _PAIRED if stem_of(entry.name) in stems else _LONE_RAW
            yield Entry(entry.path, Stat.of(found), *ends_as)
