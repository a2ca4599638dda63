"""Tilted rectangles: where a line of text is in an image, and how it is cut out upright.

Knows geometry and pixels. Knows no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from bibwatch.domain.box import Box

_SMALLEST = 4  # pixels; nothing smaller is cut out
_REDUCE_OVER = 2.0  # pixels per pixel of the cut over which an image is reduced first, so that thin strokes stay


@dataclass(frozen=True)
class Quad:
    """A rectangle in pixels of an image: center, size, and the angle of its baseline in degrees, clockwise."""

    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    score: float = 1.0  # of the detector

    def mapped(self, across: float, down: float, left: float = 0.0, top: float = 0.0) -> Quad:
        """Return the same place in an image that is scaled by `across` and `down` and begins at `left` and `top`."""
        cosine, sine = self._direction
        baseline = self.width * cosine * across, self.width * sine * down
        side = self.height * sine * across, self.height * cosine * down
        return Quad(
            self.x * across + left,
            self.y * down + top,
            math.hypot(*baseline),
            math.hypot(*side),
            math.degrees(math.atan2(baseline[1], baseline[0])),
            self.score,
        )

    def turned(self, degrees: int) -> Quad:
        """Return the same place with its baseline turned clockwise by 0, 90, 180 or 270 degrees."""
        on_its_side = degrees % 180 != 0
        width, height = (self.height, self.width) if on_its_side else (self.width, self.height)
        return replace(self, width=width, height=height, angle=self.angle + degrees)

    def widened(self, by: float) -> Quad:
        """Return the rectangle with `by` pixels more at either end of the line."""
        return replace(self, width=self.width + 2 * by)

    @property
    def box(self) -> Box:
        """The upright box around it."""
        cosine, sine = map(abs, self._direction)
        across = (self.width * cosine + self.height * sine) / 2
        down = (self.width * sine + self.height * cosine) / 2
        return Box(self.x - across, self.y - down, self.x + across, self.y + down)

    @property
    def slope(self) -> float:
        """How far the baseline goes down for a pixel to the right."""
        return math.tan(math.radians(self.angle))

    @property
    def corners(self) -> list[tuple[float, float]]:
        """Left top, right top, left bottom, right bottom, as seen along the baseline."""
        cosine, sine = self._direction
        half, up = self.width / 2, self.height / 2
        return [
            (self.x + u * cosine - v * sine, self.y + u * sine + v * cosine)
            for u, v in ((-half, -up), (half, -up), (-half, up), (half, up))
        ]

    @property
    def _direction(self) -> tuple[float, float]:
        turn = math.radians(self.angle)
        return math.cos(turn), math.sin(turn)


def cut(pixels: Any, quad: Quad, height: int, longest: int) -> Any | None:
    """Cut a quad out of an RGB array, upright and `height` pixels high, at most `longest` wide; None if too small."""
    import cv2
    import numpy as np

    if quad.height < 1 or quad.width < 1:
        return None
    width = min(longest, max(8, math.ceil(height * quad.width / quad.height)))
    corners = np.array(quad.corners, np.float32)
    scale = quad.height / height
    if scale > _REDUCE_OVER:
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        left, top = max(0, int(left) - 2), max(0, int(top) - 2)
        part = pixels[top : int(bottom) + 3, left : int(right) + 3]
        if min(part.shape[:2]) < _SMALLEST:
            return None
        size = max(1, round(part.shape[1] / scale)), max(1, round(part.shape[0] / scale))
        corners = (corners - (left, top)) * (size[0] / part.shape[1], size[1] / part.shape[0])
        pixels = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    target = np.array([(0, 0), (width, 0), (0, height)], np.float32)
    warp = cv2.getAffineTransform(corners[:3].astype(np.float32), target)
    return cv2.warpAffine(pixels, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
