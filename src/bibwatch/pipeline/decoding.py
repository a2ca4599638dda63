"""Loads and decodes one claimed file: loaded once, hashed and decoded from the same bytes.

A problem with the file becomes its state, never an exception.
"""

from __future__ import annotations

from datetime import tzinfo

from bibwatch import files, images, telemetry
from bibwatch.domain.states import State
from bibwatch.errors import PhotoError
from bibwatch.images import ImageLimits, Photo
from bibwatch.store.records import Claim, Finished


def prepare(claim: Claim, limits: ImageLimits, longest_side: int | None, zone: tzinfo | None) -> Photo | Finished:
    """Return the photo, or the state of a file that cannot be read as a photo now."""
    try:
        data = files.load(claim.path, expected=claim.stat, max_bytes=limits.max_bytes)
        telemetry.PHOTO_FILES_LOADED.inc()
        telemetry.PHOTO_BYTES_LOADED.inc(len(data))
        return images.decode(data, limits=limits, longest_side=longest_side, zone=zone)
    except PhotoError as exc:
        return Finished(claim, state=exc.state, error=str(exc))
    except MemoryError:
        return Finished(claim, state=State.OVERSIZED, error="not enough memory to decode it")
