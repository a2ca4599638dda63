"""Who recognised what is in an image: a stage with a preset."""

from __future__ import annotations

from typing import NamedTuple


class Recogniser(NamedTuple):
    """A stage with a preset, and the hash of all that can change what its models say.

    There is one result per image, stage and fingerprint.
    """

    stage: str
    preset: str
    fingerprint: str
