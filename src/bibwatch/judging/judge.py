"""From the candidates of one photo to its readings."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Look, Source, normalized
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.judging import model
from bibwatch.judging import rules as all_rules
from bibwatch.judging.lines import hypotheses
from bibwatch.judging.places import Number, numbers
from bibwatch.judging.race import Race
from bibwatch.judging.rules import Evidence, Rules

_LEAST_GUESS = 0.03  # probability
_ANY_RACE = Race(forms=(re.compile(r"[A-Z]{0,3}\d{2,8}[A-Z]?"),))


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
        learned = (self.race.learned.numbers, sorted(self.race.learned.shares.items()))
        entered = (self.race.start_list.fingerprint,) if self.race.start_list is not None else ()
        rules = self.rules.model_dump_json()
        text = repr((all_rules.REVISION, model.shipped(), forms, self.race.accept_at, learned, rules, *entered))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def judge(self, candidates: Sequence[Candidate]) -> Judgement:
        """Judge the candidates of one photo. The result depends on nothing else."""
        photo = _PhotoCandidates(candidates, self.race, self.rules)
        readings = (self._reading(photo.evidence(bib)) for bib in photo.numbers)
        return Judgement(_once(readings), tuple(photo.rejections))

    def _reading(self, evidence: Evidence) -> Reading:
        found = [rule(evidence, self.race, self.rules) for rule in all_rules.ALL]
        reasons = tuple(reason for reason in found if reason)
        forbidden = any(reason.forbids for reason in reasons)
        match = self.race.match(evidence.bib)
        return Reading(
            bib=evidence.bib,
            probability=evidence.probability,
            verdict=Verdict.REVIEW if forbidden else Verdict.ACCEPTED,
            box=evidence.place.box,
            reasons=reasons,
            read_as=evidence.lead.text,
            model=evidence.lead.model,
            entry=match.entry if match else None,
            entry_match=match.kind if match else None,
            near=match.near if match else (),
        )


def judge(candidates: Sequence[Candidate], race: Race | None = None, rules: Rules | None = None) -> tuple[Reading, ...]:
    """Return the readings of one photo: each number once, in the order in which the numbers were first seen."""
    return Judge(race or Race(), rules or Rules()).judge(candidates).readings


def clear_numbers(candidates: Sequence[Candidate]) -> frozenset[str]:
    """Return the numbers of a photo that are clear enough to show the form of a race, whichever race it is."""
    found = hypotheses(candidates, [_ANY_RACE.bibs(each) for each in candidates])
    return frozenset(each.bib for each in found if each.evidence.is_clear)


def judge_race(photos: Sequence[Sequence[Candidate]], race: Race, rules: Rules) -> list[Judgement]:
    """Judge the photos of one race, whose form is learned from all of them first; a judgement per photo, in order."""
    clear = {bib for candidates in photos for bib in clear_numbers(candidates)}
    judge = Judge(race.learning(clear), rules)
    return [judge.judge(candidates) for candidates in photos]


class _PhotoCandidates:
    """The candidates of one photo, sorted by the numbers they are."""

    def __init__(self, candidates: Sequence[Candidate], race: Race, rules: Rules) -> None:
        self._candidates = candidates
        texts = [race.bibs(candidate) for candidate in candidates]
        self._bibs = [each[0][0] if each else None for each in texts]
        self.rejections = [_unfit(candidate, bib, rules) for candidate, bib in zip(candidates, self._bibs, strict=True)]
        self._lines: dict[str, Number] = {}  # what lines of text show, by number
        self._compare_lines(texts, race, rules)
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
        line = self._lines.get(bib)
        if line is None:
            shown = [self._candidates[lead].score]
        else:  # what another model says counts beside it
            shown = [line.probability, *(self._candidates[each].score for each in seen if each not in line.candidates)]
        return Evidence(
            bib=bib,
            probability=min(1.0, max(0.0, *shown)),
            line=line,
            lead=self._candidates[lead],
            place=self._candidates[place],
            whole=bool(whole),
            fragment_of=self._fragments.get(lead),
            rival=self._rivals.get(bib),
            confirmed=bib in self._confirmed,
            longer=self._has_longer(bib, self._candidates[place].box),
        )

    def _compare_lines(self, texts: Sequence[Sequence[tuple[str, float]]], race: Race, rules: Rules) -> None:
        """Choose the most probable number at each place where there are lines of text, and reject the others."""
        found = numbers(self._candidates, texts, race)
        kept = [each for each in found if each.probability >= rules.min_probability] or _best_guess(found, race)
        for number in found:
            for index in number.others:
                self.rejections[index] = f"less probable than {number.bib}, read in the same place"
            for index in number.candidates:
                self._bibs[index] = number.bib
                if number not in kept:
                    self.rejections[index] = f"probability {number.probability:.3f} is below {rules.min_probability:g}"
            known = self._lines.get(number.bib)
            if known is None or known.probability < number.probability:
                self._lines[number.bib] = number

    def _has_longer(self, bib: str, box: Box | None) -> bool:
        """Return whether a text with more digits than a number lies in the same place, whatever became of it."""
        longer = (each for each in self._candidates if _digits(each.text) > _digits(bib))
        return any(box and each.box and box.is_same_place(each.box) for each in longer)

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


def _best_guess(found: Sequence[Number], race: Race) -> list[Number]:
    """Return the most probable number of the race's usual form, for review in a photo with nothing better."""
    usual = [each for each in found if each.probability >= _LEAST_GUESS and race.has_usual_form(each.bib)]
    return [max(usual, key=lambda each: (each.probability, each.bib))] if usual else []


def _once(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """Return the surest of the readings that are the same entry of the start list: 42 and 0042."""
    found: dict[str, Reading] = {}
    for reading in readings:
        other = found.get(reading.printed)
        if other is None or _worth(reading) > _worth(other):
            found[reading.printed] = reading
    return tuple(found.values())


def _worth(reading: Reading) -> tuple[bool, float, int, str]:
    return reading.verdict is Verdict.ACCEPTED, reading.probability, len(reading.bib), reading.bib


def _digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _unfit(candidate: Candidate, bib: str | None, rules: Rules) -> str | None:
    """Return why a candidate cannot be a bib, whatever else was seen; None if it can."""
    if bib is None:
        return "not of this race's form"
    if candidate.source is Source.LINE and not candidate.glyphs and not candidate.score >= rules.min_confidence:
        return f"confidence {candidate.score:.3f} is below {rules.min_confidence:g}"
    return None


def _weight(candidate: Candidate) -> tuple[float, bool, float]:
    distance = math.inf if candidate.edge_distance is None else candidate.edge_distance
    return candidate.score, candidate.doubt is not None, -distance


def _may_be_cut(candidate: Candidate) -> bool:
    return candidate.look is Look.TILE and candidate.box is None
