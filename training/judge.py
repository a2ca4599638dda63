"""Fits the judge's model to photos with known bibs, and measures it on sets it has not seen.

    python training/judge.py SET... [--write]

A SET is a folder with `images/` and `labels.csv` as for `bibwatch eval`; every race of it is an event of its own. Each
set in turn is left out, the model is fitted to the others, and its readings of the set are scored. With `--write` the
model fitted to all sets replaces `src/bibwatch/judging/model.toml`. What the OCR saw is kept in `training/.seen/`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from bibwatch import recognition
from bibwatch.domain.candidates import Candidate
from bibwatch.images import ImageLimits
from bibwatch.judging import Race, Rules, clear_numbers
from bibwatch.judging.lines import hypotheses
from bibwatch.registry import Registry

HERE = Path(__file__).parent
MODEL = HERE.parent / "src/bibwatch/judging/model.toml"
RESULTS = HERE.parent / "benchmarks/results/judge.json"
# What more of each piece of evidence means: 1 speaks for the number, -1 against it, 0 is left open.
SIGN = {
    "score": 1, "first": 1, "photo": 1, "crop": 1, "wide": 1, "agreed": 1, "looks": 1, "longer": -1, "rival": -1,
    "unread": -1, "relative_size": 1, "edge": 1, "margin": 1, "word_beside": -1, "year": -1,
}  # fmt: skip
FIT = {
    "objective": "binary", "learning_rate": 0.06, "num_leaves": 4, "min_data_in_leaf": 15, "lambda_l2": 3.0,
    "monotone_constraints": list(SIGN.values()), "interaction_constraints": [[at] for at in range(len(SIGN))],
    "verbose": -1, "seed": 0, "deterministic": True, "num_threads": 1,
}  # fmt: skip
ROUNDS = 150
LEAST = 0.0  # log-odds; what is less probable does not count for the calibration
WEIGHT = {"bib-racer-crops": 0.3}  # crops of 70 by 45 pixels, one number each
FEW = (None, 0, 2, 8)  # numbers from which the form is learned in training: all, and as if few had come
SHOWN, ACCEPTED = Rules().min_probability, Race().accept_at
CUT = 0.1  # heights from the edge of the photo; nearer ones are never accepted


@dataclass
class Photo:
    """One labelled photo."""

    of: str
    race: str
    candidates: tuple[Candidate, ...]
    labels: list[set[str]]  # the ways in which each bib may be read
    extras: set[str]

    @property
    def right(self) -> set[str]:
        return set().union(*self.labels)


@dataclass
class Example:
    """One number at one place of a photo, with its evidence."""

    of: str
    photo: int
    place: int
    bib: str
    evidence: list[float]
    form: float
    right: bool
    ignored: bool
    few: Any = None

    @property
    def forbidden(self) -> bool:
        """Whether a rule keeps it from being accepted, whatever its probability."""
        evidence = dict(zip(SIGN, self.evidence, strict=True))
        return bool(evidence["year"]) or evidence["edge"] < CUT


def main() -> None:
    """Measure with each set left out; fit to all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET")
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    sets = {each.name: photos(each) for each in chosen.sets}
    examples = {name: [each for few in FEW for each in examples_of(its, few)] for name, its in sets.items()}
    unseen: dict[str, list[tuple[float, Example]]] = {}
    for name in sets:
        fitted = fit([each for other, its in examples.items() if other != name for each in its])
        unseen[name] = readings(fitted, [each for each in examples[name] if each.few is None])
    figures = {}
    for name, its in sets.items():
        scale = calibrate([pair for other, pairs in unseen.items() if other != name for pair in pairs])
        figures[name] = report(name, its, [(probability(log_odds, scale), each) for log_odds, each in unseen[name]])
    if chosen.write:
        RESULTS.write_text(json.dumps({"sets": figures}, indent=2) + "\n")
        scale = calibrate([pair for pairs in unseen.values() for pair in pairs])
        MODEL.write_text(written(fit([each for its in examples.values() for each in its]), scale))


