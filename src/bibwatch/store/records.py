"""What passes between the store and its users: sightings in, claims out, and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.stages.base import Outcome, StageOptions


class Priority(IntEnum):
    """Which ready files are read first."""

    FRESH = 0
    QUARANTINED = 1  # it was being read when bibwatch died, or the model failed on it: read alone, after the others
    AGAIN = 2  # read before, with other options


class Sighting(NamedTuple):
    """A file as seen in its folder, and the state it is in."""

    path: str
    stat: Stat
    state: State
    error: str | None = None


class Claim(NamedTuple):
    """A file taken for reading."""

    id: int
    camera: str
    path: str
    stat: Stat
    priority: Priority
    attempts: int  # this one included
    first_seen_at: str


class Reader(NamedTuple):
    """Who reads: a stage with a preset and the hash of all its options. One result per image and reader."""

    stage: str
    preset: str
    options_hash: str

    @classmethod
    def of(cls, stage: str, options: StageOptions) -> Reader:
        """Describe the stage called `stage` with these options."""
        return cls(stage, options.model_options.name, options.fingerprint())


@dataclass(frozen=True)
class Finished:
    """What came of one claim: a photo and an outcome (None: it has a result already), or a state and an error."""

    claim: Claim
    photo: Photo | None = None
    outcome: Outcome | None = None
    model: str = ""
    state: State = State.DONE
    error: str | None = None
