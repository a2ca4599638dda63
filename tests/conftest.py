"""What all tests share: photos drawn by bibwatch itself, and a clean environment."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from bibwatch import drawing

# A busy machine is no reason to fail; a landing is decided by the same examples each time, a developer gets new ones.
settings.register_profile(
    "bibwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("bibwatch")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No BIBWATCH_ variable of the developer's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith("BIBWATCH_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def draw() -> Callable[..., bytes]:
    """Draw a finish-line photo with the given bibs and return its JPEG bytes."""

    def draw(*bibs: str, seed: int = 0, size: tuple[int, int] = (600, 400)) -> bytes:
        return drawing.jpeg(drawing.photo(bibs, size=size, seed=seed))

    return draw


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Write a picture in a format and return the bytes."""

    def encode(image: Image.Image, form: str, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    return encode
