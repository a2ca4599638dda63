"""Measure how the ledger scales: time per photo, startup time and memory, with up to a million known files.

    python benchmarks/ledger.py [--sizes N,N...] [--rounds N] [--known N] [--out FILE]

In each ledger, nine in ten files are done and one is waiting. In each round, every ledger processes a batch of new
photos: recorded, claimed, looked up and finished with one bib, including the look-ups of a scan. The ledgers take
turns, so that other load affects them all, and medians are compared. Commits reach the disk, as in the daemon.

Then the daemon is started on a folder with a single file, and on one with `--known` files in its ledger, and stopped
when it is ready. Finally, a camera scans the folder under tracemalloc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image

from bibwatch import drawing
from bibwatch.domain.candidates import Candidate
from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.ingest import scanning
from bibwatch.ingest.camera import Camera
from bibwatch.judging import Judge
from bibwatch.settings import CameraSettings, IngestSettings
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Finished, Result, Sighting
from bibwatch.store.report import Report

THEN = "2026-11-21T10:00:05.042Z"
BATCH = 8
RECOGNISER = Recogniser("bib_number", "rapidocr", "aaaaaaaaaaaa")
PIXEL = Image.new("RGB", (1, 1))


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--known", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ledger.json")
    chosen = parser.parse_args()
    report: dict[str, Any] = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    with tempfile.TemporaryDirectory(prefix="bibwatch-ledger-") as name:
        place = Path(name)
        report |= growth(place, [int(size) for size in chosen.sizes.split(",")], chosen.rounds)
        report |= start(place, chosen.known)
        report |= memory(place, chosen.known)
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def growth(place: Path, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Return the time per photo and of less frequent operations, in each ledger."""
    databases = {size: a_ledger(place / f"{size}.db", size) for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(rounds + 10):  # the first ten fill caches
        for size, database in databases.items():
            taken = timed(lambda database=database, turn=turn: one_batch(Ledger(database), turn))  # type: ignore[misc]
            seconds[size] += [taken / BATCH] if turn >= 10 else []
    medians = {size: statistics.median(seconds[size]) for size in sizes}
    ratio = max(medians.values()) / min(medians.values())
    counts = {size: timed(lambda db=db: Report(db).counts(["finish"])) for size, db in databases.items()}  # type: ignore[misc]
    recover = {size: timed(lambda db=db: Ledger(db).recover([RECOGNISER], 3)) for size, db in databases.items()}  # type: ignore[misc]
    for database in databases.values():
        database.close()  # closing the last connection merges the write-ahead log into the file
    kilobytes = {size: (place / f"{size}.db").stat().st_size / 1e3 / size for size in sizes}
    for size in sizes:
        print(
            f"{size:9} files: {1000 * medians[size]:.2f} ms per photo; {1000 * counts[size]:.0f} ms to count them; "
            f"{1000 * recover[size]:.0f} ms to recover at startup; {kilobytes[size]:.2f} KB per file on disk",
            flush=True,
        )
    print(f"slowest / fastest: {ratio:.2f}")
    return {
        "batch": BATCH,
        "rounds": rounds,
        "ms_per_photo": rounded(medians, 1000),
        "ms_per_photo_slowest_over_fastest": round(ratio, 2),
        "ms_to_count": rounded(counts, 1000, 1),
        "ms_to_recover": rounded(recover, 1000, 1),
        "kb_per_file_on_disk": rounded(kilobytes, 1, 2),
    }


def one_batch(ledger: Ledger, turn: int) -> None:
    """Process one batch of photos."""
    paths = [f"/srv/drop/finish/DCIM/new/IMG_{turn:06}_{number}.JPG" for number in range(BATCH)]
    ledger.recorded("finish", paths)
    ledger.record_sightings("finish", [Sighting(path, Stat(turn, 1, 1, 1), State.READY) for path in paths])
    assert ledger.ready(BATCH) == BATCH
    claims = ledger.claim(BATCH, quarantined=True)
    photos = [Photo(PIXEL, 6000, 4000, hashlib.sha256(claim.path.encode()).hexdigest(), None) for claim in claims]
    ledger.known([RECOGNISER], [photo.sha256 for photo in photos])
    seen, judge = (Candidate("0042", 0.97),), Judge()
    result = Result("m", "cpu", 0.1, candidates=seen, judgement=judge.judge(seen), judged_by=judge.fingerprint)
    ledger.finish(RECOGNISER, [Finished(claim, photo, result) for claim, photo in zip(claims, photos, strict=True)])
    ledger.waiting("finish")


def start(place: Path, number: int) -> dict[str, Any]:
    """Return how long the daemon takes to become ready, and how many photo files it opens."""
    environment = os.environ | {"BIBWATCH_LOG_FORMAT": "json", "BIBWATCH_DATABASE_URL": f"sqlite:///{place}/site.db"}
    (place / "drop").mkdir()
    environment["BIBWATCH_CAMERAS"] = json.dumps({"finish": {"path": str(place / "drop")}})
    command = [sys.executable, "-m", "bibwatch", "run"]
    (place / "drop" / "first.jpg").write_bytes(drawing.jpeg(drawing.photo(["0042"])))
    subprocess.run([*command, "--once"], cwd=place, env=environment, check=True, stderr=subprocess.DEVNULL)
    empty = statistics.median(until_ready(command, place, environment)[0] for _ in range(3))
    for folder in range(0, number, 1000):
        (place / "drop" / f"{folder:08}").mkdir()
        for name in range(folder, min(folder + 1000, number)):
            (place / "drop" / f"{folder:08}" / f"IMG_{name:08}.JPG").write_bytes(b"x")
    with closing(sqlite3.connect(place / "site.db")) as connection, connection:
        (recogniser,) = connection.execute("SELECT stage, preset, fingerprint FROM results").fetchall()
        entries = scanning.walk(str(place / "drop"), print)
        insert(connection, ((entry.path, entry.stat, "done") for entry in entries), Recogniser(*recogniser))
    runs = [until_ready(command, place, environment) for _ in range(3)]
    seconds, opened = statistics.median(run[0] for run in runs), [run[1] for run in runs]
    with closing(sqlite3.connect(place / "site.db")) as connection:
        assert connection.execute("SELECT state, count(*) FROM files GROUP BY 1").fetchall() == [("done", number + 1)]
    print(f"ready in {seconds:.2f} s with {number} known files ({empty:.2f} s with one); files opened: {opened}")
    return {
        "known_files": number,
        "seconds_until_ready": round(seconds, 2),
        "seconds_until_ready_with_one_file": round(empty, 2),
        "photo_files_opened": opened,
    }


def until_ready(command: list[str], place: Path, environment: dict[str, str]) -> tuple[float, int]:
    """Start the daemon and stop it when it is ready; return the seconds until then and the photo files it opened."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        lines = (json.loads(line) for line in process.stderr)
        assert any(line["event"] == "daemon.ready" for line in lines)
        seconds = time.perf_counter() - began
        process.send_signal(signal.SIGTERM)
        (opened,) = [line["photo_files_loaded"] for line in lines if line["event"] == "daemon.stop"]
    return seconds, opened


def memory(place: Path, number: int) -> dict[str, Any]:
    """Return the memory a camera keeps per file in a folder, and the peak while it scans them."""
    with closing(Database(f"sqlite:///{place}/site.db")) as database:
        settings = CameraSettings(path=place / "drop", watch="poll")
        first, second = (
            Camera("finish", settings, IngestSettings(), Ledger(database), stop=event, news=event)
            for event in (threading.Event(), threading.Event())
        )
        seconds = timed(first.scan)
        tracemalloc.start()
        first.scan()  # fill library caches
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        second.scan()
        after, most = (size - before for size in tracemalloc.get_traced_memory())
    (place / "flat").mkdir()
    for name in range(number):
        (place / "flat" / f"IMG_{name:08}.JPG").touch()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert sum(1 for _ in scanning.walk(str(place / "flat"), print)) == number
    flat = tracemalloc.get_traced_memory()[1] - before
    print(
        f"a scan takes {seconds:.2f} s, {most / 1e6:.1f} MB at most; {after / number:.2f} bytes per file are kept; "
        f"listing a single folder takes {flat / number:.0f} bytes per file"
    )
    return {
        "seconds_per_scan": round(seconds, 2),
        "mb_most_during_a_scan": round(most / 1e6, 1),
        "bytes_remembered_per_file": round(after / number, 2),
        "bytes_per_file_while_one_folder_is_listed": round(flat / number),
    }


def a_ledger(file: Path, size: int) -> Database:
    """Quickly make a ledger of `size` files."""
    database = Database(f"sqlite:///{file}")
    database.migrate()
    paths = (f"/srv/drop/finish/DCIM/{number // 1000:05}/IMG_{number:08}.JPG" for number in range(size))
    stats = (Stat(number, 5_000_000, number, number) for number in range(size))
    states = ("done" if number % 10 else "ready" for number in range(size))
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        insert(connection, zip(paths, stats, states, strict=True), RECOGNISER)
    return database


def insert(connection: sqlite3.Connection, files: Iterable[tuple[str, Stat, str]], recogniser: Recogniser) -> None:
    """Insert files with new paths, and the image and result of each that is done."""
    for path, stat, state in files:
        image = None
        if state == "done":
            image = connection.execute(
                "INSERT INTO images (sha256, camera, path, width, height, received_at) "
                "VALUES (?, 'finish', ?, 6000, 4000, ?)",
                (hashlib.sha256(path.encode()).hexdigest(), path, THEN),
            ).lastrowid
            connection.execute(
                "INSERT INTO results (image_id, stage, preset, fingerprint, model, device, seconds, processed_at) "
                "VALUES (?, ?, ?, ?, 'm', 'cpu', 0.1, ?)",
                (image, *recogniser, THEN),
            )
        connection.execute(
            "INSERT INTO files (camera, path, inode, size, mtime_ns, ctime_ns, state, image_id, "
            "first_seen_at, updated_at) VALUES ('finish', ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (path, str(stat.inode), *stat[1:], state, image, THEN, THEN),
        )


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds `action` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def rounded(values: dict[int, float], factor: float, digits: int = 3) -> dict[int, float]:
    return {size: round(value * factor, digits) for size, value in values.items()}


if __name__ == "__main__":
    main()
