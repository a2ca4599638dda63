"""Measure how long rejudging takes: `bibwatch judge` on images that have been read.

    python benchmarks/judging.py [--images N] [--out FILE]

Fills a database with typical OCR candidates (about twelve per image), then runs the command twice: with other settings,
so that readings change, and with the same ones, so that none do. Counts the photo files opened and the model libraries
imported, with an audit hook. Goal: 100,000 images in under 60 s on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.judging import Judge
from bibwatch.store.database import Database
from bibwatch.store.judgements import Judgements
from bibwatch.store.results import candidate_row
from bibwatch.store.schema import candidates, images, results

GOAL_SECONDS = 60
THEN = "2026-11-21T10:00:05.042Z"
# Runs the command with an audit hook that counts opened photos, and reports imported model libraries at exit.
WATCHED = """
import atexit, json, os, sys
opened, heavy = 0, ("rapidocr", "onnxruntime", "torch", "transformers", "vllm", "mlx", "PIL.JpegImagePlugin")
def count(event, arguments):
    global opened
    opened += event == "open" and str(arguments[0]).endswith(".jpg")
sys.addaudithook(count)
def report():
    json.dump({"photos_opened": opened, "models_imported": [name for name in heavy if name in sys.modules]}, sys.stderr)
atexit.register(report)
from bibwatch.cli import main
main()
"""


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "judging.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{place}/race.db"
        number = fill(url, chosen.images)
        changed = judge(url, place, r"[A-Z]?\d{3,4}")
        same = judge(url, place, r"[A-Z]?\d{3,4}")
    assert changed["changed"] > 0
    assert same["changed"] == 0
    for name, run in (("other settings", changed), ("same settings", same)):
        print(f"{name}: {run['results']} images in {run['seconds']} s, {run['changed']} with changed readings; {run}")
    print(f"{GOAL_SECONDS / changed['seconds']:.1f} times as fast as the goal of {GOAL_SECONDS} s")
    report = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "images": chosen.images,
        "candidates": number,
        "other_settings": changed,
        "same_settings": same,
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def fill(url: str, number: int) -> int:
    """Make a database of `number` images, read and judged; return the number of candidates."""
    database = Database(url)
    database.migrate()
    dice = random.Random(0)  # noqa: S311  # nothing secret
    total = 0
    with database.write() as connection:
        for start in range(0, number, 1000):
            total += fill_page(connection, dice, range(start + 1, min(start + 1000, number) + 1))
    judgements, judge = Judgements(database), Judge()
    last = 0
    while page := judgements.page(last):
        judgements.record([(case, judge.judge(case.candidates)) for case in page], judge.fingerprint)
        last = page[-1].result_id
    database.close()
    return total


def fill_page(connection: Connection, dice: random.Random, ids: range) -> int:
    connection.execute(
        images.insert(),
        [
            {
                "id": each,
                "sha256": f"{each:064}",
                "camera": "finish",
                "path": f"/srv/drop/{each}.jpg",
                "width": 6000,
                "height": 4000,
                "received_at": THEN,
            }
            for each in ids
        ],
    )
    fixed = {"stage": "bib_number", "preset": "rapidocr", "fingerprint": "aaaaaaaaaaaa", "model": "m", "device": "cpu"}
    rows = [{"id": each, "image_id": each, **fixed, "seconds": 0.5, "processed_at": THEN} for each in ids]
    connection.execute(results.insert(), rows)
    seen = [candidate_row(each, candidate, None) for each in ids for candidate in photo(dice)]
    connection.execute(candidates.insert(), seen)
    return len(seen)


def photo(dice: random.Random) -> Iterator[Candidate]:
    """Yield what OCR finds at a finish line: bibs, a banner, a clock and letters."""
    for _ in range(dice.randint(2, 6)):
        yield line(dice, f"{dice.choice('ABCDH')}{dice.randint(10000, 20000)}", dice.uniform(0.9, 1))
        yield line(dice, str(dice.randint(10, 9999)), dice.uniform(0.5, 1))
    for text in ("2026", "CITY RUN 2026", f"0{dice.randint(1, 3)}:{dice.randint(10, 59)}:12", dice.choice("ABCDH")):
        yield line(dice, text, dice.uniform(0.8, 1))


def line(dice: random.Random, text: str, score: float) -> Candidate:
    x, y = dice.uniform(0, 5800), dice.uniform(0, 3900)
    box = Box(x, y, x + 200, y + 80)
    return Candidate(text, score, box, Source.LINE, edge_distance=box.distance_to_edge(6000, 4000))


def judge(url: str, place: str, bibs: str) -> dict[str, Any]:
    """Run the command as a user does; return its output, its duration, and what it opened and imported."""
    command = [sys.executable, "-c", WATCHED, "judge", "--json", "--database", url, "--bibs", bibs]
    start = time.perf_counter()
    ran = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
    seconds = round(time.perf_counter() - start, 1)
    return {**json.loads(ran.stdout), "seconds": seconds, **json.loads(ran.stderr.splitlines()[-1])}


if __name__ == "__main__":
    main()
