"""From the candidates of one photo to its readings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bibwatch.domain.candidates import Candidate, Look, Source, normalized
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.judging import rules as all_rules
from bibwatch.judging.race import Race
from bibwatch.judging.rules import Evidence, Rules


@dataclass(frozen=True)
class Judgement:
    """What became of the candidates of one photo."""

    readings: tuple[Reading, ...]
    rejections: tuple[str | None, ...]  # for each candidate, why it is no bib; None where it supports a reading


@dataclass(frozen=True)
class Judge:
    """A race and its rules, ready to judge any number of photos. Thread-safe."""

    race: Race = field(default_factory=Race)
    rules: Rules = field(default_factory=Rules)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a judgement depends on beside the candidates (12 hex digits)."""
        forms = [each.pattern for each in self.race.forms]
        text = repr((all_rules.REVISION, forms, self.race.accept_at, self.rules.model_dump_json()))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def judge(self, candidates: Sequence[Candidate]) -> Judgement:
        """Judge the candidates of one photo. The result depends on nothing else."""
        photo = _PhotoCandidates(candidates, self.race, self.rules)
        readings = tuple(self._reading(photo.evidence(bib)) for bib in photo.numbers)
        return Judgement(readings, tuple(photo.rejections))

    def _reading(self, evidence: Evidence) -> Reading:
        found = [rule(evidence, self.race, self.rules) for rule in all_rules.ALL]
        reasons = tuple(reason for reason in found if reason)
        forbidden = any(reason.forbids for reason in reasons)
        return Reading(
            bib=evidence.bib,
            probability=evidence.probability,
            verdict=Verdict.REVIEW if forbidden else Verdict.ACCEPTED,
            box=evidence.place.box,
            reasons=reasons,
            read_as=evidence.lead.text,
            model=evidence.lead.model,
        )


def judge(candidates: Sequence[Candidate], race: Race | None = None, rules: Rules | None = None) -> tuple[Reading, ...]:
    """Return the readings of one photo: each number once, in the order in which the numbers were first seen."""
    return Judge(race or Race(), rules or Rules()).judge(candidates).readings


def judge_race(photos: Sequence[Sequence[Candidate]], race: Race, rules: Rules) -> list[Judgement]:
    """Judge the candidates of each photo of a race, in their order."""
    judge = Judge(race, rules)
    return [judge.judge(candidates) for candidates in photos]


class _PhotoCandidates:
    """The candidates of one photo, sorted by the numbers they are."""

    def __init__(self, candidates: Sequence[Candidate], race: Race, rules: Rules) -> None:
        self._candidates = candidates
        self._bibs = [_bib(candidate, race) for candidate in candidates]
        self.rejections = [_unfit(candidate, bib, rules) for candidate, bib in zip(candidates, self._bibs, strict=True)]
        self._rivals: dict[str, str] = {}
        self._confirmed: set[str] = set()
        self._compare_models()  # first: a neighbour seen by the second model has no place, and hides nothing there
        self._fragments: dict[int, str] = {}  # candidates that may be part of a longer number, and of which
        self._reject_fragments()
        self.numbers = list(dict.fromkeys(bib for index, bib in enumerate(self._bibs) if bib and self._counts(index)))
        self._reject_detector()

    def evidence(self, bib: str) -> Evidence:
        """Return all that was seen of a number."""
        seen = [index for index, other in enumerate(self._bibs) if other == bib and self._counts(index)]
        whole = [each for each in seen if each not in self._fragments and not _may_be_cut(self._candidates[each])]
        lead = self._surest(whole or seen)
        placed = [index for index in seen if self._candidates[index].box]
        place = lead if self._candidates[lead].box or not placed else self._surest(placed)
        return Evidence(
            bib=bib,
            lead=self._candidates[lead],
            place=self._candidates[place],
            whole=bool(whole),
            fragment_of=self._fragments.get(lead),
            rival=self._rivals.get(bib),
            confirmed=bib in self._confirmed,
        )

    def _surest(self, indices: Sequence[int]) -> int:
        """Return the most confident one; of equals the most doubtful, so that their order does not matter."""
        return max(indices, key=lambda index: _weight(self._candidates[index]))

    def _counts(self, index: int) -> bool:
        return self.rejections[index] is None and self._candidates[index].look is not Look.DETECTOR

    def _reject_fragments(self) -> None:
        """Reject numbers that are part of a longer one in the same place; note those of unknown place."""
        counting = [(index, bib) for index, bib in enumerate(self._bibs) if bib and self._counts(index)]
        longest_last = sorted(counting, key=lambda item: len(item[1]))
        for longer, bib in longest_last:
            for index, part in counting:
                if part == bib or part not in bib:
                    continue
                one, other = self._candidates[index].box, self._candidates[longer].box
                if one and other and one.is_same_place(other):
                    self.rejections[index] = f"fragment of {bib} seen in the same place"
                elif not (one and other):
                    self._fragments[index] = bib

    def _compare_models(self) -> None:
        """Find where a second model agrees with the first, where it differs, and where it only saw a neighbour."""
        answers: dict[str, list[int]] = {}
        for index, candidate in enumerate(self._candidates):
            if candidate.look is Look.SECOND_MODEL and self._counts(index):
                answers.setdefault(normalized(candidate.about or ""), []).append(index)
        firsts = {
            bib
            for index, bib in enumerate(self._bibs)
            if bib and self._counts(index) and self._candidates[index].look is not Look.SECOND_MODEL
        }
        for first, indices in answers.items():
            same = [index for index in indices if self._bibs[index] == first]
            if same:
                self._confirmed.add(first)
            for index in indices:
                bib = self._bibs[index]
                if same and bib != first:
                    self.rejections[index] = f"read beside {first}, which both models read"
                elif bib != first and bib in firsts:
                    self.rejections[index] = f"read beside {first}, as the number of a neighbour"
                elif bib is not None and bib != first:
                    self._rivals[bib] = first
                    self._rivals[first] = bib

    def _reject_detector(self) -> None:
        """Reject what the detector alone saw: it finds where to look, it does not read."""
        for index, candidate in enumerate(self._candidates):
            alone = candidate.look is Look.DETECTOR and self._bibs[index] not in self.numbers
            if alone and self.rejections[index] is None:
                self.rejections[index] = "seen by the detector, not read by the model"


def _bib(candidate: Candidate, race: Race) -> str | None:
    return next(filter(None, (race.bib(text) for text in (candidate.text, *candidate.alternatives))), None)


def _unfit(candidate: Candidate, bib: str | None, rules: Rules) -> str | None:
    """Return why a candidate cannot be a bib, whatever else was seen; None if it can."""
    if bib is None:
        return "not of this race's form"
    if candidate.source is Source.LINE and not candidate.score >= rules.min_confidence:
        return f"confidence {candidate.score:.3f} is below {rules.min_confidence:g}"
    return None


def _weight(candidate: Candidate) -> tuple[float, bool, float]:
    distance = math.inf if candidate.edge_distance is None else candidate.edge_distance
    return candidate.score, candidate.doubt is not None, -distance


def _may_be_cut(candidate: Candidate) -> bool:
    return candidate.look is Look.TILE and candidate.box is None
