"""Decides which number lines of text show at each place: the most probable one.

Weighs the evidence of `lines` with the shipped `model`, in the context of the race.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate
from bibwatch.judging import model
from bibwatch.judging.lines import Hypothesis, LineEvidence, hypotheses
from bibwatch.judging.race import Race


@dataclass(frozen=True)
class Number:
    """A number at a place, how probable it is, and why."""

    bib: str
    probability: float
    weights: Mapping[str, float]  # what each piece of evidence adds to the log-odds
    evidence: LineEvidence
    candidates: tuple[int, ...]  # that read it, the best first
    others: tuple[int, ...]  # that read something else there

    @property
    def against(self) -> dict[str, float]:
        """What each piece of evidence takes from the log-odds that it adds at best (0 or less)."""
        return model.shipped().shortfall(self.weights)


def numbers(candidates: Sequence[Candidate], texts: Sequence[Sequence[tuple[str, float]]], race: Race) -> list[Number]:
    """Return the most probable number of each place; `texts` are the bibs that each candidate may be."""
    places: dict[int, list[Hypothesis]] = {}
    for each in hypotheses(candidates, texts):
        places.setdefault(each.place, []).append(each)
    return [number for place in places.values() for number in _most_probable(place, candidates, race)]


def _most_probable(place: Sequence[Hypothesis], candidates: Sequence[Candidate], race: Race) -> Iterator[Number]:
    """Yield the most probable number of a place, and then that of what lies beside it: a line may span two cards."""
    weighed = [(model.shipped().weigh(each.evidence, race.form_log_odds(each.bib)), each) for each in place]
    while weighed:
        weights, best = max(weighed, key=lambda each: (sum(each[0].values()), each[1].bib))
        box = candidates[best.candidates[0]].box
        beside = [each for each in weighed if not _overlap(box, candidates[each[1].candidates[0]].box)]
        apart = {index for _, each in beside for index in each.candidates}
        others = {index for _, each in weighed for index in each.candidates} - set(best.candidates) - apart
        yield _number(weights, best, others)
        weighed = beside


def _overlap(one: Box | None, other: Box | None) -> bool:
    return one is None or other is None or one.overlap(other) > 0


def _number(weights: Mapping[str, float], best: Hypothesis, others: set[int]) -> Number:
    return Number(best.bib, model.probability(weights), weights, best.evidence, best.candidates, tuple(sorted(others)))