def photos(folder: Path) -> list[Photo]:
    """Return the labelled photos of a set, with what the bundled OCR sees in them."""
    extras, notes = table(folder / "extras.csv"), table(folder / "label-notes.csv")
    found = []
    for name, (row, *_) in table(folder / "labels.csv").items():
        ways = [
            {bib, *(note["seen"] for note in notes.get(name, []) if note["labelled"] == bib)}
            for bib in row["bibs"].split()
        ]
        beside = {extra["bib"] for extra in extras.get(name, [])}
        race = f"{folder.name} {row.get('race', '')}"
        found.append(Photo(folder.name, race, seen(folder / "images" / name), ways, beside))
    return found


def table(file: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a CSV file by their column `file`."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    if file.exists():
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                rows[row["file"]].append(row)
    return rows


STAGE: list[Any] = []


def seen(path: Path) -> tuple[Candidate, ...]:
    """Return what the bundled OCR sees in a photo."""
    if not STAGE:
        STAGE.append(Registry().stage("bib_number", "rapidocr"))
    fingerprint = STAGE[0].options.fingerprint()
    kept = HERE / ".seen" / fingerprint / hashlib.sha256(path.read_bytes()).hexdigest()
    if not kept.exists():
        ((_, answer),) = recognition.read(STAGE[0], [str(path)], ImageLimits())
        if isinstance(answer, Exception):
            raise answer
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps(answer[1].candidates))
    return pickle.loads(kept.read_bytes())


def examples_of(its: Sequence[Photo], few: int | None) -> list[Example]:
    """Return the examples of a set, each race by the form that its first numbers show."""
    clear: dict[str, dict[str, None]] = defaultdict(dict)
    for photo in its:
        clear[photo.race] |= dict.fromkeys(sorted(clear_numbers(photo.candidates)))
    races = {race: Race().learning(list(bibs)[:few]) for race, bibs in clear.items()}
    found = []
    for index, photo in enumerate(its):
        race = races[photo.race]
        for each in hypotheses(photo.candidates, [race.bibs(candidate) for candidate in photo.candidates]):
            evidence = [getattr(each.evidence, name) for name in SIGN]
            right = each.bib in photo.right
            ignored = each.bib in photo.extras and not right
            found.append(
                Example(
                    photo.of, index, each.place, each.bib, evidence, race.form_log_odds(each.bib), right, ignored, few
                )
            )
    return found


def fit(examples: Sequence[Example]) -> Any:
    """Fit an additive, monotone model; the form counts as it is."""
    used = [each for each in examples if not each.ignored]
    data = lightgbm.Dataset(
        np.array([each.evidence for each in used]),
        np.array([each.right for each in used]),
        weight=np.array([WEIGHT.get(each.of, 1.0) for each in used]),
        init_score=np.array([each.form for each in used]) - 2.0,
        feature_name=list(SIGN),
    )
    return lightgbm.train(FIT, data, ROUNDS)


def readings(fitted: Any, examples: Sequence[Example]) -> list[tuple[float, Example]]:
    """Return the best number of each place with its log-odds, each number once per photo."""
    raw = fitted.predict(np.array([each.evidence for each in examples]), raw_score=True) - 2.0
    best: dict[tuple[int, int], tuple[float, Example]] = {}
    for value, each in zip(raw, examples, strict=True):
        log_odds = float(value) + each.form
        if log_odds > best.get((each.photo, each.place), (-99.0,))[0]:
            best[each.photo, each.place] = log_odds, each
    once: dict[tuple[int, str], tuple[float, Example]] = {}
    for log_odds, each in best.values():
        if log_odds > once.get((each.photo, each.bib), (-99.0,))[0]:
            once[each.photo, each.bib] = log_odds, each
    return list(once.values())


