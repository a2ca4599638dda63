"""A second look: which parts of a photo to read again, and what becomes of two readings of one bib.

Knows boxes and readings. Does not know any model, or why one was unsure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bibwatch.images import Photo
from bibwatch.runtimes.base import Box
from bibwatch.stages.base import Reading, Verdict

_MARGIN = 0.6  # of a bib's height, on each side: a detector's box is tight, and a model wants to see the bib's paper
_SAME_PLACE = 0.3  # of the smaller of two boxes, if they are to be about the same bib
_OVERLAP = 0.25  # of a tile; a bib is seldom wider
_MOST_TILES = 16


def around(box: Box, photo: Photo) -> Box:
    """Return a box with a margin, within the photo; pixels of the photo at full size."""
    margin = _MARGIN * (box.y2 - box.y1)
    return Box(
        max(0.0, box.x1 - margin),
        max(0.0, box.y1 - margin),
        min(float(photo.width), box.x2 + margin),
        min(float(photo.height), box.y2 + margin),
    )


def tiles(photo: Photo, side: int) -> list[Box]:
    """Return overlapping tiles of at most `side` pixels that cover the photo; none if it is not much larger."""
    if max(photo.width, photo.height) <= 2 * side:
        return []
    across, down = _steps(photo.width, side), _steps(photo.height, side)
    while len(across) * len(down) > _MOST_TILES:
        side = side * 5 // 4
        across, down = _steps(photo.width, side), _steps(photo.height, side)
    return [Box(x, y, min(x + side, photo.width), min(y + side, photo.height)) for y in down for x in across]


def cut(photo: Photo, box: Box) -> Photo:
    """Return a part of a photo as a photo of its own; the box is in pixels of the photo at full size."""
    inner = box.scaled(1 / photo.scale)
    left, top = int(inner.x1), int(inner.y1)
    right, bottom = max(left + 1, round(inner.x2)), max(top + 1, round(inner.y2))
    image = photo.image.crop((left, top, right, bottom))
    width, height = (max(1, round(side * photo.scale)) for side in image.size)
    return replace(photo, image=image, width=width, height=height)


def placed(reading: Reading, part: Box, *, tight: bool) -> Reading:
    """Return a reading of a part as one of the photo; without a box it is where the part is, if that is `tight`."""
    if reading.box:
        x, y = part.x1, part.y1
        box = Box(reading.box.x1 + x, reading.box.y1 + y, reading.box.x2 + x, reading.box.y2 + y)
        return replace(reading, box=box)
    return replace(reading, box=part if tight else None)


def same_place(one: Box | None, other: Box | None) -> bool:
    """Tell whether two boxes are about the same bib; one that is not known may be anywhere."""
    if one is None or other is None:
        return True
    across = min(one.x2, other.x2) - max(one.x1, other.x1)
    down = min(one.y2, other.y2) - max(one.y1, other.y1)
    smaller = min((box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other))
    return across > 0 and down > 0 and across * down >= _SAME_PLACE * smaller


def merged(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """Return each number once for each place it is in: the surest reading, with a box if any had one.

    A number that is part of a longer one in the same place was cut off there: it is left out.
    """
    found: list[Reading] = []
    for reading in sorted(readings, key=lambda each: (-len(each.bib), -each.confidence)):
        twins = [each for each in found if each.bib == reading.bib and same_place(each.box, reading.box)]
        for twin in twins:
            found[found.index(twin)] = replace(twin, box=twin.box or reading.box)
        part = any(
            reading.bib in each.bib and each.box and reading.box and same_place(each.box, reading.box)
            for each in found
            if each.bib != reading.bib
        )
        if not twins and not part:
            found.append(reading)
    return tuple(found)


def decided(first: Reading, again: Sequence[Reading]) -> tuple[Reading, ...]:
    """Return what two models make of one bib: the first was unsure, the second was asked about this part alone.

    Agreeing, the surer of the two counts. Where they differ both are kept, for review.
    """
    twin = next((reading for reading in again if reading.bib == first.bib), None)
    if twin and twin.confidence >= first.confidence:
        return (replace(twin, box=first.box),)
    if twin or not again:
        return (first,)
    return (first, *(replace(reading, verdict=Verdict.REVIEW) for reading in again))


def _steps(length: int, side: int) -> list[int]:
    """Return where tiles begin along a side."""
    if length <= side:
        return [0]
    number = -(-(length - side) // round(side * (1 - _OVERLAP))) + 1
    return [round(step * (length - side) / (number - 1)) for step in range(number)]
