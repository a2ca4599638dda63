"""A rectangle in a picture, and how two of them relate."""

from __future__ import annotations

from dataclasses import dataclass

_SAME_PLACE = 0.3  # share of the smaller of two boxes that must overlap for both to be about one bib


@dataclass(frozen=True)
class Box:
    """A box in pixels of the picture it belongs to: left, top, right, bottom."""

    x1: float
    y1: float
    x2: float
    y2: float

    def scaled(self, factor: float) -> Box:
        """Return the same box in a picture `factor` times as large."""
        return Box(self.x1 * factor, self.y1 * factor, self.x2 * factor, self.y2 * factor)

    def moved(self, x: float, y: float) -> Box:
        """Return the same box in a picture whose origin lies `x` pixels further left and `y` further up."""
        return Box(self.x1 + x, self.y1 + y, self.x2 + x, self.y2 + y)

    def union(self, other: Box) -> Box:
        """Return the smallest box around both."""
        return Box(min(self.x1, other.x1), min(self.y1, other.y1), max(self.x2, other.x2), max(self.y2, other.y2))

    def overlap(self, other: Box) -> float:
        """Return the area shared with another box, as a share of the smaller of the two (0 to 1)."""
        across = min(self.x2, other.x2) - max(self.x1, other.x1)
        down = min(self.y2, other.y2) - max(self.y1, other.y1)
        smaller = min(self.area, other.area)
        return across * down / smaller if across > 0 and down > 0 and smaller > 0 else 0.0

    def is_same_place(self, other: Box) -> bool:
        """Return whether two boxes are about the same bib."""
        return self.overlap(other) >= _SAME_PLACE

    def distance_to_edge(self, width: float, height: float) -> float:
        """Return the distance to the nearest edge of a picture of this size, as a share of that side (>= 0)."""
        sides = (self.x1 / width, self.y1 / height, (width - self.x2) / width, (height - self.y2) / height)
        return max(0.0, min(sides))

    @property
    def area(self) -> float:
        """Square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def rounded(self) -> list[float]:
        """Return left, top, right, bottom to a tenth of a pixel, for JSON."""
        return [round(side, 1) for side in (self.x1, self.y1, self.x2, self.y2)]
