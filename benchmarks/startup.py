"""Measure the startup time of `bibwatch --help`, `presets` and `read --help` against `python -c pass`.

    python benchmarks/startup.py [--rounds N] [--out FILE]

Each round runs every command once, so that other load affects them all; medians are compared.
Goal: `bibwatch --help` within 0.3 s of `python -c pass`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "bibwatch --help": ["-m", "bibwatch", "--help"],
    "bibwatch read --help": ["-m", "bibwatch", "read", "--help"],
    "bibwatch presets": ["-m", "bibwatch", "presets"],
}


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "startup.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rounds = [{name: seconds(words, place) for name, words in COMMANDS.items()} for _ in range(chosen.rounds + 1)]
    medians = {name: statistics.median(each[name] for each in rounds[1:]) for name in COMMANDS}
    plain = medians["python -c pass"]
    for name, median in medians.items():
        print(f"{name:24} {median:.3f} s   {median - plain:+.3f} s")
    report = {
        "python": platform.python_version(),
        "rounds": chosen.rounds,
        "median_seconds": {name: round(median, 3) for name, median in medians.items()},
        "help_over_python_seconds": round(medians["bibwatch --help"] - plain, 3),
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def seconds(words: list[str], place: str) -> float:
    """Return how long a command takes in an empty folder."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
