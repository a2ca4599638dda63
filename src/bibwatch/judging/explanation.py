"""What became of each candidate, in words: the reading that it supports, or why it is no bib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bibwatch.domain.candidates import Candidate, normalized
from bibwatch.domain.readings import Reading
from bibwatch.judging.judge import Judgement

REJECTED = "rejected"  # beside the names of the verdicts


@dataclass(frozen=True)
class Explanation:
    """A candidate, with the reading it supports (None for a rejected one) and the reasons."""

    candidate: Candidate
    reading: Reading | None
    reasons: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`accepted`, `review` or `rejected`."""
        return self.reading.verdict.value if self.reading else REJECTED


def explain(candidates: Sequence[Candidate], judgement: Judgement) -> list[Explanation]:
    """Return what a judgement makes of each of its candidates, in their order."""
    return [
        _explanation(candidate, rejection, judgement.readings)
        for candidate, rejection in zip(candidates, judgement.rejections, strict=True)
    ]


def _explanation(candidate: Candidate, rejection: str | None, readings: Sequence[Reading]) -> Explanation:
    if rejection is not None:
        return Explanation(candidate, None, (rejection,))
    by_text = (reading for reading in readings if reading.bib == normalized(candidate.text))
    by_place = (
        reading for reading in readings if reading.box and candidate.box and reading.box.is_same_place(candidate.box)
    )
    others = set(map(normalized, candidate.alternatives))
    by_alternative = (reading for reading in readings if reading.bib in others)
    reading = next(by_text, None) or next(by_place, None) or next(by_alternative, None)
    return Explanation(candidate, reading, tuple(map(str, reading.reasons)) if reading else ("supports no reading",))
