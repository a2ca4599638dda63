"""`bibwatch run` as its users have it: a real process, a real folder, plain SQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.heavy
Site = Any
Draw = Callable[..., bytes]


def stop_counts(stderr: str) -> dict[str, int]:
    """Return what a run says it has read, from the last line of its log."""
    return json.loads(stderr.strip().splitlines()[-1])


def test_once_reads_what_is_there_and_a_second_run_reads_nothing(site: Site, draw: Draw) -> None:
    """Leading zeros and letters are kept; no photo byte is read twice."""
    card = site.camera / "DCIM" / "100CANON"
    card.mkdir(parents=True)
    (card / "IMG_1.JPG").write_bytes(draw("0042", "M10151"))
    (card / "IMG_2.JPG").write_bytes(draw("731", seed=1))
    (card / "IMG_3.JPG").write_bytes(draw())
    first = site.bibwatch("run", "--once")
    assert first.returncode == 0, first.stderr
    assert site.bibs() == [("IMG_1.JPG", "0042"), ("IMG_1.JPG", "M10151"), ("IMG_2.JPG", "731")]
    assert site.query("SELECT DISTINCT state FROM image_status") == [("done",)]
    assert stop_counts(first.stderr)["photo_files_loaded"] == 3
    second = site.bibwatch("run", "--once")
    assert second.returncode == 0
    assert {
        name: stop_counts(second.stderr)[name] for name in ("photo_files_loaded", "photo_bytes", "model_images")
    } == {
        "photo_files_loaded": 0,
        "photo_bytes": 0,
        "model_images": 0,
    }
    assert site.bibwatch("audit").stdout == "all 3 photos are accounted for\n"


def test_boxes_and_times_are_those_of_the_upright_photo(site: Site, draw: Draw) -> None:
    """Boxes are pixels at full size, though the model saw a smaller picture; times are UTC."""
    (site.camera / "big.jpg").write_bytes(draw("5208", size=(3000, 2000)))
    assert site.bibwatch("run", "--once").returncode == 0
    ((x1, y1, x2, y2, captured, received),) = site.query(
        "SELECT x1, y1, x2, y2, captured_at, received_at FROM bib_results WHERE bib = '5208'"
    )
    assert 1000 < x1 < x2 < 2000
    assert 900 < y1 < y2 < 1400
    assert captured.endswith("Z")
    assert captured <= received


def test_every_kind_of_bad_file_ends_in_its_own_state(site: Site, draw: Draw) -> None:
    """None of them blocks the good photo between them, and each says in one line what is wrong."""
    good = draw("2456")
    (site.camera / "a-text.jpg").write_text("not a photo")
    (site.camera / "b-empty.jpg").touch()
    (site.camera / "c-truncated.jpg").write_bytes(good[: len(good) // 2])
    header = struct.pack(">HBHHB", 17, 8, 65535, 65535, 3) + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
    (site.camera / "d-huge.jpg").write_bytes(b"\xff\xd8\xff\xc0" + header + b"\xff\xd9")
    (site.camera / "e-good.jpg").write_bytes(good)
    (site.camera / "f-raw.cr3").write_bytes(b"raw")
    (site.camera / "g-link.jpg").symlink_to(site.camera / "e-good.jpg")
    (site.camera / ".in.h.jpg.").write_bytes(good)
    ran = site.bibwatch("run", "--once")
    assert ran.returncode == 0, ran.stderr
    assert site.states() == {
        "a-text.jpg": "undecodable",
        "b-empty.jpg": "empty",
        "c-truncated.jpg": "incomplete",
        "d-huge.jpg": "oversized",
        "e-good.jpg": "done",
        "f-raw.cr3": "raw",
    }
    assert site.bibs() == [("e-good.jpg", "2456")]
    for (error,) in site.query("SELECT error FROM image_status WHERE state <> 'done'"):
        assert error
        assert "\n" not in error
    status = json.loads(site.bibwatch("status", "--json").stdout)
    assert {row["state"]: row["files"] for row in status["states"] if row["files"]} == {
        "done": 1,
        "empty": 1,
        "incomplete": 1,
        "undecodable": 1,
        "oversized": 1,
        "raw": 1,
    }
    shown = site.bibwatch("status").stdout
    assert "incomplete" in shown
    assert "not running" in shown


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may read anything")
def test_an_unreadable_file_is_read_once_it_may_be(site: Site, draw: Draw) -> None:
    """Root runs it without the right to pass over permissions."""
    photo = site.camera / "secret.jpg"
    photo.write_bytes(draw("88"))
    photo.chmod(0o000)
    humbly = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

    def once() -> None:
        command = [*humbly, sys.executable, "-m", "bibwatch", "run", "--once"]
        subprocess.run(command, cwd=site.place, env=site.environment, capture_output=True, check=True)

    once()
    assert site.states() == {"secret.jpg": "unreadable"}
    assert site.query("SELECT error FROM image_status") == [("cannot be read (Permission denied)",)]
    photo.chmod(0o644)
    once()
    assert site.bibs() == [("secret.jpg", "88")]


@pytest.mark.parametrize("watch", ["events", "poll"])
def test_photos_arrive_in_every_way(site: Site, draw: Draw, watch: str) -> None:
    """Renamed in, written slowly, moved in with their folder, dropped while the daemon rests: the same rows."""
    site.environment["BIBWATCH_CAMERAS"] = json.dumps({"finish": {"path": str(site.camera), "watch": watch}})
    site.environment["BIBWATCH_INGEST__POLL_SECONDS"] = "0.2"
    photos = {f"IMG_{bib}.JPG": draw(bib, seed=int(bib)) for bib in ("1001", "1002", "1003", "1004", "1005")}
    names = iter(photos)
    daemon = site.start()

    name = next(names)  # renamed into place
    (site.camera / f".in.{name}.").write_bytes(photos[name])
    (site.camera / f".in.{name}.").rename(site.camera / name)

    name = next(names)  # in pieces, with pauses longer than the settle time
    with (site.camera / name).open("wb", buffering=0) as file:
        for start in range(0, len(photos[name]), 10_000):
            file.write(photos[name][start : start + 10_000])
            time.sleep(0.1 if start else 1.0)

    name = next(names)  # in a folder made elsewhere and moved in
    card = site.place / "card" / "100CANON"
    card.mkdir(parents=True)
    (card / name).write_bytes(photos[name])
    card.parent.rename(site.camera / "DCIM")

    name = next(names)  # in a new folder, at once
    (site.camera / "DCIM" / "101CANON").mkdir()
    (site.camera / "DCIM" / "101CANON" / name).write_bytes(photos[name])
    site.wait(lambda: list(site.states().values()) == ["done"] * 4)
    assert site.stop(daemon) == 0

    name = next(names)  # while the daemon rests
    (site.camera / name).write_bytes(photos[name])
    assert site.bibwatch("run", "--once").returncode == 0
    assert site.bibs() == [(name, name[4:8]) for name in photos]
    assert len(site.query("SELECT * FROM image_status")) == 5


def test_identity_is_the_bytes(site: Site, draw: Draw) -> None:
    """Same bytes again: no second result. Same name, size and time, other bytes: another image."""
    first, second = draw("311"), draw("822", seed=1)
    size = max(len(first), len(second))
    photo = site.camera / "capt0000.jpg"
    photo.write_bytes(first.ljust(size, b"\0"))
    os.utime(photo, (1_000_000_000, 1_000_000_000))
    site.start()
    site.wait(lambda: site.bibs() == [("capt0000.jpg", "311")])
    shutil.copy(photo, site.camera / "copy.jpg")
    site.wait(lambda: site.states().get("copy.jpg") == "done")
    photo.write_bytes(second.ljust(size, b"\0"))
    os.utime(photo, (1_000_000_000, 1_000_000_000))
    site.wait(lambda: len(site.bibs()) == 2)
    assert site.bibs() == [("capt0000.jpg", "311"), ("capt0000.jpg", "822")]
    assert site.query("SELECT count(*), count(DISTINCT image_id) FROM image_status") == [(2, 2)]
    assert sum(line["photos"] for line in site.events("batch.done")) == 3


def test_a_truncated_photo_is_waited_for(site: Site, draw: Draw) -> None:
    """The writer stops for longer than any settle time, and goes on later."""
    data = draw("645")
    photo = site.camera / "slow.jpg"
    photo.write_bytes(data[:3000])
    daemon = site.start()
    site.wait(lambda: site.states() == {"slow.jpg": "incomplete"})
    assert site.stop(daemon) == 0
    site.start()
    with photo.open("ab") as file:
        file.write(data[3000:])
    site.wait(lambda: site.bibs() == [("slow.jpg", "645")])


def test_a_folder_that_is_missing_is_waited_for(site: Site, draw: Draw) -> None:
    """It appears, it is replaced by another of the same name, and its photos are taken all the same."""
    site.camera.rmdir()
    site.start()
    site.wait(lambda: site.events("camera.missing"))
    assert "missing" in site.bibwatch("status").stdout
    site.camera.mkdir()
    (site.camera / "one.jpg").write_bytes(draw("102"))
    site.wait(lambda: site.bibs() == [("one.jpg", "102")])
    site.camera.rename(site.place / "old")
    site.camera.mkdir()
    (site.camera / "two.jpg").write_bytes(draw("103"))
    site.wait(lambda: ("two.jpg", "103") in site.bibs())
    assert site.states()["one.jpg"] == "done"
    assert len(site.events("camera.missing")) <= 2


def test_files_from_any_time_are_taken(site: Site, draw: Draw) -> None:
    """A camera's clock may say anything, and a file system may hold it."""
    for number, year in enumerate((1600, 1970, 2300)):
        photo = site.camera / f"{year}.jpg"
        photo.write_bytes(draw(str(400 + number)))
        subprocess.run(["touch", "-d", f"{year}-01-01", str(photo)], check=True)
    assert site.bibwatch("run", "--once").returncode == 0
    assert [bib for _, bib in site.bibs()] == ["400", "401", "402"]
    assert site.bibwatch("audit").returncode == 0


