"""A bib as judged: its number, how probable it is, the verdict, and the reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bibwatch.domain.box import Box
from bibwatch.domain.entries import EntryMatch, Near


class Verdict(StrEnum):
    """What a reading is worth."""

    ACCEPTED = "accepted"  # nothing speaks against it
    REVIEW = "review"  # a person should look


@dataclass(frozen=True)
class Reason:
    """Why a reading is worth what it is: the rule that says so, and what it says in words."""

    rule: str
    text: str
    forbids: bool = True  # acceptance

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Reading:
    """One bib in one photo; the box is in pixels of the upright photo at full size."""

    bib: str
    probability: float  # that the whole number is right, 0 to 1
    verdict: Verdict
    box: Box | None = None
    reasons: tuple[Reason, ...] = ()
    read_as: str = ""  # the text as the model saw it
    model: str | None = None  # the one that decided, where it was another than the stage's own
    entry: str | None = None  # of the start list, as printed: the bib itself or the nearest
    entry_match: EntryMatch | None = None  # None without a start list
    near: tuple[Near, ...] = ()  # entries that it may be, if it is none; the likeliest first

    @property
    def printed(self) -> str:
        """The bib as the start list has it, with its leading zeros; as it was read if it is not on it."""
        return self.entry if self.entry and self.entry_match is EntryMatch.EXACT else self.bib


def summary(readings: Iterable[Reading]) -> str:
    """Write readings on one line for a person, the most probable first."""
    parts = [
        f"{reading.printed} ({reading.probability:.0%}{', review' if reading.verdict is Verdict.REVIEW else ''})"
        for reading in sorted(readings, key=lambda reading: -reading.probability)
    ]
    return ", ".join(parts) or "no bib"