def calibrate(pairs: Sequence[tuple[float, Example]]) -> tuple[float, float]:
    """Return slope and offset of the logistic curve through readings that the model has not seen (Platt)."""
    pairs = [pair for pair in pairs if not pair[1].ignored and not pair[1].forbidden and pair[0] > LEAST]
    used = [(log_odds, each.right) for log_odds, each in pairs]
    weight = np.array([WEIGHT.get(each.of, 1.0) for _, each in pairs])
    x, y = np.array([pair[0] for pair in used]), np.array([pair[1] for pair in used], float)
    design = np.stack([x, np.ones_like(x)], axis=1)
    weights = np.zeros(2)
    for _ in range(50):  # Newton's method
        p = 1 / (1 + np.exp(-design @ weights))
        step = np.linalg.solve(
            (design.T * (weight * p * (1 - p))) @ design + 1e-3 * np.eye(2), design.T @ (weight * (y - p))
        )
        weights += step
    return float(weights[0]), float(weights[1])


def probability(log_odds: float, scale: tuple[float, float]) -> float:
    return float(1 / (1 + np.exp(-(scale[0] * log_odds + scale[1]))))


def report(name: str, its: Sequence[Photo], pairs: Sequence[tuple[float, Example]]) -> dict[str, Any]:
    """Print and return how a set that was left out is read, over all readings and over accepted ones."""
    figures = {
        "photos": len(its),
        "bibs": sum(len(photo.labels) for photo in its),
        "accepted+review": score(its, pairs, SHOWN),
        "accepted": score(its, pairs, ACCEPTED),
    }
    print(f"{name:22}", figures)
    return figures


def score(its: Sequence[Photo], pairs: Iterable[tuple[float, Example]], least: float) -> dict[str, float]:
    """Return precision, recall, F and the number of wrong readings of at least that probability."""
    read: dict[int, set[str]] = defaultdict(set)
    for p, each in pairs:
        if p >= least and not (least >= ACCEPTED and each.forbidden):
            read[each.photo].add(each.bib)
    right = wrong = labelled = 0
    for index, photo in enumerate(its):
        labelled += len(photo.labels)
        right += sum(bool(ways & read[index]) for ways in photo.labels)
        wrong += len(read[index] - photo.right - photo.extras)
    p, r = right / max(1, right + wrong), right / max(1, labelled)
    f = 2 * p * r / max(1e-9, p + r)
    return {"precision": round(p, 3), "recall": round(r, 3), "F": round(f, 3), "wrong": wrong}


def written(fitted: Any, scale: tuple[float, float]) -> str:
    """Write a fitted model as TOML: its tables are the sums of its trees, for each piece of evidence."""
    slope, offset = scale
    edges: dict[int, set[float]] = defaultdict(set)
    for tree in fitted.dump_model()["tree_info"]:
        collect(tree["tree_structure"], edges)
    middle = np.array([[0.0] * len(SIGN)])
    base = float(fitted.predict(middle, raw_score=True)[0])
    lines = [
        "# Fitted by training/judge.py; see there.",
        f"constant = {slope * (base - 2.0) + offset:.4f}",
        f"form = {slope:.4f}",
    ]
    for at, name in enumerate(SIGN):
        if not edges[at]:
            continue
        cuts = sorted(edges[at])
        points = np.repeat(middle, len(cuts) + 1, axis=0)
        points[:, at] = [cuts[0] - 1, *((a + b) / 2 for a, b in pairwise(cuts)), cuts[-1] + 1]
        values = slope * (fitted.predict(points, raw_score=True) - base)
        lines += ["", f"[evidence.{name}]", f"edges = [{', '.join(f'{cut:.5g}' for cut in cuts)}]"]
        lines += [f"values = [{', '.join(f'{value:.3f}' for value in values)}]"]
    return "\n".join(lines) + "\n"


def collect(node: Mapping[str, Any], edges: dict[int, set[float]]) -> None:
    """Collect the thresholds of a tree, by the index of the evidence."""
    if "split_feature" in node:
        edges[node["split_feature"]].add(node["threshold"])
        collect(node["left_child"], edges)
        collect(node["right_child"], edges)


if __name__ == "__main__":
    main()
