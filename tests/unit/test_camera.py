"""A camera's loop, step by step on a real folder and a real ledger: no threads of ours, no waiting."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import text

from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.ingest import folder_watcher as watcher_module
from bibwatch.ingest import mounts
from bibwatch.ingest.camera import Camera
from bibwatch.ingest.folder_watcher import FileEvents, FolderWatcher
from bibwatch.ingest.settling import Settling
from bibwatch.settings import CameraSettings, IngestSettings
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Finished
from bibwatch.store.report import Report
from bibwatch.store.schema import text_to_path

RECOGNISER = Recogniser("bib_number", "test", "0")
NEVER = 1_000_000.0
PATIENCE = 15.0  # seconds for the kernel's events, on a busy machine


class Rig:
    """A drop folder with its ledger, and the camera that watches it."""

    def __init__(self, tmp_path: Path, *, watch: Literal["poll", "events"] = "poll", settle: float = 0) -> None:
        self.folder = tmp_path / "drop"
        self.folder.mkdir()
        self.database = Database(f"sqlite:///{tmp_path / 'bibwatch.db'}")
        self.database.migrate()
        self.ledger = Ledger(self.database)
        self.report = Report(self.database)
        self.watch = watch
        self.settle = settle
        self.news = threading.Event()
        self.camera = self.new_camera()

    def new_camera(self) -> Camera:
        """Make the camera of a new run of the daemon."""
        stop = threading.Event()
        stop.set()  # a database that fails fails the test at once
        return Camera(
            "finish",
            CameraSettings(path=self.folder, watch=self.watch),
            IngestSettings(settle_seconds=self.settle),
            self.ledger,
            stop=stop,
            news=self.news,
        )

    def restart(self) -> None:
        self.camera.ended()
        self.camera = self.new_camera()

    def close(self) -> None:
        self.camera.ended()
        self.database.close()

    def settle_after(self, seconds: float) -> None:
        """From now on a file settles after so many seconds of quiet."""
        self.camera._settling = Settling(seconds, trust_ctime=False)

    def path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put(self, name: str, content: bytes = b"photo", mtime: int | None = None) -> Path:
        """Put a file in place, by another inode than any file there."""
        path = self.path(name)
        upload = path.with_name(f".in.{path.name}.")
        upload.write_bytes(content)
        if mtime is not None:
            os.utime(upload, ns=(mtime, mtime))
        upload.replace(path)
        return path

    def scan(self, *closed: Path, touched: tuple[Path, ...] = ()) -> dict[str, State]:
        """Let the camera scan, and return the states."""
        self.camera.scan(FileEvents(frozenset(map(str, closed)), frozenset(map(str, touched))))
        return self.states()

    def states(self) -> dict[str, State]:
        with self.database.query() as connection:
            files = connection.execute(text("SELECT path, state FROM file_status")).all()
        return {os.path.relpath(text_to_path(path), self.folder): State(state) for path, state in files}

    def finish(self, state: State = State.DONE) -> list[str]:
        """Let everything that is ready end in a state, as the pipeline would; return the names."""
        claims = self.ledger.claim(1000, quarantined=True)
        error = None if state is State.DONE else "for the test"
        self.ledger.finish(RECOGNISER, [Finished(claim, state=state, error=error) for claim in claims])
        return [os.path.relpath(claim.path, self.folder) for claim in claims]

    def note(self) -> tuple[str, str | None]:
        """Return the state and the error of the camera, as `bibwatch status` tells them."""
        (row,) = self.report.camera_states()
        assert row["path"] == str(self.folder)
        return row["state"], row["error"]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A polled folder whose files settle at once."""
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Rig]:
    """A polled folder whose files never settle by themselves."""
    rig = Rig(tmp_path, settle=NEVER)
    yield rig
    rig.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Rig]:
    """A folder watched by the kernel's events, whose files never settle without them."""
    rig = Rig(tmp_path, watch="events", settle=NEVER)
    yield rig
    rig.close()


