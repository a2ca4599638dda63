"""How often the trained checkpoints are right, by how sure `bib_number` says they are.

    python benchmarks/reliability.py [--number N] [--out FILE]

Reads N fresh drawn bibs of each length (1 to 3 digits) with each checkpoint of tests/checkpoints.
Needs `bibwatch[local]`.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

from bibwatch import drawing
from bibwatch.images import Photo
from bibwatch.registry import Registry

CHECKPOINTS = Path(__file__).parents[1] / "tests" / "checkpoints"
EDGES = (0.0, 0.5, 0.9, 0.95, 0.99, 1.01)
SEED = 300_000  # training draws from 1,000,000 on


def main() -> None:
    """Read, count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=700)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reliability.json")
    chosen = parser.parse_args()
    report = {name: table(name, chosen.number) for name in ("smolvlm", "qwen2vl")}
    chosen.out.write_text(json.dumps({"drawings_of_each_length": chosen.number, **report}, indent=2) + "\n")


def table(name: str, number: int) -> list[dict[str, float]]:
    """Return for each range of confidence how many readings there are, how sure on average, and the share right."""
    read = readings(name, number)
    rows = []
    for low, high in pairwise(EDGES):
        some = [(confidence, right) for confidence, right in read if low <= confidence < high]
        if some:
            sure, right = (sum(each[column] for each in some) / len(some) for column in (0, 1))
            row = {"from": low, "to": min(1.0, high), "readings": len(some), "mean_confidence": sure, "right": right}
            rows.append({key: round(value, 4) for key, value in row.items()})
            span = f"{low:4.2f} to {min(1.0, high):4.2f}"
            print(f"{name:8} {span}: {len(some):5} readings, said {sure:.3f}, right {right:.3f}")
    return rows


def readings(name: str, number: int) -> list[tuple[float, bool]]:
    """Return confidence and rightness of each reading."""
    preset = {"kind": "vision_hf_transformers", "repo_id": str(CHECKPOINTS / name), "device": "cpu", "batch_size": 64}
    stage = {"model_interpreter_options": {"pattern": r"\d{1,3}"}, "crops": "none"}
    registry = Registry(presets={"tiny": preset | {"max_new_tokens": 32}}, stages={"bib_number": stage})
    found = []
    with registry.stage("bib_number", "tiny") as reader:
        for digits in (1, 2, 3):
            bibs = [f"{(7919 * place + 31) % 10**digits:0{digits}}" for place in range(number)]
            images = [drawing.bib_closeup(bib, seed=SEED + place) for place, bib in enumerate(bibs)]
            photos = [Photo(image, *image.size, "0" * 64, None) for image in images]
            for bib, outcome in zip(bibs, reader.read(photos), strict=True):
                found += [(reading.confidence, reading.bib == bib) for reading in outcome.readings]
    return found


if __name__ == "__main__":
    main()
