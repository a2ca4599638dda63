"""Reading files with a stage: in order, in batches, each with its own result or error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bibwatch import drawing, recognition
from bibwatch.errors import ModelError, PhotoGoneError, PhotoOversizedError, PhotoUndecodableError
from bibwatch.images import ImageLimits, Photo
from bibwatch.interpreters.plain_text import PlainText
from bibwatch.runtimes.base import Prediction
from bibwatch.stages.base import Outcome
from bibwatch.stages.picture_description import PictureDescription
from bibwatch.testing.stages import scripted

LIMITS = ImageLimits()


class Measuring(PictureDescription):
    """Returns each photo's width, fails on those 13 pixels wide, and records its batch sizes."""

    def __init__(self, *made: Any) -> None:
        super().__init__(*made)
        self.given: list[int] = []

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        photos = list(photos)
        self.given.append(len(photos))
        for photo in photos:
            wide = photo.image.width
            yield Outcome(error=ModelError("unlucky")) if wide == 13 else Outcome(output={"wide": wide})


def measuring(batch_size: int = 2) -> Measuring:
    made = scripted(Measuring, PlainText, Prediction(), model={"batch_size": batch_size})
    assert isinstance(made, Measuring)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photos named by their width, and a file that is not a photo."""
    folder = tmp_path_factory.mktemp("photos")
    for wide in (10, 11, 12, 13):
        (folder / f"{wide}.jpg").write_bytes(drawing.jpeg(Image.new("RGB", (wide, 8))))
    (folder / "text.jpg").write_text("no photo")
    return folder


def said(answer: recognition.ReadResult | Exception) -> object:
    return recognition.reason(answer) if isinstance(answer, Exception) else answer[1].output


@given(
    st.lists(st.sampled_from(["10.jpg", "11.jpg", "12.jpg", "13.jpg", "text.jpg", "gone.jpg", "a\0.jpg"])),
    st.integers(1, 4),
)
def test_each_file_has_its_own_answer_in_order(folder: Path, names: list[str], batch_size: int) -> None:
    stage = measuring(batch_size)
    paths = [str(folder / name) for name in names]
    answers = list(recognition.read(stage, iter(paths), LIMITS))
    assert [path for path, _ in answers] == paths
    for name, (_, answer) in zip(names, answers, strict=True):
        if name.startswith("1") and name != "13.jpg":
            assert not isinstance(answer, Exception)
            assert said(answer) == {"wide": int(name[:2])}
            assert answer[0].width == int(name[:2])
        else:
            reasons = {
                "13": "unlucky",
                "te": "undecodable: not a photo",
                "go": "gone: cannot be opened",
                "a\0": "embedded null",  # byte, or character in path: Python 3.13
            }
            assert reasons[name[:2]] in str(said(answer))
    batches = [names[start : start + batch_size] for start in range(0, len(names), batch_size)]
    photos = [sum(name.startswith("1") for name in batch) for batch in batches]
    assert stage.given == [number for number in photos if number]


def test_a_file_is_opened_when_its_batch_is_due(folder: Path) -> None:
    """Thousands of photos are not in memory at once, and the first results come early."""
    asked: list[str] = []

    def paths() -> Iterator[str]:
        for name in ("10.jpg", "11.jpg", "12.jpg"):
            asked.append(name)
            yield str(folder / name)

    answers = recognition.read(measuring(), paths(), LIMITS)
    next(answers)
    assert asked == ["10.jpg", "11.jpg"]


def test_photos_are_prepared_and_an_error_affects_only_its_photo(folder: Path) -> None:
    def prepare(photo: Photo) -> Photo:
        if photo.width == 10:
            raise ValueError("too narrow")
        return replace(photo, image=photo.image.resize((5, 5)))

    paths = [str(folder / name) for name in ("10.jpg", "11.jpg")]
    answers = [answer for _, answer in recognition.read(measuring(), paths, LIMITS, prepare)]
    assert list(map(said, answers)) == ["too narrow", {"wide": 5}]


@pytest.mark.parametrize("limits", [{"max_pixels": 80}, {"max_bytes": 200}])
def test_the_limits_hold(folder: Path, limits: dict[str, int], encode: Callable[..., bytes]) -> None:
    (folder / "small.png").write_bytes(encode(Image.new("1", (10, 8)), "PNG"))
    paths = [str(folder / name) for name in ("small.png", "11.jpg")]
    (_, small), (_, large) = recognition.read(measuring(), paths, ImageLimits(**limits))
    assert said(small) == {"wide": 10}
    assert isinstance(large, PhotoOversizedError)


def test_batches_have_the_models_size(folder: Path) -> None:
    names = ["10.jpg", "gone.jpg", "text.jpg"]
    batches = list(recognition.batches(measuring(2), [str(folder / name) for name in names], LIMITS))
    assert [[Path(path).name for path, _ in batch] for batch in batches] == [names[:2], names[2:]]
    kinds = [type(photo) for batch in batches for _, photo in batch]
    assert kinds == [Photo, PhotoGoneError, PhotoUndecodableError]


def test_a_reason_is_one_line() -> None:
    assert recognition.reason(PhotoGoneError("not\nthere")) == "gone: not there"
    assert recognition.reason(ModelError("x" * 1000)) == "x" * 500
    assert recognition.reason(KeyError()) == "KeyError"