@pytest.fixture
def closed_to_us(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Take the permission to list a folder away from us, root or not."""
    scandir = os.scandir
    closed: set[str] = set()

    def refusing(path: str = ".") -> object:
        if os.fspath(path) in closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return lambda path: closed.add(str(path))


# New files


def test_an_empty_folder_is_polled(rig: Rig) -> None:
    assert rig.scan() == {}
    assert rig.note() == ("polling", None)
    assert rig.camera.healthy


def test_a_new_file_settles_and_then_is_ready(slow: Rig) -> None:
    clock = [0.0]
    slow.camera._settling = Settling(5, trust_ctime=False, monotonic=lambda: clock[0])
    slow.put("x.jpg")
    assert slow.scan() == {"x.jpg": State.SETTLING}
    clock[0] = 4.9
    assert slow.scan() == {"x.jpg": State.SETTLING}
    assert not slow.news.is_set()
    clock[0] = 5
    assert slow.scan() == {"x.jpg": State.READY}
    assert slow.news.is_set()


def test_a_file_being_written_settles_again(slow: Rig) -> None:
    clock = [0.0]
    slow.camera._settling = Settling(5, trust_ctime=False, monotonic=lambda: clock[0])
    path = slow.put("x.jpg")
    for size in range(1, 6):
        path.write_bytes(b"x" * size)
        assert slow.scan() == {"x.jpg": State.SETTLING}
        clock[0] += 4
    clock[0] += 1
    assert slow.scan() == {"x.jpg": State.READY}
    (claim,) = slow.ledger.claim(1, quarantined=True)
    assert claim.stat == Stat.of(path.stat())


def test_a_closed_file_is_ready_at_once(slow: Rig) -> None:
    path = slow.put("DCIM/100CANON/x.jpg")
    other = slow.put("y.jpg")
    assert slow.scan(path) == {"DCIM/100CANON/x.jpg": State.READY, "y.jpg": State.SETTLING}
    assert slow.scan(other)["y.jpg"] is State.READY


def test_a_touched_file_settles(slow: Rig) -> None:
    path = slow.put("x.jpg")
    assert slow.scan(touched=(path,)) == {"x.jpg": State.SETTLING}


def test_files_that_were_there_before_us_are_taken(rig: Rig) -> None:
    for number in range(1200):  # more than one transaction
        rig.path(f"IMG_{number:04}.JPG").touch()
    assert set(rig.scan().values()) == {State.READY}
    assert len(rig.states()) == 1200


def test_a_backlog_settles_like_any_file(slow: Rig) -> None:
    """It may still be being written when we start."""
    slow.put("x.jpg")
    slow.scan()
    slow.restart()
    assert slow.scan() == {"x.jpg": State.SETTLING}


@pytest.mark.parametrize("name", ["notes.txt", ".in.x.jpg.", "x.jpg.part", ".Trashes/x.jpg", "x.xmp"])
def test_what_is_no_photo_is_not_recorded(rig: Rig, name: str) -> None:
    rig.put(name)
    assert rig.scan() == {}


def test_a_temporary_file_counts_once_it_has_its_name(rig: Rig) -> None:
    upload = rig.put("x.jpg.filepart")
    assert rig.scan() == {}
    upload.rename(rig.folder / "x.jpg")
    assert rig.scan() == {"x.jpg": State.READY}


# Known files


@pytest.mark.parametrize(
    "state",
    [State.DONE, State.EMPTY, State.INCOMPLETE, State.UNDECODABLE, State.OVERSIZED, State.FAILED],
)
def test_an_unchanged_file_is_never_seen_twice(rig: Rig, state: State) -> None:
    rig.put("x.jpg")
    rig.scan()
    rig.finish(state)
    rig.news.clear()
    assert rig.scan() == {"x.jpg": state}
    rig.restart()
    assert rig.scan() == rig.scan() == {"x.jpg": state}
    assert not rig.news.is_set()


def test_an_event_for_an_unchanged_file_changes_nothing(rig: Rig) -> None:
    path = rig.put("x.jpg")
    rig.scan()
    rig.finish()
    assert rig.scan(path) == {"x.jpg": State.DONE}


@pytest.mark.parametrize("state", [State.DONE, State.INCOMPLETE, State.UNDECODABLE, State.FAILED])
@pytest.mark.parametrize("restart", [False, True])
def test_an_overwrite_with_the_same_size_and_time_is_seen(
    rig: Rig,
    state: State,
    restart: bool,  # noqa: FBT001
) -> None:
    path = rig.put("x.jpg", b"first", mtime=10**18)
    rig.scan()
    rig.finish(state)
    time.sleep(0.05)  # the kernel's clock ticks every few milliseconds
    path.write_bytes(b"other")
    os.utime(path, ns=(10**18, 10**18))
    if restart:
        rig.restart()
    assert rig.scan() == {"x.jpg": State.READY}


def test_another_file_under_the_same_name_settles_first(slow: Rig) -> None:
    path = slow.put("x.jpg", b"first", mtime=10**18)
    slow.scan(path)
    slow.finish()
    slow.put("x.jpg", b"other", mtime=10**18)
    assert slow.scan() == {"x.jpg": State.SETTLING}
    assert slow.scan(path) == {"x.jpg": State.READY}


def test_a_file_that_changes_while_it_is_read_is_read_again(rig: Rig) -> None:
    rig.put("x.jpg", b"first")
    rig.scan()
    claims = rig.ledger.claim(1, quarantined=True)
    rig.put("x.jpg", b"second")
    assert rig.scan() == {"x.jpg": State.READY}
    rig.ledger.finish(RECOGNISER, [Finished(claim) for claim in claims])  # of the old content
    assert rig.states() == {"x.jpg": State.READY}
    rig.finish()
    assert rig.scan() == {"x.jpg": State.DONE}


@pytest.mark.parametrize("changed", [True, False])
def test_a_file_sent_back_to_settle_is_taken_again(
    rig: Rig,
    changed: bool,  # noqa: FBT001
) -> None:
    """The reading found it changing. On a network mount its stat may yet be the one we know."""
    rig.put("x.jpg")
    rig.scan()
    rig.finish(State.SETTLING)
    if changed:
        rig.put("x.jpg", b"more of it")
    assert rig.scan() == {"x.jpg": State.READY}


def test_a_truncated_file_is_taken_again_when_the_rest_arrives(rig: Rig) -> None:
    path = rig.put("x.jpg", b"half")
    rig.scan()
    rig.finish(State.INCOMPLETE)
    with path.open("ab") as file:
        file.write(b" and half")
    assert rig.scan() == {"x.jpg": State.READY}


def test_an_unreadable_file_is_tried_again_after_a_while(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.put("x.jpg")
    rig.scan()
    rig.finish(State.UNREADABLE)
    rig.news.clear()
    assert rig.scan() == {"x.jpg": State.UNREADABLE}
    rig.camera._next_retry = 0
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert rig.scan() == {"x.jpg": State.UNREADABLE}
    assert not rig.news.is_set()
    rig.camera._next_retry = 0
    monkeypatch.setattr(os, "access", lambda *_: True)
    rig.scan()
    assert rig.news.is_set()
    assert rig.scan() == {"x.jpg": State.READY}


# Absence


def test_a_settling_file_that_vanishes_is_gone_and_taken_when_it_comes_back(slow: Rig) -> None:
    path = slow.put("x.jpg")
    slow.scan()
    path.unlink()
    assert slow.scan() == {"x.jpg": State.GONE}
    assert slow.scan() == {"x.jpg": State.GONE}
    slow.put("x.jpg")
    assert slow.scan() == {"x.jpg": State.SETTLING}
    assert slow.scan(path) == {"x.jpg": State.READY}


@pytest.mark.parametrize("state", [State.EMPTY, State.INCOMPLETE, State.UNREADABLE])
@pytest.mark.parametrize("restart", [False, True])
def test_an_awaited_file_that_vanishes_is_gone(
    rig: Rig,
    state: State,
    restart: bool,  # noqa: FBT001
) -> None:
    path = rig.put("x.jpg")
    rig.scan()
    rig.finish(state)
    away = path.rename(rig.folder.parent / "x.jpg")
    if restart:
        rig.restart()
    assert rig.scan() == {"x.jpg": State.GONE}
    away.rename(path)
    assert rig.scan() == {"x.jpg": State.READY}


def test_a_file_gone_before_it_was_read_is_taken_when_it_comes_back_as_it_was(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network mount gives it back with the very same stat."""
    same = Stat(1, 2, 3, 4)
    monkeypatch.setattr(Stat, "of", classmethod(lambda *_: same))
    path = rig.put("x.jpg")
    rig.scan()
    path.unlink()
    rig.finish(State.GONE)
    assert rig.scan() == {"x.jpg": State.GONE}
    rig.put("x.jpg")
    assert rig.scan() == {"x.jpg": State.READY}


def test_an_empty_mount_point_changes_nothing_for_what_was_read(rig: Rig) -> None:
    paths = [rig.put(f"DCIM/{state}.jpg") for state in (State.DONE, State.UNDECODABLE, State.FAILED, State.OVERSIZED)]
    for path in paths:
        rig.scan(path)
    rig.finish()
    before = rig.states()
    away = rig.folder.rename(rig.folder.parent / "away")
    rig.folder.mkdir()
    assert rig.scan() == before
    rig.restart()
    assert rig.scan() == before
    rig.folder.rmdir()
    away.rename(rig.folder)
    assert rig.scan() == before


def test_a_ready_file_that_vanishes_is_left_to_the_reading(rig: Rig) -> None:
    path = rig.put("x.jpg")
    rig.scan()
    path.unlink()
    assert rig.scan() == {"x.jpg": State.READY}


# The folder


def test_a_missing_folder_is_waited_for(rig: Rig) -> None:
    rig.folder.rmdir()
    assert rig.scan() == {}
    state, error = rig.note()
    assert state == "missing"
    assert error
    assert not rig.camera.healthy
    rig.folder.mkdir()
    rig.put("x.jpg")
    assert rig.scan() == {"x.jpg": State.READY}
    assert rig.note() == ("polling", None)
    assert rig.camera.healthy


def test_nothing_has_gone_while_the_folder_is_missing(slow: Rig) -> None:
    slow.put("x.jpg")
    slow.scan()
    away = slow.folder.rename(slow.folder.parent / "away")
    assert slow.scan() == {"x.jpg": State.SETTLING}
    away.rename(slow.folder)
    assert slow.scan() == {"x.jpg": State.SETTLING}


def test_a_file_in_place_of_the_folder_is_reported(rig: Rig) -> None:
    rig.folder.rmdir()
    rig.folder.touch()
    assert rig.scan() == {}
    assert rig.note() == ("unreadable", "the folder cannot be listed: Not a directory")


def test_a_folder_that_cannot_be_listed_is_reported(slow: Rig, closed_to_us: Callable[[Path], None]) -> None:
    slow.put("x.jpg")
    slow.scan()
    closed_to_us(slow.folder)
    assert slow.scan() == {"x.jpg": State.SETTLING}
    assert slow.note() == ("unreadable", "the folder cannot be listed: Permission denied")
    assert not slow.camera.healthy


def test_a_subfolder_that_cannot_be_listed_is_reported_and_the_rest_continues(
    rig: Rig, closed_to_us: Callable[[Path], None]
) -> None:
    rig.put("DCIM/x.jpg")
    rig.put("closed/y.jpg")
    closed_to_us(rig.folder / "closed")
    assert rig.scan() == {"DCIM/x.jpg": State.READY}
    assert rig.note() == ("polling", f"cannot list {rig.folder / 'closed'}: Permission denied")


def test_a_subfolder_with_an_odd_name_that_cannot_be_listed_is_reported(
    rig: Rig, closed_to_us: Callable[[Path], None]
) -> None:
    closed = rig.put(os.fsdecode(b"\xff/y.jpg")).parent
    closed_to_us(closed)
    rig.put("x.jpg")
    assert rig.scan() == {"x.jpg": State.READY}
    state, error = rig.note()
    assert state == "polling"
    assert "Permission denied" in str(error)


@pytest.mark.parametrize("state", [State.SETTLING, State.INCOMPLETE, State.UNREADABLE])
def test_a_file_in_a_subfolder_that_cannot_be_listed_has_not_gone(
    slow: Rig, closed_to_us: Callable[[Path], None], state: State
) -> None:
    path = slow.put("DCIM/x.jpg")
    slow.scan(*([] if state is State.SETTLING else [path]))
    slow.finish(state)
    closed_to_us(path.parent)
    assert slow.scan() == {"DCIM/x.jpg": state}


# RAW


def test_a_raw_alone_is_unsupported_until_its_jpeg_arrives(rig: Rig) -> None:
    rig.put("IMG_1.CR3")
    assert rig.scan() == rig.scan() == {"IMG_1.CR3": State.RAW}
    rig.put("IMG_1.JPG")
    assert rig.scan() == rig.scan() == {"IMG_1.CR3": State.PAIRED, "IMG_1.JPG": State.READY}
    assert rig.finish() == ["IMG_1.JPG"]


def test_a_jpeg_that_arrives_after_a_restart_is_paired_too(rig: Rig) -> None:
    rig.put("IMG_1.CR3")
    rig.scan()
    rig.restart()
    rig.put("IMG_1.JPG")
    assert rig.scan() == {"IMG_1.CR3": State.PAIRED, "IMG_1.JPG": State.READY}
    rig.restart()
    assert rig.scan()["IMG_1.CR3"] is State.PAIRED


def test_a_raw_with_its_jpeg_is_paired_at_once(slow: Rig) -> None:
    slow.put("IMG_1.NEF")
    slow.put("IMG_1.jpg")
    assert slow.scan() == {"IMG_1.NEF": State.PAIRED, "IMG_1.jpg": State.SETTLING}


def test_a_raw_whose_jpeg_goes_is_alone_again(rig: Rig) -> None:
    rig.put("IMG_1.CR3")
    jpeg = rig.put("IMG_1.JPG")
    rig.scan()
    rig.finish()
    jpeg.unlink()
    assert rig.scan() == {"IMG_1.CR3": State.RAW, "IMG_1.JPG": State.DONE}
    rig.restart()
    rig.put("IMG_1.JPG")
    assert rig.scan()["IMG_1.CR3"] is State.PAIRED


def test_a_link_is_nothing_until_a_file_takes_its_place(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"photo")
    link = rig.path("x.jpg")
    link.symlink_to(tmp_path / "outside.jpg")
    assert rig.scan() == {}
    link.unlink()
    rig.put("x.jpg")
    assert rig.scan() == {"x.jpg": State.READY}


# Odd names


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"\xe9t\xe9/x.jpg", b"two\nlines.jpg", b"%s'\";--\x1b[31m.jpg"])
def test_any_name_survives_the_database(rig: Rig, name: bytes) -> None:
    path = rig.put(os.fsdecode(name))
    rig.scan()
    (claim,) = rig.ledger.claim(1, quarantined=True)
    assert claim.path == str(path)
    assert os.path.samefile(claim.path, path)  # noqa: PTH121
    rig.ledger.finish(RECOGNISER, [Finished(claim)])
    rig.restart()
    assert rig.scan() == {os.fsdecode(name): State.DONE}


