"""Measure accuracy and speed on photos with known bibs, from folder to SQL.

    python benchmarks/reading.py SET... [--slow] [--out FILE]

A SET is a folder with `images/` and `labels.csv` (`file,bibs`, bibs separated by spaces), and optionally
`extras.csv` (`file,bib`: in the photo but not labelled, neither right nor wrong) and `label-notes.csv`
(`file,labelled,seen`: either counts as right). Each set is a race of its own: the camera folder of one
`bibwatch run --once`, scored from the view `bib_results`. A bib is right only if every character is.
recall = right / labelled, precision = right / (right + wrong), F = their harmonic mean.

With `--slow`, a third of the photos is written at 200 KB/s, a third renamed into place, and a third copied while the
daemon is stopped; the rows must equal those of the plain run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RATE = 200_000  # bytes a second of the slow writer
Rows = list[tuple[str, ...]]


def main() -> None:
    """Run, score, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET")
    parser.add_argument("--slow", action="store_true", help="also let the photos arrive slowly, and compare the rows")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reading.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bibwatch-reading-") as folder:
        place = Path(folder)
        report = plain(chosen.sets, place / "plain")
        if chosen.slow:
            for each in chosen.sets:
                paths = (place / way / each.name for way in ("slow", "plain"))
                report["sets"][each.name]["slow"] = slowly([each], *paths)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def plain(sets: list[Path], place: Path) -> dict[str, Any]:
    """Read a copy of each set with `run --once`, twice, as a race of its own; score the rows."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    report: dict[str, Any] = {"machine": machine, "sets": {}}
    for each in sets:
        race = place / each.name
        shutil.copytree(each / "images", race / each.name)
        start = time.perf_counter()
        first = once(race, [each])
        seconds = time.perf_counter() - start
        photos = len(list((each / "images").iterdir()))
        figures: dict[str, Any] = {"photos": photos, "seconds": round(seconds, 1), "first_run": first}
        print(f"{each.name}: {photos} photos in {seconds:.1f} s: {photos / seconds:.2f} a second")
        for verdicts in (("accepted", "review"), ("accepted",)):
            found = score(each, readings(race, each.name, verdicts))
            figures["+".join(verdicts)] = found
            print(f"    {'+'.join(verdicts):16}", *(f"{name} {value}" for name, value in found.items()))
        report["sets"][each.name] = figures | {"second_run": once(race, [each])}
    return report


def once(place: Path, sets: list[Path]) -> dict[str, int]:
    """Run the daemon with `--once`; return its counts of what it read."""
    ran = subprocess.run(command(place, sets, "--once"), cwd=place, stderr=subprocess.PIPE, check=True)
    last = json.loads(ran.stderr.decode().strip().splitlines()[-1])
    return {name: last[name] for name in ("photo_files_loaded", "photo_bytes", "model_images")}


def command(place: Path, sets: list[Path], *more: str) -> list[str]:
    """Return the command line for a run with one camera per set."""
    cameras = [f"--camera={each.name}={place / each.name}" for each in sets]
    os.environ["BIBWATCH_LOG_FORMAT"] = "json"
    return [sys.executable, "-m", "bibwatch", "run", *cameras, *more]


def readings(place: Path, camera: str, verdicts: tuple[str, ...]) -> dict[str, set[str]]:
    """Return the bibs read in each photo of a camera."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, bib, verdict in query(place, f"SELECT path, bib, verdict FROM bib_results WHERE camera = '{camera}'"):  # noqa: S608
        if verdict in verdicts:
            found[Path(path).name].add(bib)
    return found


def query(place: Path, sql: str) -> Rows:
    """Query the database of a run."""
    connection = sqlite3.connect(place / "bibwatch.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def score(each: Path, found: dict[str, set[str]]) -> dict[str, float]:
    """Score the bibs found in a set."""
    extras, notes = table(each / "extras.csv", "bib"), table(each / "label-notes.csv", "labelled", "seen")
    right = wrong = labelled = 0
    for name, bibs in table(each / "labels.csv", "bibs").items():
        label = set(bibs[0][0].split())
        seen = {bib: {bib, *(other for known, other in notes.get(name, []) if known == bib)} for bib in label}
        fair = set().union(*seen.values()) | {bib for (bib,) in extras.get(name, [])}
        right += sum(bool(found[name] & ways) for ways in seen.values())
        wrong += len(found[name] - fair)
        labelled += len(label)
    recall, precision = right / labelled, right / max(1, right + wrong)
    figures = {"recall": recall, "precision": precision, "F": 2 * recall * precision / max(1e-9, recall + precision)}
    return {**{name: round(value, 3) for name, value in figures.items()}, "right": right, "wrong": wrong}


def table(file: Path, *columns: str) -> dict[str, list[tuple[str, ...]]]:
    """Read columns of a CSV file, keyed by `file`; empty if the CSV file does not exist."""
    rows: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    if file.exists():
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                rows[row["file"]].append(tuple(row[column] for column in columns))
    return rows


def slowly(sets: list[Path], place: Path, reference: Path) -> dict[str, Any]:
    """Deliver the photos in three ways and compare the rows with those of the plain run."""
    jobs = [(photo, place / each.name / photo.name) for each in sets for photo in sorted((each / "images").iterdir())]
    for each in sets:
        (place / each.name).mkdir(parents=True)
    ways = [jobs[0::3], jobs[1::3], jobs[2::3]]
    with running(command(place, sets), place) as daemon:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write_slowly, ways[0]))
        for photo, target in ways[1]:
            shutil.copy(photo, target.with_name(f".in.{target.name}."))
            target.with_name(f".in.{target.name}.").rename(target)
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(30)
    for photo, target in ways[2]:
        shutil.copy(photo, target)
    once(place, sets)
    rows = [rows_of(where) for where in (reference, place)]
    same = rows[0] == rows[1]
    report = {"photos": len(jobs), "rows": len(rows[1]), "same_rows": same, "sigterm_exit": code}
    print("slowly, renamed, while stopped:", report)
    return report


def running(args: list[str], place: Path) -> subprocess.Popen[bytes]:
    """Start the daemon; as a context manager, wait for it to end."""
    return subprocess.Popen(args, cwd=place, stderr=subprocess.DEVNULL)


def write_slowly(job: tuple[Path, Path]) -> None:
    """Write a photo at RATE, as over a slow network."""
    photo, target = job
    with target.open("wb", buffering=0) as file:
        data = photo.read_bytes()
        for start in range(0, len(data), RATE // 10):
            file.write(data[start : start + RATE // 10])
            time.sleep(0.1)


def rows_of(place: Path) -> Rows:
    """Return all readings of a run, except folders and times, which differ between runs."""
    rows = query(
        place, "SELECT camera, path, sha256, bib, round(confidence, 4), verdict, x1, y1, x2, y2 FROM bib_results"
    )
    return sorted((row[0], Path(row[1]).name, *map(str, row[2:])) for row in rows)


if __name__ == "__main__":
    main()
