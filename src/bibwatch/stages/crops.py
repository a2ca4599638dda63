"""Selects and crops the parts of a photo to re-read, and maps the candidates back to the photo.

Knows boxes and candidates. Does not know models, or why one was uncertain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate
from bibwatch.images import Photo

# Margins on each side of a box, as fractions of its height: a detector's boxes are already wide, and pixels are scarce;
# the box a model draws may cut off a digit.
DETECTOR_MARGIN, MODEL_MARGIN = 0.25, 0.6
_OVERLAP = 0.25  # fraction of a tile; bibs are rarely wider
_MAX_TILES = 16


def around(box: Box, photo: Photo, fraction: float) -> Box:
    """Add a margin, as a fraction of its height, to a box in pixels of the full-size photo."""
    margin = fraction * (box.y2 - box.y1)
    return Box(
        max(0.0, box.x1 - margin),
        max(0.0, box.y1 - margin),
        min(float(photo.width), box.x2 + margin),
        min(float(photo.height), box.y2 + margin),
    )


def tiles(photo: Photo, side: int) -> list[Box]:
    """Return overlapping tiles of `side` pixels, or more if they are too many; none if the photo is not much larger."""
    if max(photo.width, photo.height) <= 2 * side:
        return []
    across, down = _steps(photo.width, side), _steps(photo.height, side)
    while len(across) * len(down) > _MAX_TILES:
        side = side * 5 // 4
        across, down = _steps(photo.width, side), _steps(photo.height, side)
    return [Box(x, y, min(x + side, photo.width), min(y + side, photo.height)) for y in down for x in across]


def cut(photo: Photo, box: Box) -> Photo:
    """Crop a part of a photo as a photo of its own; the box is in pixels of the full-size photo."""
    inner = box.scaled(1 / photo.scale)
    left, top = int(inner.x1), int(inner.y1)
    right, bottom = max(left + 1, round(inner.x2)), max(top + 1, round(inner.y2))
    image = photo.image.crop((left, top, right, bottom))
    width, height = (max(1, round(side * photo.scale)) for side in image.size)
    return replace(photo, image=image, width=width, height=height)


def placed(candidate: Candidate, photo: Photo, *, part: Box | None = None, box: Box | None = None) -> Candidate:
    """Map a candidate from a `part` to the whole photo; one without a box gets `box`."""
    own = candidate.box.moved(part.x1, part.y1) if candidate.box and part else candidate.box
    place = own or box
    distance = place.distance_to_edge(photo.width, photo.height) if place else None
    return replace(candidate, box=place, edge_distance=distance)


def distinct(boxes: Iterable[Box]) -> list[Box]:
    """Return the boxes, except those in the same place as an earlier one."""
    found: list[Box] = []
    for box in boxes:
        if not any(box.is_same_place(other) for other in found):
            found.append(box)
    return found


def _steps(length: int, side: int) -> list[int]:
    """Return the offsets of the tiles along a side."""
    if length <= side:
        return [0]
    number = -(-(length - side) // round(side * (1 - _OVERLAP))) + 1
    return [round(step * (length - side) / (number - 1)) for step in range(number)]
