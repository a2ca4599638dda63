"""How right readings are, against photos with known bibs: precision, recall, calibration and what review costs.

Knows labels, candidates and the judge. Reads no photo, asks no model, and does not know how any of it is shown.

Per photo, the set of bibs read is compared with the set labelled. A bib is right only if every character is;
precision = right / (right + wrong), recall = right / labelled, F = their harmonic mean.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from bibwatch.domain.candidates import Candidate, normalized
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.judging import Judgement, Race, Rules, judge_race
from bibwatch.judging.explanation import Explanation, explain
from bibwatch.labels import Label, LabelledPhoto

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)  # of the sweep
_BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1.0)  # bounds of probability in the reliability table
_RESAMPLES = 1000  # of the bootstrap
_TAIL = 0.025  # on either side of a 95 % interval
_NEAREST = 3  # candidates listed for a miss
_SIMILAR = 0.6  # ratio from which two texts may be about the same bib


class Mark(StrEnum):
    """What a bib that was read in a labelled photo is worth."""

    RIGHT = "right"
    WRONG = "wrong"
    IGNORED = "ignored"  # known to be in the photo, but not labelled; or a second way to read a bib already found


@dataclass(frozen=True)
class Score:
    """Bibs counted over photos."""

    right: int = 0
    wrong: int = 0
    labelled: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.right + other.right, self.wrong + other.wrong, self.labelled + other.labelled)

    @property
    def precision(self) -> float | None:
        """Share of the bibs read that are right; None if none were read."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float | None:
        """Share of the labelled bibs that were read; None if no bib is labelled."""
        return _share(self.right, self.labelled)

    @property
    def f(self) -> float | None:
        """The harmonic mean of precision and recall; None if no bib was read and none is labelled."""
        return _share(2 * self.right, self.right + self.wrong + self.labelled)


