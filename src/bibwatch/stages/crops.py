"""A second look: which parts of a photo to read again, and what becomes of two readings of one bib.

Knows boxes and readings. Does not know any model, or why one was unsure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from bibwatch.domain.box import Box
from bibwatch.images import Photo
from bibwatch.stages.base import Reading, Verdict

# How much around a box is looked at, on each side, as a share of its height: a detector's box is wide by itself, and
# pixels are few; what a model that reads draws may well cut a digit off.
OF_A_DETECTOR, OF_A_READER = 0.25, 0.6
_SAME_PLACE = 0.3  # of the smaller of two boxes, if they are to be about the same bib
_OVERLAP = 0.25  # of a tile; a bib is seldom wider
_MOST_TILES = 16


def around(box: Box, photo: Photo, share: float) -> Box:
    """Return a box with a margin of a share of its height, within the photo; pixels of the photo at full size."""
    margin = share * (box.y2 - box.y1)
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


def placed(reading: Reading, part: Box, box: Box | None) -> Reading:
    """Return a reading of a part as one of the photo. One without a box of its own gets `box`.

    Without either it may have been cut off where the part ends: it is for review until another view confirms it.
    """
    if reading.box:
        x, y = part.x1, part.y1
        moved = Box(reading.box.x1 + x, reading.box.y1 + y, reading.box.x2 + x, reading.box.y2 + y)
        return replace(reading, box=moved)
    return replace(reading, box=box, verdict=reading.verdict if box else Verdict.REVIEW)


def same_place(one: Box | None, other: Box | None) -> bool:
    """Tell whether two boxes are about the same bib; one that is not known may be anywhere."""
    if one is None or other is None:
        return True
    across = min(one.x2, other.x2) - max(one.x1, other.x1)
    down = min(one.y2, other.y2) - max(one.y1, other.y1)
    smaller = min((box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other))
    return across > 0 and down > 0 and across * down >= _SAME_PLACE * smaller


def merged(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """Return what several looks at a photo come to: each number once for each place it is in, the surest reading.

    A number that is part of a longer one in the same place was cut off there: it is left out, or, where the places
    are not known, for review.
    """
    found: list[Reading] = []
    for reading in sorted(readings, key=lambda each: (-len(each.bib), -each.confidence)):
        longer = [each for each in found if reading.bib in each.bib and each.bib != reading.bib]
        if any(each.box and reading.box and same_place(each.box, reading.box) for each in longer):
            continue
        unplaced = any(each.box is None or reading.box is None for each in longer)
        verdict = Verdict.REVIEW if unplaced else reading.verdict
        twins = [each for each in found if each.bib == reading.bib and same_place(each.box, reading.box)]
        for twin in twins:
            # A tile may have cut the twin off; what another look accepts was not.
            accepted = twin.box is None and verdict is Verdict.ACCEPTED
            found[found.index(twin)] = replace(
                twin, box=twin.box or reading.box, verdict=Verdict.ACCEPTED if accepted else twin.verdict
            )
        if not twins:
            found.append(replace(reading, verdict=verdict))
    return tuple(found)


def decided(first: Reading, again: Sequence[Reading]) -> tuple[Reading, ...]:
    """Return what two models make of one bib: the first was unsure, the second was asked about this part alone.

    Where they agree the surer of the two counts, and is accepted so far as the two are concerned. Where they differ
    both are kept, for review.
    """
    twin = next((reading for reading in again if reading.bib == first.bib), None)
    if twin and twin.confidence >= first.confidence:
        return (replace(twin, box=first.box, verdict=Verdict.ACCEPTED),)
    if twin or not again:
        return (first,)
    return (first, *(replace(reading, verdict=Verdict.REVIEW) for reading in again))


def _steps(length: int, side: int) -> list[int]:
    """Return where tiles begin along a side."""
    if length <= side:
        return [0]
    number = -(-(length - side) // round(side * (1 - _OVERLAP))) + 1
    return [round(step * (length - side) / (number - 1)) for step in range(number)]
