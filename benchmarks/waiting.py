"""Measure memory and log lines while photos queue up for an unavailable model server.

    python benchmarks/waiting.py [--photos N] [--seconds N] [--read N] [--out FILE]

Starts `bibwatch run` with a server that refuses connections, writes photos into its folder until all wait in the
ledger, and lets them wait. Then starts a server that replies immediately, until `--read` of them are read. Samples
resident memory (RSS, from /proc) once a second. All photo files differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bibwatch import drawing
from remote import count, marked, recorder

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure, print and write the report."""
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        camera = place / "finish"
        camera.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = start(place, camera, port)
        try:
            result = measure(process, place, camera, port, arguments)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    result |= {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=50_000)
    parser.add_argument("--seconds", type=int, default=120, help="waiting time once all are in the ledger")
    parser.add_argument("--read", type=int, help="photos to read once the server is up [default: all]")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "waiting.json")
    return parser.parse_args()


def start(place: Path, camera: Path, port: int) -> subprocess.Popen[bytes]:
    remote = {"kind": "vision_openailike_api", "api_url": f"http://127.0.0.1:{port}/v1", "model_name": "tiny"}
    environment = os.environ | {
        "BIBWATCH_CAMERAS": json.dumps({"finish": {"path": str(camera)}}),
        "BIBWATCH_PRESETS": json.dumps({"remote": remote}),
        "BIBWATCH_PRESET": "remote",
        "BIBWATCH_STAGES": json.dumps({"bib_number": {"crops": "none"}}),
        "BIBWATCH_LOG_FORMAT": "json",
    }
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "bibwatch", "run"], cwd=place, env=environment, stderr=log)
    until(process, place, lambda: "daemon.ready" in (place / "log").read_text(), [])
    return process


def measure(
    process: subprocess.Popen[bytes], place: Path, camera: Path, port: int, arguments: argparse.Namespace
) -> dict[str, float]:
    photos: int = arguments.photos
    empty = rss(process)
    write(camera, photos)
    filling: list[float] = []
    until(process, place, lambda: in_state(place, "ready") == photos, filling)
    print(f"RSS: {empty:.0f} MB without photos, {max(filling):.0f} MB at most while {photos} arrived", flush=True)
    waiting: list[float] = []
    end = time.monotonic() + arguments.seconds
    until(process, place, lambda: time.monotonic() > end, waiting)
    lines = sum("model." in line for line in (place / "log").read_text().splitlines())
    print(
        f"{arguments.seconds} s of waiting: {waiting[0]:.0f} -> {waiting[-1]:.0f} MB; {lines} log lines about the model"
    )
    wanted = arguments.read or photos
    reading: list[float] = []
    start = time.monotonic()
    with recorder(port, keep=False):
        until(process, place, lambda: in_state(place, "done") >= wanted, reading)
    seconds = time.monotonic() - start
    results = count(place, "SELECT count(*) FROM results")
    images = count(place, "SELECT count(DISTINCT image_id) FROM results")
    print(f"{wanted} read in {seconds:.0f} s, {max(reading):.0f} MB at most; {results} results of {images} images")
    attempts = count(place, "SELECT max(attempts) FROM files WHERE state = 'done'")
    assert results == images, "an image was read twice"
    return {
        "photos": photos,
        "rss_mb_empty": empty,
        "rss_mb_most_while_they_came": max(filling),
        "rss_mb_wait_began": waiting[0],
        "rss_mb_wait_ended": waiting[-1],
        "waited_seconds": arguments.seconds,
        "log_lines_about_the_model": lines,
        "read": wanted,
        "read_seconds": round(seconds, 1),
        "rss_mb_most_while_reading": max(reading),
        "results": results,
        "images": images,
        "most_attempts": attempts,
    }


def write(camera: Path, number: int) -> None:
    """Write photos as copy tools do: under another name, then renamed."""
    photo = drawing.jpeg(drawing.bib_closeup("123"))
    for place in range(number):
        part = camera / f"{place:06}.part"
        part.write_bytes(marked(photo, place))
        part.rename(part.with_suffix(".jpg"))


def until(process: subprocess.Popen[bytes], place: Path, condition: Callable[[], bool], samples: list[float]) -> None:
    """Wait for a condition, sampling memory once a second."""
    while True:
        samples.append(rss(process))
        if condition():
            return
        assert process.poll() is None, (place / "log").read_text()[-4000:]
        time.sleep(1)


def rss(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of a process in megabytes."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def in_state(place: Path, state: str) -> int:
    try:
        return count(place, "SELECT count(*) FROM files WHERE state = ?", state)
    except sqlite3.OperationalError:  # the database does not exist yet
        return 0


if __name__ == "__main__":
    main()