def test_a_stop_does_not_wait_for_a_decoder(site: Site) -> None:
    """Large pictures that take many seconds each; nothing is lost, and no photo is blamed."""
    picture = Image.new("RGBA", (12_000, 12_000))
    for number in range(6):
        picture.putpixel((0, 0), (number, 0, 0, 255))
        picture.save(site.camera / f"{number}.png", compress_level=1)
    daemon = site.start(ready=False)
    site.wait(lambda: "reading" in site.states().values())
    assert site.stop(daemon) == 0
    states = site.states()
    assert set(states.values()) <= {"ready", "done"}
    assert site.query("SELECT max(attempts) FROM file_status WHERE state = 'ready'") in ([(0,)], [(None,)])


def test_once_fails_where_a_folder_is_missing(site: Site) -> None:
    site.camera.rmdir()
    ran = site.bibwatch("run", "--once")
    assert ran.returncode == 1
    assert ran.stderr.strip().splitlines()[-1] == "bibwatch: cannot read the folder of camera: finish"


def test_sigterm_drains_and_sigkill_loses_nothing(site: Site, draw: Draw) -> None:
    """After a stop no file is left `reading`; after a kill the next run reads the rest."""
    for number in range(30):
        (site.camera / f"{number}.jpg").write_bytes(draw(str(100 + number), seed=number))
    daemon = site.start()
    site.wait(lambda: "done" in site.states().values())
    assert site.stop(daemon) == 0
    assert "reading" not in site.states().values()
    daemon = site.start()
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    assert site.bibwatch("run", "--once").returncode == 0
    assert [bib for _, bib in site.bibs()] == [str(100 + int(name[:-4])) for name, _ in site.bibs()]
    assert len(site.bibs()) == 30


