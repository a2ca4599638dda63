"""What a model saw that may be a bib, before anybody judges it, and the looks at a photo that it was seen in."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bibwatch.domain.box import Box

MOST = 200  # candidates kept per image; a page of print has more lines than a finish line has runners


class Look(StrEnum):
    """Which look at a photo saw a candidate."""

    PHOTO = "photo"  # the model, at the whole photo
    CROP = "crop"  # the same model, at a part where a bib seems to be
    WIDE = "wide"  # the same model, at a number with more of what is beside it
    TILE = "tile"  # the same model, at one of the overlapping tiles of a large photo
    DETECTOR = "detector"  # the OCR that finds where a model should look again
    SECOND_MODEL = "second_model"  # another model, asked about what the first was unsure of
    EARLIER_VERSION = "earlier_version"  # carried over from readings made before candidates were kept


class Source(StrEnum):
    """What a candidate was in the model's answer."""

    LINE = "line"  # a line of text that an OCR saw
    JOINED = "joined"  # two lines side by side: letters and digits on one card
    VALUE = "value"  # a value in a reply


@dataclass(frozen=True)
class Glyphs:
    """How a line is printed, and how clearly its ends were read; lengths in pixels of the photo at full size."""

    height: float
    width: float
    angle: float  # of the baseline, in degrees, clockwise
    lowest: float  # score of the least clear character, 0 to 1
    first: float  # score of the first character
    last: float
    edge: float  # distance from the left or right edge of the photo, in heights of the line; negative: beyond it
    margin_left: float | None = None  # even background beside it, in heights of the line, 1 at most
    margin_right: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A line or value that may be part of a bib; the box is in pixels of the upright photo at full size."""

    text: str  # as it was seen
    score: float  # how sure the model was of the text, 0 to 1
    box: Box | None = None
    source: Source = Source.VALUE
    look: Look = Look.PHOTO
    model: str | None = None  # where it was another than the stage's own
    edge_distance: float | None = None  # from the box to the photo's nearest edge, as a share of that side
    alternatives: tuple[str, ...] = ()  # other ways to take the text, best first
    odds: tuple[float, ...] = ()  # of each alternative against the text, where the model gives them
    glyphs: Glyphs | None = None  # of a line
    beside: str | None = None  # the letter or word next to it
    about: str | None = None  # the candidate that a second model was asked about
    doubt: str | None = None  # what speaks against it in the reply itself


@dataclass(frozen=True)
class LookTaken:
    """One look that was taken, at a photo or a part of it: evidence even where it saw nothing."""

    look: Look
    candidates: int  # how many it saw
    box: Box | None = None  # the part looked at, in pixels of the photo; None: all of it
    model: str | None = None  # where it was another than the stage's own
    error: str | None = None


def best(candidates: Iterable[Candidate]) -> tuple[tuple[Candidate, ...], int]:
    """Return the `MOST` candidates with the highest scores, in their order, and how many were left out."""
    found = tuple(candidates)
    if len(found) <= MOST:
        return found, 0
    kept = sorted(range(len(found)), key=lambda index: -found[index].score)[:MOST]
    return tuple(found[index] for index in sorted(kept)), len(found) - MOST


def normalized(text: str) -> str:
    """Return a text as bibs are written: in capitals, without spaces, full-width characters as plain ones."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return "".join(plain.split()).upper()
