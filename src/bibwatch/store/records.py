"""The records exchanged with the store: sightings, claims, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from bibwatch.domain.candidates import Candidate, LookTaken
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.judging import Judgement


class Priority(IntEnum):
    """The order in which ready files are read."""

    FRESH = 0
    QUARANTINED = 1  # bibwatch died while reading it, or the model failed on it: read alone, after the others
    AGAIN = 2  # read before, with other options


class Sighting(NamedTuple):
    """A file as seen in its folder, and its state."""

    path: str
    stat: Stat
    state: State
    error: str | None = None


class Claim(NamedTuple):
    """A file claimed for reading."""

    id: int
    camera: str
    path: str
    stat: Stat
    priority: Priority
    attempts: int  # this one included
    first_seen_at: str


@dataclass(frozen=True)
class Result:
    """A recogniser's result for one image, to be recorded."""

    model: str
    device: str
    seconds: float
    output: dict[str, Any] | None = None  # of a stage that reads no bibs
    candidates: tuple[Candidate, ...] = ()
    looks: tuple[LookTaken, ...] = ()
    cut: int = 0  # candidates left out because there were too many
    clear_numbers: frozenset[str] = frozenset()  # those that show the form of the race
    judgement: Judgement | None = None
    judged_by: str | None = None  # the judge's fingerprint


@dataclass(frozen=True)
class Finished:
    """The outcome of one claim: a photo and a result (None if it already has one), or a state and an error."""

    claim: Claim
    photo: Photo | None = None
    result: Result | None = None
    state: State = State.DONE
    error: str | None = None
