"""Measure how often the trained checkpoints are right, by the confidence that `bib_number` reports.

    python benchmarks/reliability.py [--closeups N] [--photos N] [--out FILE]

Reads drawn images with each checkpoint of tests/checkpoints: N close-ups of bibs of each length (1 to 3 digits), and N
photos with one to four bibs of two or three digits, re-reading where the bundled OCR sees a number. Also reads the
photos with both: the second model is asked where the first was uncertain. Needs `bibwatch[local]`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from bibwatch import drawing
from bibwatch.domain.readings import Verdict
from bibwatch.images import Photo
from bibwatch.judging import Race, judge
from bibwatch.judging.race import form
from bibwatch.registry import Registry

FOLDER = Path(__file__).parents[1] / "tests" / "checkpoints"
CHECKPOINTS = ("smolvlm", "qwen2vl")
EDGES = (0.0, 0.5, 0.9, 0.95, 0.99, 1.01)
SEED = 300_000  # training draws from 1,000,000 on


Drawn = Iterator[tuple[set[str], Image.Image]]  # with the bibs in it


def main() -> None:
    """Read, count, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--closeups", type=int, default=700)
    parser.add_argument("--photos", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reliability.json")
    chosen = parser.parse_args()
    report = {
        name: {
            "closeups": table(name, closeups(chosen.closeups), crops="none"),
            "photos": table(name, photos(chosen.photos)),
        }
        for name in CHECKPOINTS
    }
    first, second = CHECKPOINTS
    report["both"] = {"photos": table(first, photos(chosen.photos), second_model_options=second)}
    chosen.out.write_text(json.dumps(report, indent=2) + "\n")


def closeups(number: int) -> Drawn:
    """Draw bibs as cropped from a photo, `number` of each length."""
    for digits in (1, 2, 3):
        for place in range(number):
            bib = f"{(7919 * place + 31) % 10**digits:0{digits}}"
            yield {bib}, drawing.bib_closeup(bib, seed=SEED + place)


def photos(number: int) -> Drawn:
    """Draw photos with several runners."""
    dice = random.Random(SEED)  # noqa: S311  # not used for secrets
    for place in range(number):
        bibs = {f"{dice.randrange(10**digits):0{digits}}" for digits in dice.choices((2, 3), k=dice.randint(1, 4))}
        yield bibs, drawing.photo(tuple(sorted(bibs)), seed=SEED + place)


def table(name: str, drawn: Drawn, **stage: str) -> dict[str, Any]:
    """Return how many bibs were found, and the readings, in total and right, by range of confidence."""
    bibs, found, read = readings(name, drawn, stage)
    accepted = [right for _, verdict, right in read if verdict is Verdict.ACCEPTED]
    rows = []
    for low, high in pairwise(EDGES):
        some = [right for confidence, _, right in read if low <= confidence < high]
        if some:
            rows.append({"from": low, "to": min(1.0, high), "readings": len(some), "right": sum(some)})
            print(f"{name} {stage}: {low:4.2f} to {min(1.0, high):4.2f}: {len(some)} readings, {sum(some)} right")
    print(
        f"{name} {stage}: {found} of {bibs} bibs found, {sum(accepted)} of {len(accepted)} accepted right", flush=True
    )
    return {"bibs": bibs, "found": found, "readings": rows, "accepted": len(accepted), "accepted_right": sum(accepted)}


def readings(name: str, drawn: Drawn, stage: dict[str, str]) -> tuple[int, int, list[tuple[float, Verdict, bool]]]:
    """Return the number of bibs and of those found, and the confidence, verdict and correctness of each reading."""
    base = {"kind": "vision_hf_transformers", "device": "cpu", "batch_size": 64, "max_new_tokens": 32}
    presets = {name: base | {"repo_id": str(FOLDER / name)} for name in CHECKPOINTS}
    race = Race(forms=(form(r"\d{1,3}"),))
    number = found = 0
    read = []
    with Registry(presets=presets, stages={"bib_number": stage}).stage("bib_number", name) as reader:
        while some := list(islice(drawn, 64)):
            outcomes = reader.read([Photo(image, *image.size, "0" * 64, None) for _, image in some])
            for (bibs, _), outcome in zip(some, outcomes, strict=True):
                judged = judge(outcome.candidates, race)
                number += len(bibs)
                found += len(bibs & {reading.bib for reading in judged})
                read += [(each.probability, each.verdict, each.bib in bibs) for each in judged]
    return number, found, read


if __name__ == "__main__":
    main()
