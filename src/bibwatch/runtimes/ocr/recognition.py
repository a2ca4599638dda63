"""Text recognition: the image of a line to its text (PP-OCRv6's CTC recogniser).

Knows the recogniser's input and how its output is decoded. Does not know where the line was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from bibwatch.runtimes.ocr.engines import Network

HEIGHT = 48  # pixels of the recogniser's input
LONGEST = 960  # pixels; a longer line is squeezed
_STEP = 32  # widths are rounded up to this: an engine prepares itself for each width anew
_BIB_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_CHARACTERS = 8  # of a line that may be a bib; longer ones get no alternatives
_MOST_ALTERNATIVES = 4
_LEAST_PROBABILITY = 0.01  # of a character that might stand in another's place
_MAY_BE_NONE = 0.9  # a character less probable than this may be no character at all


class Text(NamedTuple):
    """A line as read: the probability of each character, and other readings with their odds against this one."""

    text: str
    scores: tuple[float, ...]
    alternatives: tuple[tuple[str, float], ...] = ()

    @property
    def score(self) -> float:
        """The mean probability of the characters."""
        return sum(self.scores) / len(self.scores) if self.scores else 0.0


class Recogniser:
    """The network with its alphabet."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._characters = ["", *network.characters.splitlines(), " "]
        self._of_bibs = [self._characters.index(each) for each in _BIB_CHARACTERS]

    def read(self, lines: Sequence[Any]) -> list[Text]:
        """Read images of lines, RGB arrays of `HEIGHT` pixels, each at its own width."""
        return [self._decode(self._network.run(_input(line))[0]) for line in lines]

    def _decode(self, frames: Any) -> Text:
        """Decode an array of shape (frames, characters): equal neighbours are one character, the first is none."""
        import numpy as np

        best = frames.argmax(axis=1)
        kept = np.flatnonzero((best != 0) & np.r_[True, best[1:] != best[:-1]])
        text = "".join(self._characters[each] for each in best[kept])
        scores = tuple(float(frames[frame, best[frame]]) for frame in kept)
        return Text(text, scores, self._alternatives(text, scores, frames[kept]))

    def _alternatives(self, text: str, scores: Sequence[float], frames: Any) -> tuple[tuple[str, float], ...]:
        """Return what a number may be if one character of it is another, or none."""
        if len(text) != len(scores) or len(text) > _MOST_CHARACTERS or not any(map(str.isdigit, text)):
            return ()
        found: list[tuple[float, str]] = []
        for at, (score, frame) in enumerate(zip(scores, frames, strict=True)):
            others = frame[self._of_bibs]
            for index in others.argsort()[-3:]:
                character = _BIB_CHARACTERS[index]
                if character != text[at] and others[index] >= _LEAST_PROBABILITY:
                    found.append((float(others[index]) / score, text[:at] + character + text[at + 1 :]))
            if score < _MAY_BE_NONE and len(text) > 1 and frame[0] >= _LEAST_PROBABILITY:
                found.append((float(frame[0]) / score, text[:at] + text[at + 1 :]))
        found.sort(key=lambda each: (-each[0], each[1]))
        return tuple((text, min(1.0, odds)) for odds, text in found[:_MOST_ALTERNATIVES])


def _input(line: Any) -> Any:
    import numpy as np

    width = max(2, -(-line.shape[1] // _STEP)) * _STEP
    array = np.zeros((1, 3, HEIGHT, width), np.float32)
    array[0, :, :, : line.shape[1]] = (line[:, :, ::-1].astype(np.float32) * (2 / 255) - 1).transpose(2, 0, 1)
    return array
