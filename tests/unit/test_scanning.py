"""Walking a folder, on real trees."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.ingest import scanning

NOBODY = 65534


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo")


def scan(folder: Path | str) -> dict[str, State | None]:
    """Return the names found below a folder, and the state each ends in without being read."""
    trouble: list[str] = []
    entries = list(scanning.walk(str(folder), trouble.append))
    assert not trouble
    found = {os.path.relpath(entry.path, folder): entry.ends_as for entry in entries}
    assert len(found) == len(entries)
    assert all((entry.ends_as is None) == (entry.reason is None) for entry in entries)
    return found


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Work as a user whom permissions bind, even if we are root. Paths must be relative: the parents are root's."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert scan(tmp_path) == {}


def test_a_cards_tree_is_walked(tmp_path: Path) -> None:
    names = ["a.jpg", "DCIM/100CANON/IMG_0001.JPG", "DCIM/100CANON/IMG_0002.JPG", "DCIM/101CANON/IMG_0001.JPG"]
    put(tmp_path, *names, "DCIM/100CANON/IMG_0001.THM", "MISC/AUTPRINT.MRK")
    assert scan(tmp_path) == dict.fromkeys(names)


def test_an_entry_has_the_path_and_the_stat(tmp_path: Path) -> None:
    put(tmp_path, "DCIM/x.jpg")
    (entry,) = scanning.walk(str(tmp_path), pytest.fail)
    path = tmp_path / "DCIM/x.jpg"
    assert entry == (str(path), Stat.of(path.stat()), None, None)


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, ".hidden.jpg", "._IMG.JPG", ".in.IMG.JPG.", ".Trashes/x.jpg", "@eaDir/x.jpg", "a/.stversions/x.jpg")
    assert scan(tmp_path) == {}


def test_the_camera_folder_itself_may_have_any_name(tmp_path: Path) -> None:
    put(tmp_path / ".drop", "x.jpg")
    assert scan(tmp_path / ".drop") == {"x.jpg": None}


def test_a_lone_raw_is_unsupported_with_advice(tmp_path: Path) -> None:
    put(tmp_path, "IMG_0001.CR3")
    (entry,) = scanning.walk(str(tmp_path), pytest.fail)
    assert entry.ends_as is State.RAW
    assert "RAW+JPEG" in str(entry.reason)


@pytest.mark.parametrize(
    ("raw", "photo"),
    [("IMG_0001.CR3", "IMG_0001.JPG"), ("img_0001.nef", "IMG_0001.jpg"), ("IMG_0001.ARW", "IMG_0001.HEIC")],
)
def test_a_raw_with_its_jpeg_is_paired(tmp_path: Path, raw: str, photo: str) -> None:
    put(tmp_path, raw, photo)
    assert scan(tmp_path) == {raw: State.PAIRED, photo: None}


@pytest.mark.parametrize("photo", ["IMG_0002.JPG", "other/IMG_0001.JPG", ".in.IMG_0001.JPG.", "IMG_0001.JPG.part"])
def test_a_raw_is_not_paired_with_another_photo(tmp_path: Path, photo: str) -> None:
    put(tmp_path, "IMG_0001.CR3", photo)
    assert scan(tmp_path)["IMG_0001.CR3"] is State.RAW


def test_a_renamed_pair_is_paired(tmp_path: Path) -> None:
    """pure-ftpd's AutoRename gives both halves a number."""
    put(tmp_path, "IMG_0001.CR3.1", "IMG_0001.JPG.1")
    assert scan(tmp_path) == {"IMG_0001.CR3.1": State.PAIRED, "IMG_0001.JPG.1": None}


def test_a_linked_file_is_passed_over(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"photo")
    folder = tmp_path / "drop"
    folder.mkdir()
    (folder / "link.jpg").symlink_to(outside)
    (folder / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (folder / "link.txt").symlink_to(outside)
    assert scan(folder) == {}
    assert all("symbolic link" in str(entry.reason) for entry in scanning.walk(str(folder), pytest.fail))


def test_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "outside/x.jpg", "drop/y.jpg")
    (tmp_path / "drop/inside").symlink_to(tmp_path / "outside")
    (tmp_path / "drop/loop").symlink_to(tmp_path / "drop")
    assert scan(tmp_path / "drop") == {"y.jpg": None}


def test_the_camera_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    put(tmp_path, "real/x.jpg")
    (tmp_path / "drop").symlink_to(tmp_path / "real")
    assert scan(tmp_path / "drop") == {"x.jpg": None}


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"two\nlines.jpg", b"%s\x1b[31m.jpg", b"a" * 251 + b".jpg"])
def test_odd_names(tmp_path: Path, name: bytes) -> None:
    put(tmp_path, os.fsdecode(name))
    assert scan(tmp_path) == {os.fsdecode(name): None}