def test_a_photo_that_kills_the_process_is_found(site: Site, draw: Draw) -> None:
    """It dies with it `max_attempts` times; then the photo is `failed` and all others are read."""
    poison = draw("666", seed=6)
    (site.camera / "poison.jpg").write_bytes(poison)
    for number in range(12):
        (site.camera / f"{number}.jpg").write_bytes(draw(str(200 + number), seed=number))
    code = (
        "import os, bibwatch.images as images; real = images.decode\n"
        f"def decode(data, **more):\n    if len(data) == {len(poison)}: os.kill(os.getpid(), 9)\n"
        "    return real(data, **more)\n"
        "images.decode = decode\n"
        "from bibwatch.cli import main; main()"
    )
    deaths = 0
    while True:
        ran = subprocess.run(
            [sys.executable, "-c", code, "run", "--once"],
            cwd=site.place,
            env=site.environment | {"BIBWATCH_PIPELINE__MAX_ATTEMPTS": "3"},
            capture_output=True,
            check=False,
        )
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL
        deaths += 1
    assert deaths == 3
    states = site.states()
    assert states.pop("poison.jpg") == "failed"
    assert set(states.values()) == {"done"}
    assert site.bibwatch("retry", "--state", "failed").stdout == "1 file will be read again\n"
    assert site.bibwatch("run", "--once").returncode == 0
    assert ("poison.jpg", "666") in site.bibs()


def test_a_second_instance_is_refused(site: Site) -> None:
    site.start()
    second = site.bibwatch("run", "--once")
    assert second.returncode == 75
    assert second.stderr.strip().splitlines() == [f"bibwatch: another bibwatch is using {site.database}"]
    link = site.place / "link.db"
    link.symlink_to(site.database)
    assert site.bibwatch("run", "--once", "--database", f"sqlite:///{link}").returncode == 75
    assert "bibwatch is running" in site.bibwatch("status").stdout


def test_new_options_read_again_and_the_newest_answer_is_shown(site: Site, draw: Draw) -> None:
    """An option that changes what the model says applies to the photos that are there; nothing is shown twice."""
    (site.camera / "a.jpg").write_bytes(draw("1234", "77"))
    assert site.bibwatch("run", "--once").returncode == 0
    assert [bib for _, bib in site.bibs()] == ["1234", "77"]
    coarse = json.dumps({"rapidocr": {"base": "rapidocr", "longest_side": 32}})
    assert stop_counts(site.bibwatch("run", "--once", BIBWATCH_PRESETS=coarse).stderr)["model_images"] == 1
    assert [bib for _, bib in site.bibs()] != ["1234", "77"]
    again = site.bibwatch("run", "--once")
    assert [bib for _, bib in site.bibs()] == ["1234", "77"]
    assert stop_counts(again.stderr)["model_images"] == 0