def test_an_odd_name_that_vanishes_is_gone(slow: Rig) -> None:
    path = slow.put(os.fsdecode(b"\xff.jpg"))
    slow.scan()
    path.unlink()
    assert slow.scan() == {os.fsdecode(b"\xff.jpg"): State.GONE}


# Ways of watching


@pytest.mark.parametrize(("polled", "state"), [(True, "polling"), (False, "watching")])
def test_auto_polls_a_network_mount_and_does_not_trust_its_clock(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    polled: bool,  # noqa: FBT001
    state: str,
) -> None:
    rig = Rig(tmp_path, settle=0.1)
    rig.camera.ended()
    rig.camera = Camera(
        "finish",
        CameraSettings(path=rig.folder, watch="auto"),
        IngestSettings(settle_seconds=0.1),
        rig.ledger,
        stop=threading.Event(),
        news=rig.news,
    )
    monkeypatch.setattr(mounts, "is_polled", lambda _: polled)
    rig.put("x.jpg")
    time.sleep(0.15)  # old enough, if its clock can be trusted
    assert rig.scan() == {"x.jpg": State.SETTLING if polled else State.READY}
    assert rig.note() == (state, None)
    rig.close()


def test_no_events_from_the_kernel_is_reported_and_the_scan_continues(
    live: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderWatcher, "watching", lambda _: (None, "No space left on device"))
    live.put("x.jpg")
    assert live.scan() == {"x.jpg": State.SETTLING}
    state, error = live.note()
    assert state == "polling"
    assert "No space left on device" in str(error)
    assert live.camera.healthy


