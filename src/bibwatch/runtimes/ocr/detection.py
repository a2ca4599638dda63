"""Text detection: an image to the places where there may be text (PP-OCRv6's DB detector).

Knows the detector's input and its probability map. Does not know what the text says.
"""

from __future__ import annotations

import math
from typing import Any

from bibwatch.runtimes.ocr.engines import Network
from bibwatch.runtimes.ocr.quads import Quad

_STEP = 32  # the sides of the input are multiples of this
_UNCLIP = 1.6  # the map shows the core of a line; PaddleOCR grows it by this share of area over perimeter
_LEAST = 2  # pixels of the map
_DIAGONAL = 45  # degrees


def detect(network: Network, pixels: Any, size: tuple[int, int], threshold: float) -> list[Quad]:
    """Return where text may be in an RGB array, searched at about the given size; quads in pixels of the array.

    `threshold` cuts the probability map: a low one finds faint text and runs neighbouring lines together.
    """
    import cv2
    import numpy as np

    height, width = pixels.shape[:2]
    across, down = (max(_STEP, round(side / _STEP) * _STEP) for side in size)
    shrinks = across < width
    image = cv2.resize(pixels, (across, down), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    array = np.ascontiguousarray((image[:, :, ::-1].astype(np.float32) * (2 / 255) - 1).transpose(2, 0, 1)[None])
    found = _quads(np.asarray(network.run(array))[0, 0], threshold)
    return [quad.mapped(width / across, height / down) for quad in found]


def _quads(probability: Any, threshold: float) -> list[Quad]:
    import cv2
    import numpy as np

    outlines, _ = cv2.findContours(
        (probability > threshold).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    quads = []
    for outline in outlines:
        (x, y), (width, height), angle = cv2.minAreaRect(outline)
        if min(width, height) < _LEAST:
            continue
        left, top, across, down = cv2.boundingRect(outline)
        mask = np.zeros((down, across), np.uint8)
        cv2.fillPoly(mask, [outline - [left, top]], 1)
        score = cv2.mean(probability[top : top + down, left : left + across], mask)[0]
        grown = width * height * _UNCLIP / (width + height)
        if abs(angle) > _DIAGONAL:  # minAreaRect does not know which side is the baseline
            width, height, angle = height, width, angle - math.copysign(90, angle)
        quads.append(Quad(float(x), float(y), width + grown, height + grown, angle, score))
    return quads
