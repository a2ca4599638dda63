"""What lines of text say about the numbers in a photo: for each number that a line may be, the evidence.

An OCR reads the same place several times. Lines that overlap are about one place; each text read there is a
hypothesis, with the evidence for and against it as named numbers. Knows candidates; does not weigh the evidence.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Glyphs, Look, normalized

_SAME_PLACE = 0.5  # share of the smaller box
_SIMILAR = 2.5  # heights of lines at one place differ by less
_CLEAR = 0.8  # score of a line that is used to judge others by
_AS_READ = 0.9  # odds from which an alternative is only another way to write the text
# What a number must show to count for the form of its race.
_CLEARLY_READ, _FAINT = 0.93, 0.6
_LOOKS = 2
_EDGE, _MARGIN, _SIZE = 0.3, 0.05, 0.3
_CERTAIN = 0.9995  # scores above differ by the engine's rounding, not by what is seen
_LONGEST_WORD_OF_A_BIB = 2
_OWN = frozenset({Look.PHOTO, Look.CROP, Look.WIDE})  # looks of the stage's own model
_YEAR = re.compile(r"(19|20)\d\d")


@dataclass(frozen=True)
class LineEvidence:
    """The evidence for one number at one place. Scores are 0 where there is none."""

    score: float  # the best of the lines that read it
    first: float  # score of the first character, in the line where it is clearest
    photo: float  # the best score at the first look
    crop: float  # at parts cut from the photo
    wide: float  # with more of the surroundings
    agreed: float  # the lowest of these three
    looks: float  # how many kinds of look read it
    longer: float  # the best score of a text there that contains it and is longer
    rival: float  # of another number there
    unread: float  # 1: no line reads it, it is a less probable way to read one
    relative_size: float  # square root of its area, against that of the largest clear number of the photo
    edge: float  # distance from the left or right edge of the photo, in heights
    margin: float  # even background at the end that has less of it, in heights, 1 at most
    word_beside: float  # 1: a word stands beside it
    year: float  # 1: it may be a year

    @property
    def is_clear(self) -> bool:
        """Whether the number is clear enough to learn the form of a race from. Presumes no form."""
        return (
            self.score > _CLEARLY_READ
            and self.looks >= _LOOKS
            and self.longer < _FAINT
            and self.rival < _CLEARLY_READ
            and self.edge > _EDGE
            and self.margin >= _MARGIN
            and self.relative_size >= _SIZE
            and not (self.year or self.word_beside or self.unread)
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the evidence, in order."""
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True)
class Hypothesis:
    """A number that may be at a place, and the candidates that read it, by index, the best first."""

    bib: str
    place: int
    candidates: tuple[int, ...]
    evidence: LineEvidence


@dataclass(frozen=True)
class _Line:
    index: int
    candidate: Candidate
    glyphs: Glyphs
    box: Box
    texts: tuple[tuple[str, float], ...]  # the bibs it may be, with their odds

    @property
    def bib(self) -> str | None:
        """The bib it is as read."""
        return self.texts[0][0] if self.texts and self.texts[0][1] >= _AS_READ else None

    @property
    def text(self) -> str:
        return self.bib or normalized(self.candidate.text)


def hypotheses(candidates: Sequence[Candidate], bibs: Sequence[Sequence[tuple[str, float]]]) -> Iterator[Hypothesis]:
    """Yield the numbers that lines with `glyphs` may be.

    `bibs` are the bibs that each candidate may be by the form of the race, with their odds, the text as read first.
    """
    lines = [
        _Line(index, candidate, candidate.glyphs, candidate.box, tuple(bibs[index]))
        for index, candidate in enumerate(candidates)
        if candidate.glyphs and candidate.box and candidate.look in _OWN and any(map(str.isdigit, candidate.text))
    ]
    clear = [line for line in lines if line.bib and line.candidate.score > _CLEAR]
    largest = max((math.sqrt(line.glyphs.height * line.glyphs.width) for line in clear), default=0.0)
    for number, place in enumerate(_places(lines)):
        readers: dict[str, list[tuple[float, _Line]]] = defaultdict(list)
        for line in place:
            for bib, odds in line.texts:
                readers[bib].append((odds, line))
        for bib, read_by in readers.items():
            ranked = sorted(read_by, key=lambda each: (-each[0] * each[1].candidate.score, each[1].index))
            evidence = _evidence(bib, ranked, place, largest)
            yield Hypothesis(bib, number, tuple(line.index for _, line in ranked), evidence)


def _places(lines: Sequence[_Line]) -> list[list[_Line]]:
    """Group lines that overlap, the largest first; lines of very different height are not about one number."""
    places: list[list[_Line]] = []
    for line in sorted(lines, key=lambda line: (-line.glyphs.width * line.glyphs.height, line.index)):
        for place in places:
            if any(_is_same_place(line, other) for other in place):
                place.append(line)
                break
        else:
            places.append([line])
    return places


def _is_same_place(one: _Line, other: _Line) -> bool:
    ratio = one.glyphs.height / other.glyphs.height
    return 1 / _SIMILAR < ratio < _SIMILAR and one.box.overlap(other.box) > _SAME_PLACE


def _evidence(bib: str, ranked: Sequence[tuple[float, _Line]], place: Sequence[_Line], largest: float) -> LineEvidence:
    odds, lead = ranked[0]
    exact = [line for each, line in ranked if each >= _AS_READ]
    others = [(line.text, line.candidate.score) for line in place if line.text != bib]
    margins = [
        (line.glyphs.margin_left, line.glyphs.margin_right)
        for _, line in ranked
        if line.candidate.look is not Look.WIDE
    ]
    beside = lead.candidate.beside or ""
    glyphs = lead.glyphs
    photo, crop, wide = (_best(exact, look) for look in (Look.PHOTO, Look.CROP, Look.WIDE))
    return LineEvidence(
        score=_highest(line.candidate.score for line in exact) if exact else odds * lead.candidate.score / 2,
        first=_highest(line.glyphs.first for line in exact),
        photo=photo,
        crop=crop,
        wide=wide,
        agreed=min(photo, crop, wide),
        looks=float(len({line.candidate.look for line in exact})),
        longer=max((score for text, score in others if bib in text), default=0.0),
        rival=max((score for text, score in others if text not in bib and bib not in text), default=0.0),
        unread=0.0 if exact else 1.0,
        relative_size=min(1.0, math.sqrt(glyphs.height * glyphs.width) / largest) if largest else 1.0,
        edge=glyphs.edge,
        margin=min(max((each[end] or 0.0 for each in margins), default=0.0) for end in (0, 1)),
        word_beside=float(sum(map(str.isalpha, beside)) > _LONGEST_WORD_OF_A_BIB),
        year=float(bool(_YEAR.fullmatch(bib))),
    )


def _best(lines: Sequence[_Line], look: Look) -> float:
    return _highest(line.candidate.score for line in lines if line.candidate.look is look)


def _highest(scores: Iterable[float]) -> float:
    return min(_CERTAIN, max(scores, default=0.0))
