"""The small checkpoints that really read: where they are, and pictures of the kind they were taught on."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bibwatch import drawing
from bibwatch.domain.readings import Reading
from bibwatch.judging import Race, judge
from bibwatch.judging.race import form
from bibwatch.stages.base import Outcome

SMOLVLM = Path(__file__).parents[1] / "checkpoints" / "smolvlm"
QWEN2VL = SMOLVLM.with_name("qwen2vl")
BOTH = [SMOLVLM, QWEN2VL]

# Four digits were not taught: what is said of these is wrong, mostly doubtful, and shows where engines differ.
UNTAUGHT = [f"{1000 + 373 * place}" for place in range(24)]

FORM = r"\d{1,3}"  # of the bibs they were taught

# Training draws from seed 1,000,000 on.
_FRESH = 500_000


def bibs(number: int) -> list[str]:
    """Return so many bibs of one to three digits, leading zeros among them."""
    return [
        f"{(7 * place * place + 31 * place) % 10**digits:0{digits}}"
        for place in range(number)
        for digits in [1 + place % 3]
    ]


def pictures(numbers: list[str]) -> list[Image.Image]:
    """Draw a close-up of each bib."""
    return [drawing.bib_closeup(bib, seed=_FRESH + place) for place, bib in enumerate(numbers)]


def readings(outcome: Outcome, bibs: str = FORM) -> tuple[Reading, ...]:
    """Return the bibs that an outcome has, at a race that has bibs of this form."""
    return judge(outcome.candidates, Race(forms=(form(bibs),)))


def reply(bib: str) -> str:
    """Return what the checkpoints were taught to say of a bib."""
    return f'{{"bibs":[{{"number":"{bib}"}}]}}'
