"""How a number that was read compares with the start list: the words for it. The comparison itself is judging's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EntryMatch(StrEnum):
    """Whether a number is on the start list."""

    EXACT = "exact"  # leading zeros aside
    NEAR = "near"  # it is not, but differs from an entry by what a reader gets wrong
    UNKNOWN = "unknown"


class Difference(StrEnum):
    """What a reader may have got wrong, the likeliest first."""

    LEADING_ZEROS = "leading_zeros"  # 042, where both 42 and 0042 are on the list
    LOST_PREFIX = "lost_prefix"  # 80437 for D80437, or 81198 for H1198: the letter is lost or read as a digit
    CONFUSION = "confusion"  # two characters that look alike: 1 and 7, B and 8
    HIDDEN_END = "hidden_end"  # 234 for 1234: something covers its beginning or its end
    TRANSPOSITION = "transposition"  # 1324 for 1234
    EXTRA_PREFIX = "extra_prefix"  # B1234 for 1234: a letter beside the number
    SUBSTITUTION = "substitution"  # one other character


@dataclass(frozen=True)
class Near:
    """An entry that a number differs from, and how."""

    entry: str  # as printed on the list
    difference: Difference
    detail: str = ""  # the two characters of a confusion or substitution, such as 6/8; how many are hidden

    def __str__(self) -> str:
        words = {
            Difference.LEADING_ZEROS: "leading zeros",
            Difference.LOST_PREFIX: "prefix lost",
            Difference.HIDDEN_END: f"{self.detail} hidden",
            Difference.TRANSPOSITION: "two characters swapped",
            Difference.EXTRA_PREFIX: "a letter more",
        }
        return f"{self.entry} ({words.get(self.difference, self.detail)})"