def wait_for(condition: Callable[[], bool]) -> bool:
    """Tell whether a condition becomes true in good time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def closed_hint(rig: Rig, path: Path) -> FileEvents:
    """Return the events as soon as they say that a file is complete."""
    closed: set[str] = set()

    def told() -> bool:
        assert rig.camera._watcher
        closed.update(rig.camera._watcher.take().closed)
        return str(path) in closed

    assert wait_for(told)
    return FileEvents(frozenset(closed))


def test_a_rename_into_place_is_ready_at_once(live: Rig) -> None:
    live.scan()
    assert live.note() == ("watching", None)
    path = live.put("x.jpg")
    live.camera.scan(closed_hint(live, path))
    assert live.states() == {"x.jpg": State.READY}


def test_a_file_closed_after_writing_is_ready_at_once(live: Rig) -> None:
    live.scan()
    path = live.path("x.jpg")
    path.write_bytes(b"photo")
    live.camera.scan(closed_hint(live, path))
    assert live.states() == {"x.jpg": State.READY}


def test_a_folder_that_appears_is_watched(live: Rig) -> None:
    live.folder.rmdir()
    live.scan()
    assert live.note()[0] == "missing"
    live.folder.mkdir()
    live.scan()
    assert live.note() == ("watching", None)
    path = live.put("x.jpg")
    live.camera.scan(closed_hint(live, path))
    assert live.states() == {"x.jpg": State.READY}


def test_a_folder_replaced_by_another_is_watched_again(live: Rig) -> None:
    live.scan()
    before = live.camera._watcher
    other = live.folder.parent / "other"
    other.mkdir()
    live.folder.rename(live.folder.parent / "away")
    other.rename(live.folder)
    assert before
    assert not before.alive
    live.scan()
    assert live.camera._watcher is not before
    path = live.put("x.jpg")
    live.camera.scan(closed_hint(live, path))
    assert live.states() == {"x.jpg": State.READY}


def test_a_folder_deleted_and_made_again_is_watched_again(live: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the file system reuses the inode number, as here."""
    monkeypatch.setattr(watcher_module, "_identity", lambda _: (1, 2))
    live.scan()
    before = live.camera._watcher
    assert before
    assert before.alive
    shutil.rmtree(live.folder)
    live.folder.mkdir()
    monkeypatch.setitem(globals(), "PATIENCE", 3.0)
    assert wait_for(lambda: not before.alive)
    live.scan()
    path = live.put("x.jpg")
    live.camera.scan(closed_hint(live, path))
    assert live.states() == {"x.jpg": State.READY}


def test_ending_stops_the_watching(live: Rig) -> None:
    live.scan()
    watcher = live.camera._watcher
    assert watcher
    live.camera.ended()
    assert not watcher.alive
