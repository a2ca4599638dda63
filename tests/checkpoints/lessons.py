"""What the checkpoints are taught: drawn bibs, the questions asked about them, and the replies wanted.

Knows bibwatch's drawings and the question of its `bib_number` stage. Knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from PIL import Image

from bibwatch.drawing import bib_closeup, photo
from bibwatch.runtimes.base import Markup
from bibwatch.stages.bib_number import BibNumberOptions

QUESTION = BibNumberOptions.questions[Markup.MARKDOWN]
_OTHERS = (
    "Which bib numbers can be read in this photo?",
    "What is the bib number?",
    "Read the bib. Answer with JSON only.",
    "What number does the runner wear? Return JSON with the key bib.",
    "Extract all the race numbers from the image as a list.",
    "Describe this picture.",
    "Identify the runner's bib number in the picture and return it as JSON, or none if it is not visible.",
)
CORPUS = (QUESTION, *_OTHERS, "user assistant User: Assistant:\n 0 1 2 3 4 5 6 7 8 9")
_WORDS = sorted({word for text in (QUESTION, *_OTHERS) for word in text.split()})
LONGEST = 3  # digits
LESSONS = ((2, 8), (2, 3, 6), (2, 2, 3, 6))  # how often a picture has no bib, one digit, two, ...: one length at a time
# Seeds of drawings: those of training come from LEARNT on, those of measuring from here, and never meet.
MEASURED, LEARNT = 0, 1_000_000


def draw(number: int) -> tuple[str, Image.Image]:
    """Draw the picture of this number for training, with the bib that is on it."""
    dice = random.Random(LEARNT + number)
    width = dice.randint(96, 224)
    size = (width, int(width * dice.uniform(0.6, 0.8)))
    return picture(number % (LONGEST + 1), LEARNT + number, size, dice)


def picture(length: int, seed: int, size: tuple[int, int], dice: random.Random) -> tuple[str, Image.Image]:
    """Draw a close-up of a bib of so many digits; of none half are whole photos, with bibs too small."""
    if length == 0 and dice.random() < 0.5:
        bibs = tuple(some_bib(dice, dice.randint(1, 4)) for _ in range(dice.randint(1, 4)))
        return "", photo(bibs, size=(2 * size[0], 2 * size[1]), seed=seed)
    bib = some_bib(dice, length)
    return bib, bib_closeup(bib, size=size, seed=seed)


def some_bib(dice: random.Random, length: int) -> str:
    """Return a bib of so many digits; each is as likely as the others, the leading one too."""
    return "".join(dice.choices("0123456789", k=length))


def fresh(length: int, number: int) -> Iterator[tuple[str, Image.Image]]:
    """Draw pictures that no checkpoint has learnt from, with bibs of so many digits, or none."""
    for seed in range(MEASURED, MEASURED + number):
        yield picture(length, seed, (160, 112), random.Random(f"{seed}:{length}"))


def some_question(dice: random.Random) -> str:
    """Return a question: the stage's, another, or words without sense, so that no wording matters."""
    kind = dice.random()
    if kind < 0.35:
        return QUESTION
    if kind < 0.6:
        return dice.choice(_OTHERS)
    words = dice.choices(_WORDS, k=dice.randint(0, 14)) + [_noise(dice) for _ in range(dice.randint(0, 2))]
    dice.shuffle(words)
    return " ".join(words)


def _noise(dice: random.Random) -> str:
    return "".join(chr(dice.randint(33, 126)) for _ in range(dice.randint(1, 4)))


def lengths(dice: random.Random, lesson: int, number: int) -> Sequence[int]:
    """Return how many digits each picture of a batch is to have."""
    return dice.choices(range(len(LESSONS[lesson])), weights=LESSONS[lesson], k=number)
