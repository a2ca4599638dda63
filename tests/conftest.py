"""What all tests share: photos drawn by bibwatch itself, and a clean environment."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from bibwatch import drawing
from servers import Server

# A busy machine is no reason to fail; a landing is decided by the same examples each time, a developer gets new ones.
settings.register_profile(
    "bibwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("bibwatch")
settings.register_profile("fast", settings(), max_examples=10)  # of `make test-fast`


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


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny vision-language model with random weights. Needs transformers."""
    from bibwatch.testing.tiny_vlm import make_tiny_vlm

    return make_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def other_vlm(tiny_vlm: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the tiny model, with other settings in one of its files, and return the copy's folder."""

    def other_vlm(file: str = "config.json", **settings: Any) -> Path:
        folder = Path(shutil.copytree(tiny_vlm, tmp_path / "other"))
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(values | settings))
        return folder

    return other_vlm


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a server that answers chat completions; a test sets its `answer`."""
    running = Server()
    yield running
    running.stop()
