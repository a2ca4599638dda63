"""The form of a race's bibs, as its own clear readings show it: which shapes its numbers have, and how often.

A shape is a number with its digits and letters made alike: `A9999` is the shape of `S0041`. Knows numbers and shapes,
no photo. What is learned does not depend on the order in which photos came.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from string import ascii_uppercase, digits

# How often bibs of any race have a shape, and how often clear readings that are wrong do: counted over the public sets
# named in training/README.md.
_RIGHT = {"99": 0.05, "999": 0.2, "9999": 0.35, "99999": 0.2, "A999": 0.03, "A9999": 0.06, "A99999": 0.05}
_WRONG = {"99": 0.4, "999": 0.25, "9999": 0.15, "99999": 0.05, "A999": 0.03, "A9999": 0.03, "A99999": 0.01}
_LEAST_WRONG = 0.01
_PRIOR = 1.5  # how many numbers of its own a race needs to outweigh what is usual
_STEPS = (0, 1, 2, 4, 8, 15, 30, 60)  # numbers seen; between two of these nothing new is learned
_SHARES = 20  # a share is known to a twentieth
_LIMITS = -4.0, 2.5  # log-odds
_BY_CHANCE = 0.1  # share of the numbers of a shape
_A_YEAR = -1.5  # log-odds of what may be a year on a banner or a shirt
_YEAR = re.compile(r"(19|20)\d\d")


def shape(bib: str) -> str:
    """Return a number's shape: `A9999` for `S0041`."""
    return re.sub(r"[A-Z]", "A", re.sub(r"\d", "9", bib))


def usual_shapes(forms: Iterable[re.Pattern[str]]) -> Mapping[str, float]:
    """Return how often bibs have each shape when they match one of the forms; the rest is shared out among these."""
    matching = {each: often for each, often in _RIGHT.items() if any(_matches(form, each) for form in forms)}
    total = sum(matching.values())
    return {each: often / total for each, often in matching.items()} if total else {}


def _matches(form: re.Pattern[str], each: str) -> bool:
    """Return whether some number of a shape matches: those with one digit and one letter throughout are tried."""
    numbers = (each.replace("9", digit).replace("A", letter) for digit in digits for letter in ascii_uppercase)
    return any(map(form.fullmatch, numbers))


@dataclass(frozen=True)
class LearnedForm:
    """How often the numbers of a race have each shape, coarsely: it changes only a few times in a whole race."""

    numbers: int = 0  # different ones seen, rounded down to one of a few steps
    shares: Mapping[str, int] = field(default_factory=dict)  # of each shape, in twentieths

    @classmethod
    def of(cls, bibs: Iterable[str], *, whole: bool = False) -> LearnedForm:
        """Learn from the different numbers that were clearly read; parts of longer ones only if all are `whole`."""
        different = set(bibs)
        parts = set() if whole else _unlikely(part for bib in different for part in _parts(bib))
        shapes = Counter(shape(bib) for bib in different - parts)
        total = sum(shapes.values())
        shares = ((each, round(_SHARES * count / total)) for each, count in sorted(shapes.items()))
        return cls(max(step for step in _STEPS if step <= total), {each: share for each, share in shares if share})

    def log_odds(self, bib: str, usual: Mapping[str, float] = _RIGHT, otherwise: float = 0.003) -> float:
        """Return how much its shape speaks for a number: the logarithm of its odds, -4 to 2.5.

        `usual` is how often bibs have each shape, as far as it is known without the race's own readings; `otherwise`
        stands for a shape that is not there. Single digits are never clear enough to be learned.
        """
        each = shape(bib)
        numbers = 0 if each == "9" else self.numbers
        share = self.shares.get(each, 0) / _SHARES
        right = (share * numbers + _PRIOR * usual.get(each, otherwise)) / (numbers + _PRIOR)
        wrong = _WRONG.get(each, 0.0) + _LEAST_WRONG
        year = _A_YEAR if _YEAR.fullmatch(bib) else 0.0
        return max(_LIMITS[0], min(_LIMITS[1], math.log(right / wrong)) + year)

    def __hash__(self) -> int:
        return hash((self.numbers, tuple(self.shares.items())))


def _unlikely(parts: Iterable[str]) -> set[str]:
    """Leave out parts of a shape of which so many numbers are a part that any may be one by chance."""
    by_shape: dict[str, set[str]] = {}
    for part in parts:
        by_shape.setdefault(shape(part), set()).add(part)
    return {part for each, its in by_shape.items() if len(its) < _BY_CHANCE * _possible(each) for part in its}


def _possible(each: str) -> int:
    """Return how many numbers have a shape."""
    return int(10 ** each.count("9") * 26 ** each.count("A"))


@cache
def _parts(bib: str) -> frozenset[str]:
    """Return what is left of a number when one end of it is hidden."""
    return frozenset(bib[:end] for end in range(2, len(bib))) | {bib[start:] for start in range(1, len(bib) - 1)}