class Estimate(NamedTuple):
    """A figure with its 95 % interval; None where there is nothing to count."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Quality:
    """A score, with intervals that say what other photos of the same kind might have given."""

    score: Score
    precision: Estimate
    recall: Estimate
    f: Estimate


@dataclass(frozen=True)
class ReadPhoto:
    """What was seen in a labelled photo; nothing, with the reason, where it could not be read."""

    photo: LabelledPhoto
    candidates: tuple[Candidate, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class JudgedPhoto:
    """What the judge made of a labelled photo."""

    read: ReadPhoto
    judgement: Judgement

    @property
    def photo(self) -> LabelledPhoto:
        """The photo and its labels."""
        return self.read.photo

    @property
    def readings(self) -> tuple[Reading, ...]:
        """All readings."""
        return self.judgement.readings

    @property
    def accepted(self) -> tuple[Reading, ...]:
        """The readings that nobody will look at."""
        return tuple(reading for reading in self.readings if reading.verdict is Verdict.ACCEPTED)

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """What each of the bibs read is worth."""
        return mark(self.photo, [reading.bib for reading in self.readings])

    @cached_property
    def unclaimed(self) -> list[Explanation]:
        """What became of each candidate that supports no right reading."""
        explained = explain(self.read.candidates, self.judgement)
        return [each for each in explained if not each.reading or self.marks[each.reading.bib] is not Mark.RIGHT]


@dataclass(frozen=True)
class Summary:
    """The figures of a race, or of all photos."""

    photos: int
    failed: int  # photos that could not be read; they count as read with no bib
    all: Quality  # over all readings
    accepted: Quality  # over accepted readings
    found: int  # labelled bibs that are among the candidates
    reviews: int  # readings that a person should look at

    @property
    def candidate_recall(self) -> float | None:
        """Share of the labelled bibs that the model saw at all: what no judge can raise."""
        return _share(self.found, self.all.score.labelled)

    @property
    def reviews_per_photo(self) -> float | None:
        """How many readings a person has to look at, a photo."""
        return _share(self.reviews, self.photos)


class Threshold(NamedTuple):
    """What another `race.accept_at` would have given."""

    accept_at: float
    accepted: Score
    reviews: int


class Bin(NamedTuple):
    """Readings of about the same probability, and how many are right."""

    low: float
    high: float
    readings: int
    mean_probability: float
    share_right: float


@dataclass(frozen=True)
class Miss:
    """A labelled bib that is not among the readings."""

    photo: LabelledPhoto
    label: Label
    nearest: tuple[Explanation, ...]  # candidates at its place or of a similar text, best first


@dataclass(frozen=True)
class WrongReading:
    """A reading that is not a bib of its photo."""

    photo: LabelledPhoto
    reading: Reading
    nearest: str | None  # the labelled bib that it is most like


def judge_photos(photos: Sequence[ReadPhoto], race: Race, rules: Rules) -> list[JudgedPhoto]:
    """Judge photos, those of each race of the labels as an event of their own. Keeps the order."""
    races: dict[str, list[int]] = {}
    for index, read in enumerate(photos):
        races.setdefault(read.photo.race, []).append(index)
    found: dict[int, JudgedPhoto] = {}
    for indices in races.values():
        judgements = judge_race([photos[index].candidates for index in indices], race, rules)
        found |= {index: JudgedPhoto(photos[index], judged) for index, judged in zip(indices, judgements, strict=True)}
    return [found[index] for index in range(len(photos))]


def mark(photo: LabelledPhoto, bibs: Iterable[str]) -> dict[str, Mark]:
    """Return what each bib that was read in a photo is worth. Each label makes one bib right at most."""
    read = list(dict.fromkeys(map(normalized, bibs)))
    found = _found(photo, read)
    also = {bib for bib in read if bib in photo.extras or any(label.accepts(bib) for label in photo.labels)}
    rights = set(found.values())
    return {bib: Mark.RIGHT if bib in rights else Mark.IGNORED if bib in also else Mark.WRONG for bib in read}


def score(photo: LabelledPhoto, bibs: Iterable[str]) -> Score:
    """Compare the bibs read in a photo with its labels."""
    marks = list(mark(photo, bibs).values())
    return Score(marks.count(Mark.RIGHT), marks.count(Mark.WRONG), len(photo.labels))


def quality(scores: Sequence[Score], seed: int = 0) -> Quality:
    """Add up the scores of photos; the intervals are a bootstrap over photos (percentiles). One seed, one result."""
    total = sum(scores, Score())
    samples = _resampled(scores, seed)
    return Quality(
        total,
        precision=_estimate(total.precision, [sample.precision for sample in samples]),
        recall=_estimate(total.recall, [sample.recall for sample in samples]),
        f=_estimate(total.f, [sample.f for sample in samples]),
    )


def summarize(photos: Sequence[JudgedPhoto]) -> Summary:
    """Return the figures of some judged photos."""
    return Summary(
        photos=len(photos),
        failed=sum(each.read.error is not None for each in photos),
        all=quality([_score(each.photo, each.readings) for each in photos]),
        accepted=quality([_score(each.photo, each.accepted) for each in photos]),
        found=sum(_is_seen(label, each.read.candidates) for each in photos for label in each.photo.labels),
        reviews=_reviews(photos),
    )


def by_race(photos: Iterable[JudgedPhoto]) -> dict[str, list[JudgedPhoto]]:
    """Return the photos of each race, in the order in which the labels name the races."""
    races: dict[str, list[JudgedPhoto]] = {}
    for each in photos:
        races.setdefault(each.photo.race, []).append(each)
    return races


def sweep(photos: Sequence[ReadPhoto], race: Race, rules: Rules) -> list[Threshold]:
    """Judge the photos at several `accept_at`, the race's own included; the least first."""
    found = []
    for accept_at in sorted({*THRESHOLDS, race.accept_at}):
        judged = judge_photos(photos, replace(race, accept_at=accept_at), rules)
        accepted = sum((_score(each.photo, each.accepted) for each in judged), Score())
        found.append(Threshold(accept_at, accepted, _reviews(judged)))
    return found


