"""Reading one file: its bytes, or the PhotoError that says why not."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bibwatch import files
from bibwatch.errors import (
    PhotoChangedError,
    PhotoEmptyError,
    PhotoError,
    PhotoGoneError,
    PhotoOversizedError,
    PhotoUnreadableError,
    PhotoUnsupportedError,
)
from bibwatch.files import Stat

MOST = 1_000_000
NOBODY = 65534


def read(path: Path, **options: object) -> bytes:
    return files.load(str(path), **({"max_bytes": MOST} | options))  # type: ignore[arg-type]


def stat_of(path: Path) -> Stat:
    return Stat.of(path.lstat())


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file of 1,000 bytes that was last written long ago."""
    path = tmp_path / "IMG_0001.JPG"
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(10**18, 10**18))
    return path


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


# What can be read


def test_the_whole_content_is_read(photo: Path) -> None:
    assert read(photo) == b"x" * 1000
    assert read(photo, expected=stat_of(photo)) == b"x" * 1000


def test_reading_leaves_the_file_as_it_was(photo: Path) -> None:
    before = stat_of(photo)
    read(photo)
    assert stat_of(photo) == before


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.jpg", b"two\nlines.jpg", b"%s\x1b[31m.jpg", "Zieleinlauf ü.jpg".encode(), b"a" * 251 + b".jpg"]
)
def test_any_name_can_be_read(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"photo")
    assert read(path) == b"photo"


# What cannot


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    with pytest.raises(PhotoEmptyError, match="0 bytes"):
        read(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["gone.jpg", "gone/x.jpg", "IMG_0001.JPG/x.jpg"])
def test_a_file_that_is_not_there(photo: Path, name: str) -> None:
    with pytest.raises(PhotoGoneError, match="cannot be opened"):
        read(photo.parent / name)


def test_a_link_is_not_followed(photo: Path) -> None:
    link = photo.with_name("link.jpg")
    link.symlink_to(photo)
    with pytest.raises(PhotoUnsupportedError, match="link"):
        read(link)


def test_a_link_round_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to(tmp_path / "x.jpg")
    with pytest.raises(PhotoUnsupportedError, match="link"):
        read(tmp_path / "x.jpg")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [make_folder, os.mkfifo, make_socket], ids=["folder", "fifo", "socket"])
