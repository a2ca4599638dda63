"""Reads an image in three looks: all of it, the parts where a number may be, and numbers with what is beside them.

The first look is coarse and fast. What may be a number is then cut from the full-size image, enlarged or reduced so
that its digits have the size the models were trained on, and detected and read again; last, each number is read with
more of its surroundings, which shows whether it goes on. Knows lines of text; does not know which are bibs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Look
from bibwatch.runtimes.ocr import quads
from bibwatch.runtimes.ocr.detection import detect
from bibwatch.runtimes.ocr.engines import Network
from bibwatch.runtimes.ocr.quads import Quad
from bibwatch.runtimes.ocr.recognition import HEIGHT, LONGEST, Recogniser, Text

_FAINT, _CLEAR = 0.05, 0.3  # thresholds of the probability map at the first look, and at parts
_LINE = 1.3  # a quad's height per height of its digits
_DIGITS = 40  # pixels; the height of digits in a part
_BESIDE, _ABOVE = 1.0, 0.6  # how much around a line belongs to its part, in heights of its digits
_LARGEST_PART, _ENLARGE = 640, 4.0
_LEAST_HEIGHT = 6  # pixels of a line at full size; smaller ones cannot be read
_UNCLEAR = 0.6  # a line read with less may say anything
_LONGEST = 10  # characters of a line that is looked at again for its digits
_LONE = 2  # characters of a text that may be the letters beside a number
_SAME_PART, _MUCH_SMALLER = 0.6, 1.8  # a part that lies in another is not looked at again, unless its digits are small
_WIDER = 0.6  # heights of a line that are added at either end for the last look
_SAMPLE = 6  # lines that show whether a photo is turned
_LEGIBLE, _MUCH_BETTER = 0.85, 1.1  # mean score of lines that are read the right way up, and against another way
_SIDE = 24  # pixels; the height at which margins are measured
_TOLERANCE = 45.0  # of 255; colours that differ less are one background


@dataclass(frozen=True)
class Line:
    """A line of text as one look saw it; the quad is in pixels of the full-size image."""

    text: Text
    quad: Quad
    look: Look
    margins: tuple[float, float] | None = None  # even background left and right of it, in heights, 1 at most


class Reader:
    """The two networks."""

    def __init__(self, detector: Network, recogniser: Network) -> None:
        self._detector = detector
        self._recogniser = Recogniser(recogniser)

    def read(self, pixels: Any, size: tuple[int, int]) -> list[Line]:
        """Read an RGB array; the first look is taken at the given size."""
        found = detect(self._detector, pixels, size, _FAINT)
        lines = self._lines(pixels, found, Look.PHOTO)
        if turn := self._turn(pixels, lines, found):
            found = [quad.turned(turn) for quad in found]
            lines = self._lines(pixels, found, Look.PHOTO)
        unlikely = {id(line.quad) for line in lines if not _may_be_number(line.text)}
        wanted = [quad for quad in found if quad.height >= _LEAST_HEIGHT and id(quad) not in unlikely]
        near = [quad for part, height in _parts(wanted, pixels.shape) for quad in self._detect(pixels, part, height)]
        crops = self._lines(pixels, [quad.turned(turn) for quad in near], Look.CROP)
        numbers = [
            line.quad.widened(_WIDER * line.quad.height)
            for line in crops
            if _has_digit(line.text.text) and len(line.text.text) <= _LONGEST
        ]
        return [*lines, *crops, *self._lines(pixels, numbers, Look.WIDE)]

    def _turn(self, pixels: Any, lines: Sequence[Line], found: Sequence[Quad]) -> int:
        """Return by how many degrees a photo is turned: 0, unless its longest lines read much better another way."""
        longest = sorted(found, key=lambda quad: -max(quad.width, quad.height))[:_SAMPLE]
        chosen = {id(quad) for quad in longest}
        upright = _legibility([line for line in lines if id(line.quad) in chosen], len(longest))
        sideways = sum(quad.height > quad.width for quad in longest) > len(longest) / 2
        if not sideways and upright > _LEGIBLE:
            return 0
        turns = {
            turn: _legibility(self._lines(pixels, [quad.turned(turn) for quad in longest], Look.PHOTO), len(longest))
            for turn in ((90, 270) if sideways else (180,))
        }
        best = max(turns, key=lambda turn: turns[turn])
        return best if turns[best] > max(_LEGIBLE, _MUCH_BETTER * upright) else 0

    def _detect(self, pixels: Any, part: Box, height: float) -> list[Quad]:
        """Find the lines in a part of an image whose digits are about so high."""
        left, top, right, bottom = int(part.x1), int(part.y1), round(part.x2) + 1, round(part.y2) + 1
        crop = pixels[top:bottom, left:right]
        factor = min(_DIGITS / height, _ENLARGE, _LARGEST_PART / max(crop.shape[:2]))
        size = max(64, round(crop.shape[1] * factor)), max(64, round(crop.shape[0] * factor))
        return [quad.mapped(1, 1, left, top) for quad in detect(self._detector, crop, size, _CLEAR)]

    def _lines(self, pixels: Any, found: Sequence[Quad], look: Look) -> list[Line]:
        cuts = [(quad, quads.cut(pixels, quad, HEIGHT, LONGEST)) for quad in found]
        whole = [(quad, image) for quad, image in cuts if image is not None]
        texts = self._recogniser.read([image for _, image in whole])
        return [
            Line(text, quad, look, _margins(pixels, quad) if _has_digit(text.text) else None)
            for (quad, _), text in zip(whole, texts, strict=True)
            if text.text.strip()
        ]


def _parts(found: Sequence[Quad], shape: Sequence[int]) -> list[tuple[Box, float]]:
    """Return the parts of an image to look at again, with the height of the digits in each; largest first."""
    parts: list[tuple[Box, float]] = []
    for quad in sorted(found, key=lambda quad: -quad.width * quad.height):
        box, height = quad.box, quad.height / _LINE
        part = Box(
            max(0.0, box.x1 - _BESIDE * height),
            max(0.0, box.y1 - _ABOVE * height),
            min(float(shape[1]), box.x2 + _BESIDE * height),
            min(float(shape[0]), box.y2 + _ABOVE * height),
        )
        seen = any(part.overlap(other) > _SAME_PART and large < _MUCH_SMALLER * height for other, large in parts)
        if not seen and min(part.x2 - part.x1, part.y2 - part.y1) >= _LEAST_HEIGHT:
            parts.append((part, height))
    return parts


def _legibility(lines: Sequence[Line], number: int) -> float:
    """Return the mean score of so many lines; those of one character say nothing, those of none count as 0."""
    scores = [line.text.score for line in lines if len(line.text.text) > 1]
    return sum(scores) / max(len(scores), number / 2) if scores else 0.0


def _may_be_number(text: Text) -> bool:
    signs = sum(map(str.isalnum, text.text))
    return (_has_digit(text.text) and signs <= _LONGEST) or signs <= _LONE or text.score < _UNCLEAR


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


def _margins(pixels: Any, quad: Quad) -> tuple[float, float] | None:
    """Measure how far the background of a line goes on at either end, in heights of the line, 1 at most.

    A number that an arm or the edge of its card cuts off has none at that end.
    """
    import numpy as np

    image = quads.cut(pixels, quad.widened(quad.height), _SIDE, LONGEST)
    if image is None:
        return None
    side = round(image.shape[1] * quad.height / (quad.width + 2 * quad.height))
    colours = image.astype(np.float32)
    line = colours[:, side : image.shape[1] - side]
    if not side or not line.shape[1]:
        return None
    above_and_below = np.concatenate([line[1:4].reshape(-1, 3), line[-4:-1].reshape(-1, 3)])
    background = np.median(above_and_below, axis=0)
    spread = 2 * float(np.abs(above_and_below - background).mean())
    even = (np.abs(colours - background).max(axis=2) < max(_TOLERANCE, spread + 15)).mean(axis=0) >= 0.5  # noqa: PLR2004
    left, right = even[:side][::-1], even[image.shape[1] - side :]
    return _run(left) / side, _run(right) / side


def _run(even: Any) -> int:
    """Return how many there are before the first that is not."""
    return int(even.argmin()) if not even.all() else len(even)