def reliability(photos: Iterable[JudgedPhoto]) -> list[Bin]:
    """Return, by probability, how many of the readings are right; ignored ones are left out, and empty bins."""
    readings = [
        (reading.probability, each.marks[reading.bib] is Mark.RIGHT)
        for each in photos
        for reading in each.readings
        if each.marks[reading.bib] is not Mark.IGNORED
    ]
    bins = []
    for low, high in pairwise(_BINS):
        inside = [each for each in readings if low <= each[0] < high or each[0] == high == 1]
        if inside:
            probabilities, rights = zip(*inside, strict=True)
            bins.append(Bin(low, high, len(inside), sum(probabilities) / len(inside), sum(rights) / len(inside)))
    return bins


def misses(photos: Iterable[JudgedPhoto]) -> list[Miss]:
    """Return the labelled bibs that were not read, with the candidates that come nearest; not those of other bibs."""
    return [
        Miss(each.photo, label, _nearest(label, each.unclaimed))
        for each in photos
        for label in each.photo.labels
        if label.bib not in _found(each.photo, [reading.bib for reading in each.readings])
    ]


def wrong_readings(photos: Iterable[JudgedPhoto]) -> list[WrongReading]:
    """Return the readings that are wrong, accepted ones first, then by probability."""
    found = [
        WrongReading(each.photo, reading, _most_similar(reading.bib, each.photo.labels))
        for each in photos
        for reading in each.readings
        if each.marks[reading.bib] is Mark.WRONG
    ]
    return sorted(found, key=lambda each: (each.reading.verdict is not Verdict.ACCEPTED, -each.reading.probability))


def _found(photo: LabelledPhoto, bibs: Sequence[str]) -> dict[str, str]:
    """Return which labels were read, each with the bib that stands for it; no bib stands for two labels."""
    found = {label.bib: label.bib for label in photo.labels if label.bib in bibs}
    for label in photo.labels:
        others = (bib for bib in bibs if bib not in found.values() and label.accepts(bib))
        if label.bib not in found and (bib := next(others, None)):
            found[label.bib] = bib
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _score(photo: LabelledPhoto, readings: Iterable[Reading]) -> Score:
    return score(photo, [reading.bib for reading in readings])


def _reviews(photos: Iterable[JudgedPhoto]) -> int:
    return sum(reading.verdict is Verdict.REVIEW for each in photos for reading in each.readings)


def _is_seen(label: Label, candidates: Iterable[Candidate]) -> bool:
    return any(label.accepts(text) for each in candidates for text in (each.text, *each.alternatives))


def _resampled(scores: Sequence[Score], seed: int) -> list[Score]:
    """Return the totals of as many photos, drawn with replacement, many times."""
    dice = random.Random(seed)  # noqa: S311  # statistics, not a secret
    counts = [(each.right, each.wrong, each.labelled) for each in scores]
    if not counts:
        return []
    drawn = (dice.choices(counts, k=len(counts)) for _ in range(_RESAMPLES))
    return [Score(*map(sum, zip(*sample, strict=True))) for sample in drawn]


def _estimate(value: float | None, samples: Iterable[float | None]) -> Estimate:
    known = sorted(sample for sample in samples if sample is not None)
    if value is None or not known:
        return Estimate(value, None, None)
    last = len(known) - 1
    return Estimate(value, known[round(_TAIL * last)], known[round((1 - _TAIL) * last)])


def _nearest(label: Label, explanations: Iterable[Explanation]) -> tuple[Explanation, ...]:
    """Return the candidates at the label's place, or of a similar text, the most similar first."""
    ranked: list[tuple[float, bool, int, Explanation]] = []
    for each in explanations:
        box = each.candidate.box
        similarity = _similarity(label.bib, each.candidate.text)
        is_there = label.box is not None and box is not None and box.is_same_place(label.box)
        if is_there or similarity >= _SIMILAR:
            ranked.append((-similarity, not is_there, len(ranked), each))
    return tuple(each for *_, each in sorted(ranked)[:_NEAREST])


def _most_similar(bib: str, labels: Iterable[Label]) -> str | None:
    ranked = [(_similarity(label.bib, bib), label.bib) for label in labels]
    similarity, nearest = max(ranked, default=(0.0, None))
    return nearest if similarity >= _SIMILAR else None


def _similarity(bib: str, text: str) -> float:
    return SequenceMatcher(None, bib, normalized(text), autojunk=False).ratio()