def test_what_is_no_regular_file_is_unreadable_and_never_blocks(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    make(Path("x.jpg"))
    with pytest.raises(PhotoUnreadableError):
        read(Path("x.jpg"))


@pytest.mark.timeout(10)
def test_a_device_is_not_read() -> None:
    with pytest.raises(PhotoUnreadableError, match="regular"):
        read(Path("/dev/zero"))


def test_a_file_without_permission_is_unreadable_until_it_has_it(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photo.parent)
    photo.parent.chmod(0o711)
    photo.chmod(0)
    with bound_by_permissions(), pytest.raises(PhotoUnreadableError, match="Permission denied"):
        read(Path(photo.name))
    photo.chmod(0o444)
    with bound_by_permissions():
        assert read(Path(photo.name)) == b"x" * 1000


def test_a_file_in_a_closed_folder_is_unreadable_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o711)
    folder = tmp_path / "DCIM"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(b"photo")
    folder.chmod(0)
    with bound_by_permissions(), pytest.raises(PhotoUnreadableError, match="Permission denied"):
        read(Path("DCIM/x.jpg"))
    folder.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, PhotoUnreadableError),
        (errno.EACCES, PhotoUnreadableError),
        (errno.ESTALE, PhotoUnreadableError),
        (errno.EHOSTDOWN, PhotoUnreadableError),
        (errno.ENAMETOOLONG, PhotoUnreadableError),
        (errno.EMFILE, PhotoUnreadableError),
        (errno.ENOENT, PhotoGoneError),
        (errno.ENOTDIR, PhotoGoneError),
        (errno.ELOOP, PhotoUnsupportedError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_the_systems_errors(
    photo: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[PhotoError]
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(expected) as caught:
        read(photo)
    assert str(caught.value)


# Limits


def test_the_size_limit_is_inclusive(photo: Path) -> None:
    assert read(photo, max_bytes=1000) == b"x" * 1000
    with pytest.raises(PhotoOversizedError, match="1000 bytes is over"):
        read(photo, max_bytes=999)


@pytest.mark.timeout(10)
def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(PhotoOversizedError):
        read(tmp_path / "x.jpg")


# Changes


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shorten(path: Path) -> None:
    os.truncate(path, 10)


def rewrite(path: Path) -> None:
    path.write_bytes(b"y" * 1000)


def touch(path: Path) -> None:
    os.utime(path)


CHANGES = [append, shorten, rewrite, touch]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_since_it_settled(photo: Path, change: Callable[[Path], None]) -> None:
    settled = stat_of(photo)
    change(photo)
    with pytest.raises(PhotoChangedError):
        read(photo, expected=settled)


def test_another_file_under_the_same_name_has_changed(photo: Path) -> None:
    settled = stat_of(photo)
    other = photo.with_suffix(".new")
    other.write_bytes(b"y" * 1000)
    os.utime(other, ns=(10**18, 10**18))
    other.replace(photo)
    with pytest.raises(PhotoChangedError):
        read(photo, expected=settled)


def test_an_emptied_file_has_changed_before_it_is_empty(photo: Path) -> None:
    """It settles anew; only then is it known to be empty."""
    settled = stat_of(photo)
    os.truncate(photo, 0)
    with pytest.raises(PhotoChangedError):
        read(photo, expected=settled)


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read(
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    expected: bool,  # noqa: FBT001
) -> None:
    settled = stat_of(photo) if expected else None
    fstat = os.fstat
    looks = []

    def look_then_change(fd: int) -> os.stat_result:
        found = fstat(fd)
        if not looks:  # the moment after the file was found as it should be
            looks.append(fd)
            change(photo)
        return found

    monkeypatch.setattr(os, "fstat", look_then_change)
    with pytest.raises(PhotoChangedError):
        read(photo, expected=settled)


def test_a_file_deleted_while_it_is_read_is_whole_or_changed(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open file stays readable; that it lost its name is a change of its inode."""
    fstat = os.fstat

    def look_then_delete(fd: int) -> os.stat_result:
        found = fstat(fd)
        photo.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "fstat", look_then_delete)
    try:
        data = read(photo)
    except PhotoError as exc:
        error: PhotoError | None = exc
    else:
        error = None
        assert data == b"x" * 1000
    assert error is None or isinstance(error, PhotoChangedError)


# Nothing is left open


@pytest.mark.parametrize(
    "kind",
    [
        "photo",
        "empty",
        "fifo",
        "oversized",
        "changed",
        pytest.param(
            "folder",
        ),
    ],
)
def test_no_file_is_left_open(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if kind == "empty" else b"x" * 1000)
    options: dict[str, object] = {"oversized": {"max_bytes": 1}, "changed": {"expected": Stat(0, 0, 0, 0)}}.get(
        kind, {}
    )  # type: ignore[assignment]
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        try:
            read(path, **options)
        except PhotoError:
            assert kind != "photo"
    left = {int(fd) for fd in set(os.listdir("/proc/self/fd")) - before}  # noqa: PTH208
    found = {fd for fd in left if Path(f"/proc/self/fd/{fd}").exists() and Path(f"/proc/self/fd/{fd}").samefile(path)}
    for fd in found:
        os.close(fd)
    assert not found


# Stat


def test_stat_is_the_same_for_an_unchanged_file(photo: Path) -> None:
    assert stat_of(photo) == stat_of(photo) == Stat.of(os.stat(photo))  # noqa: PTH116


def test_stat_takes_inode_size_and_times_but_no_device(photo: Path) -> None:
    found = photo.stat()
    assert stat_of(photo) == (found.st_ino, 1000, 10**18, found.st_ctime_ns)
    assert found.st_dev not in stat_of(photo)[1:]


def test_an_overwrite_with_the_same_size_and_mtime_shows(photo: Path) -> None:
    before = stat_of(photo)
    time.sleep(0.05)  # the kernel's clock ticks every few milliseconds
    photo.write_bytes(b"y" * 1000)
    os.utime(photo, ns=(10**18, 10**18))
    after = stat_of(photo)
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    assert after != before
