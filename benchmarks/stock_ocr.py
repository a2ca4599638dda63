"""Compare the bundled reader with a plain loop over RapidOCR: the same photos, models and threads, in turns.

    python benchmarks/stock_ocr.py SET... [--threads N] [--out FILE]

A SET is a folder as for reading.py. Both load each photo from its file. The loop keeps what RapidOCR reads with its
defaults if the whole text is a bib (two to five digits, or a letter and three to five) with a score over 0.8. The same
is timed on photos enlarged to 24 megapixels, where peak memory is measured too, each in a process of its own.
The goal: twice as fast per photo, four times at 24 megapixels.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from bibwatch.images import open_photo
from bibwatch.runtimes.ocr import VisionOcr, VisionOcrOptions
from reading import score

LARGE = 24_000_000  # pixels
BIB = re.compile(r"\d{2,5}|[A-Z]\d{3,5}")
Reader = Callable[[Path], set[str]]


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path, metavar="SET")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stock_ocr.json")
    parser.add_argument("--memory", choices=("stock", "bibwatch"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    readers = {"stock": stock, "bibwatch": bibwatch}
    if chosen.memory:
        read = readers[chosen.memory](chosen.threads)
        for photo in chosen.sets:
            read(photo)
        print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    report: dict[str, Any] = {"machine": machine, "threads": chosen.threads, "sets": {}}
    loaded = {name: make(chosen.threads) for name, make in readers.items()}
    for each in chosen.sets:
        photos = sorted((each / "images").iterdir())
        seconds, found = timed(loaded, photos)
        accuracy = score(each, defaultdict(set, found["stock"]))
        report["sets"][each.name] = {**summary(seconds, len(photos)), "stock": accuracy}
        print(f"{each.name:22}", summary(seconds, len(photos)), "stock:", accuracy)
    with tempfile.TemporaryDirectory() as place:
        large = [enlarged(photo, Path(place)) for photo in sorted((chosen.sets[-1] / "images").iterdir())[:6]]
        seconds, _ = timed(loaded, large)
        report["24 megapixels"] = summary(seconds, len(large)) | {
            f"{name}_mb": memory(name, large, chosen.threads) for name in readers
        }
    print("24 megapixels         ", report["24 megapixels"])
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def stock(threads: int) -> Reader:
    """Return RapidOCR as it comes, with its models loaded."""
    from rapidocr import RapidOCR

    engine = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": threads})

    def read(photo: Path) -> set[str]:
        result = engine(str(photo))
        texts = zip(result.txts or (), result.scores or (), strict=True)
        return {text for text, its in texts if its > 0.8 and BIB.fullmatch(text)}

    return read


def bibwatch(threads: int) -> Reader:
    """Return the bundled reader, with its models loaded."""
    runtime = VisionOcr(VisionOcrOptions(threads=threads))
    runtime.load()

    def read(photo: Path) -> set[str]:
        (prediction,) = runtime.predict_batch([open_photo(photo).image], "")
        return {line.text for line in prediction.lines}

    return read


def timed(
    readers: dict[str, Reader], photos: Sequence[Path]
) -> tuple[dict[str, float], dict[str, dict[str, set[str]]]]:
    """Return the seconds that each reader took for all photos, one after the other, and what it read in each."""
    seconds = dict.fromkeys(readers, 0.0)
    found: dict[str, dict[str, set[str]]] = {name: {} for name in readers}
    for read in readers.values():
        read(photos[0])  # the first of a size takes longer
    for photo in photos:
        for name, read in readers.items():
            start = time.perf_counter()
            found[name][photo.name] = read(photo)
            seconds[name] += time.perf_counter() - start
    return seconds, found


def summary(seconds: dict[str, float], photos: int) -> dict[str, float]:
    """Return seconds per photo, and how many times as fast bibwatch is."""
    return {
        "photos": photos,
        **{f"{name}_seconds": round(total / photos, 3) for name, total in seconds.items()},
        "ratio": round(seconds["stock"] / seconds["bibwatch"], 2),
    }


def enlarged(photo: Path, place: Path) -> Path:
    """Write a photo with 24 megapixels."""
    with Image.open(photo) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    factor = (LARGE / (upright.width * upright.height)) ** 0.5
    target = place / f"{photo.stem}.jpg"
    upright.resize((round(upright.width * factor), round(upright.height * factor))).save(target, quality=90)
    return target


def memory(name: str, photos: Sequence[Path], threads: int) -> int:
    """Return the peak memory of a process that reads the photos, in MB."""
    command = [sys.executable, __file__, *map(str, photos), "--memory", name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) // 1024


if __name__ == "__main__":
    main()
