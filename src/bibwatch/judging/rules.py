"""The rules that speak for or against a number, each small, named, and with its reason in words.

A rule looks at the evidence for one number of one photo and returns a Reason, or None if it has nothing to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from bibwatch.domain.candidates import Candidate, Look
from bibwatch.domain.entries import EntryMatch
from bibwatch.domain.readings import Reason
from bibwatch.judging.places import Number
from bibwatch.judging.race import Race

# Raise when what the rules make of the same candidates changes: stored images are then judged again.
REVISION = 2

_MUCH_SHORTER = 2  # characters


class Rules(BaseModel):
    """Settings of the rules. None of them changes what a model is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_confidence: float = Field(
        default=0.85, ge=0, le=1, description="Minimum confidence of a line of text from a plugin's OCR."
    )
    min_probability: float = Field(
        default=0.5, ge=0, le=1, description="Minimum probability of a reading; less probable numbers stay candidates."
    )
    doubtful: re.Pattern[str] = Field(
        default=re.compile(r"(19|20)\d\d"),
        description="Numbers of this form go to review: they are years on banners, too.",
    )
    edge: float = Field(
        default=0.005,
        ge=0,
        le=0.5,
        description="A bib this close to the photo's edge (as a share of that side) may be cut off: it goes to review.",
    )


@dataclass(frozen=True)
class Evidence:
    """All that was seen of one number in one photo."""

    bib: str
    lead: Candidate  # the one that counts: whole if any is, and then the surest
    place: Candidate  # the same, or where that has no box, the surest that has one
    whole: bool  # whether a look saw it where nothing says that part of it may be missing
    fragment_of: str | None  # a longer number that it may be part of
    rival: str | None  # what another model read in its place
    confirmed: bool  # by another model that was asked about it
    probability: float  # that the whole number is right
    line: Number | None = None  # what lines of text show of it
    longer: bool = False  # whether a text with more digits lies in the same place


# What evidence says in words when it weighs much against a number.
_AGAINST = {
    "form": "not of this race's usual form",
    "score": "not clearly read",
    "first": "its first character is unclear",
    "photo": "not read in the whole photo",
    "looks": "not read by every look",
    "longer": "a longer text was read in the same place",
    "relative_size": "smaller than other numbers in the photo",
    "edge": "near the edge of the photo",
}
_MUCH = 1.0  # log-odds

Rule = Callable[[Evidence, Race, Rules], Reason | None]


def confidence(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what is less probable than the race asks for."""
    del rules
    if evidence.probability >= race.accept_at:
        return None
    return Reason("confidence", f"probability {evidence.probability:.3f} is below {race.accept_at:g}")


def year(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what looks like a year on a banner."""
    del race
    return Reason("year", "may be a year") if rules.doubtful.fullmatch(evidence.bib) else None


def edge(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what the frame may have cut off."""
    del race
    distance = evidence.place.edge_distance
    return Reason("edge", "cut by the frame") if distance is not None and distance <= rules.edge else None


def fragment(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what may be part of a longer number in the same photo."""
    del race, rules
    return Reason("fragment", f"may be part of {evidence.fragment_of}") if evidence.fragment_of else None


def tile(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what was seen in a tile only, without a place in it: the tile's border may have cut it off."""
    del race, rules
    cut = not evidence.whole and evidence.lead.look is Look.TILE
    return Reason("tile", "seen only in a part of the photo that may cut it") if cut else None


def reply(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what the model's own reply speaks against."""
    del race, rules
    return Reason("reply", evidence.lead.doubt) if evidence.lead.doubt else None


def disagreement(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what another model read differently."""
    del race, rules
    return Reason("disagreement", f"another model read {evidence.rival}") if evidence.rival else None


def agreement(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Say that another model read the same."""
    del race, rules
    return Reason("agreement", "two models agree", forbids=False) if evidence.confirmed else None


def usual_form(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Say that the number has the form of the race, once that is known."""
    del rules
    usual = evidence.line is not None and race.has_usual_form(evidence.bib)
    return Reason("form", "of this race's usual form", forbids=False) if usual else None


def looks(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Say how many looks of an OCR read the same."""
    del race, rules
    number = int(evidence.line.evidence.looks) if evidence.line else 0
    return Reason("looks", f"{number} looks agree", forbids=False) if number > 1 else None


def turned(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what was read in a photo that is not upright: which way is up is a guess."""
    del race, rules
    angle = evidence.lead.glyphs.angle if evidence.lead.glyphs else 0.0
    degrees = round(angle / 90) * 90 % 360
    text = "upside down" if degrees == 180 else "on its side"  # noqa: PLR2004
    return Reason("turned", f"the photo is {text}") if degrees else None


def weak_evidence(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Say what weighs most against a number that is not probable enough."""
    del rules
    if evidence.line is None or evidence.probability >= race.accept_at:
        return None
    against = sorted((weight, name) for name, weight in evidence.line.against.items() if name in _AGAINST)
    texts = [_AGAINST[name] for weight, name in against[:3] if weight <= -_MUCH]
    return Reason("evidence", "; ".join(texts), forbids=False) if texts else None


def start_list(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what is not on the start list, and name the entries that it may be; say so of what is on it."""
    del rules
    match = race.match(evidence.bib)
    return Reason("start_list", str(match), forbids=match.kind is not EntryMatch.EXACT) if match else None


def rest(evidence: Evidence, race: Race, rules: Rules) -> Reason | None:
    """Forbid what is on the start list but may be the visible rest of a longer entry.

    That is so where the reading lies at the photo's edge, where a text with more digits was seen in the same place,
    and where every such entry is longer by two characters or more: a short bib among long ones.
    """
    if race.start_list is None or not race.is_entered(evidence.bib):
        return None
    entries = race.start_list.could_be_rest_of(evidence.bib)
    if not entries:
        return None
    distance = evidence.place.edge_distance
    at_edge = distance is not None and distance <= rules.edge
    much_shorter = min(map(len, entries)) >= len(evidence.bib) + _MUCH_SHORTER
    if not (at_edge or evidence.longer or much_shorter):
        return None
    return Reason("rest", f"may be the rest of {entries[0]} on the start list")


ALL: tuple[Rule, ...] = (
    start_list,
    agreement,
    looks,
    usual_form,
    disagreement,
    reply,
    fragment,
    rest,
    tile,
    edge,
    year,
    turned,
    confidence,
    weak_evidence,
)
