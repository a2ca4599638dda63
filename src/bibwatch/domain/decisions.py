"""What a person says of a bib in an image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bibwatch.domain.box import Box


class Action(StrEnum):
    """What is decided."""

    ACCEPT = "accept"
    REJECT = "reject"
    CORRECT = "correct"  # to another number
    ADD = "add"  # a number that no model read


@dataclass(frozen=True)
class Decision:
    """One decision; the box is in pixels of the upright photo at full size."""

    bib: str  # as `bib_results` shows it, or the one to add
    action: Action
    by: str
    corrected_to: str | None = None
    box: Box | None = None
    note: str | None = None