def test_an_odd_folder_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9t\xe9\n/x.jpg")
    put(tmp_path, name)
    assert scan(tmp_path) == {name: None}


def test_a_folder_named_like_a_photo_is_walked(tmp_path: Path) -> None:
    put(tmp_path, "x.jpg/y.jpg")
    assert scan(tmp_path) == {"x.jpg/y.jpg": None}


@pytest.mark.timeout(10)
def test_what_is_no_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    assert scan(tmp_path) == {}


def test_an_empty_file_is_a_photo_to_come(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    assert scan(tmp_path) == {"x.jpg": None}


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "drop")


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "drop")
    with pytest.raises(NotADirectoryError):
        scan(tmp_path / "drop")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree in the current folder, with a subfolder `closed` to take permissions from."""
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o711)
    put(tmp_path, "drop/x.jpg", "drop/closed/y.jpg", "drop/open/z.jpg")
    return tmp_path / "drop"


@pytest.mark.parametrize(
    "mode",
    [
        0o000,
        pytest.param(
            0o444,
        ),
    ],
    ids=oct,
)
def test_a_subfolder_that_cannot_be_listed_is_reported_and_the_rest_continues(tree: Path, mode: int) -> None:
    (tree / "closed").chmod(mode)
    trouble: list[str] = []
    with bound_by_permissions():
        found = [entry.path for entry in scanning.walk("drop", trouble.append)]
    (tree / "closed").chmod(0o755)
    assert sorted(found) == ["drop/open/z.jpg", "drop/x.jpg"]
    assert len(trouble) == 1
    assert "drop/closed" in trouble[0]
    assert "Permission denied" in trouble[0]


def test_a_camera_folder_that_cannot_be_listed_is_an_error(tree: Path) -> None:
    tree.chmod(0)
    with bound_by_permissions(), pytest.raises(PermissionError):
        list(scanning.walk("drop", pytest.fail))
    tree.chmod(0o755)


def test_a_subfolder_that_vanishes_meanwhile_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "x.jpg", "a/y.jpg")
    scandir = os.scandir

    def vanishing(path: str) -> object:
        if path.endswith("/a"):
            raise FileNotFoundError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert scan(tmp_path) == {"x.jpg": None}


def test_a_file_that_vanishes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a/x.jpg", "a/y.jpg")
    walk = scanning.walk(str(tmp_path), pytest.fail)
    first = next(walk).path
    other = tmp_path / "a" / ("y.jpg" if first.endswith("x.jpg") else "x.jpg")
    other.unlink()
    assert list(walk) == []


# A look at one path, for a hint


@pytest.mark.parametrize("name", ["x.jpg", "DCIM/100CANON/x.jpg", "x.jpg/y.jpg", "\udcff.jpg"])
def test_look_at_a_photo(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    path = tmp_path / name
    assert scanning.find(str(tmp_path), str(path)) == scanning.Entry(str(path), Stat.of(path.stat()))


def test_look_in_a_folder_with_any_name(tmp_path: Path) -> None:
    put(tmp_path, ".drop/x.jpg")
    assert scanning.find(str(tmp_path / ".drop"), str(tmp_path / ".drop/x.jpg"))


@pytest.mark.parametrize(
    "name", [".Trashes/x.jpg", "DCIM/@eaDir/x.jpg", ".stversions/DCIM/x.jpg", "x.txt", ".in.x.jpg."]
)
def test_look_passes_over_what_a_walk_passes_over(tmp_path: Path, name: str) -> None:
    put(tmp_path, name)
    assert scan(tmp_path) == {}
    assert scanning.find(str(tmp_path), str(tmp_path / name)) is None


@pytest.mark.parametrize("name", ["drop", "drop2/x.jpg", "x.jpg"])
def test_look_passes_over_what_is_not_in_the_folder(tmp_path: Path, name: str) -> None:
    """Events name the folder itself if a file has replaced it."""
    put(tmp_path, name)
    assert scanning.find(str(tmp_path / "drop"), str(tmp_path / name)) is None


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("x.CR3", Path.touch),
        ("x.jpg", Path.mkdir),
        ("x.jpg", os.mkfifo),
        ("x.jpg", link),
        ("x.jpg", lambda _: None),
    ],
    ids=["raw", "folder", "fifo", "link", "gone"],
)
def test_look_leaves_the_rest_to_the_walk(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    assert scanning.find(str(tmp_path), str(tmp_path / name)) is None
