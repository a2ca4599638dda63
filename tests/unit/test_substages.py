"""A stage that asks others in its turn: they are loaded, warmed up and let go with it, once each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from PIL import Image

from bibwatch.errors import ModelError, ModelUnavailableError
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.runtimes.base import Constraint, Prediction, Runtime
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages.bib_number import BibNumber, BibNumberOptions


class Noting(Runtime[VisionOcrOptions]):
    """A runtime that writes down what happens to it, and answers with an error if it is given one."""

    options_type = VisionOcrOptions

    def __init__(self, name: str, notes: list[str], error: ModelError | None) -> None:
        super().__init__(VisionOcrOptions(name=name))
        self.notes = notes
        self.error = error
        self.is_loaded = False

    def note(self, what: str) -> None:
        self.notes.append(f"{self.options.name} {what}")

    def load(self) -> None:
        if not self.is_loaded:
            self.note("loaded")
        self.is_loaded = True

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        for _ in images:
            self.note("asked")
            yield Prediction(error=self.error)

    def close(self) -> None:
        if self.is_loaded:
            self.note("closed")
        self.is_loaded = False


def stage(notes: list[str], **errors: ModelError) -> BibNumber:
    """Make a stage with its own model and two further ones: all of them write into `notes`."""
    own, detector, second = (
        BibNumber(
            BibNumberOptions(model_options=VisionOcrOptions(name=name)),
            Noting(name, notes, errors.get(name)),
            BibLines(BibLinesOptions()),
        )
        for name in ("own", "detector", "second_model")
    )
    own.substages = {"detector": detector, "second_model": second}
    return own


def test_all_of_them_are_warmed_up_once() -> None:
    notes: list[str] = []
    stage(notes).warm_up()
    assert sorted(notes) == sorted(
        f"{name} {what}" for name in ("own", "detector", "second_model") for what in ("loaded", "asked")
    )


@pytest.mark.parametrize("name", ["own", "detector", "second_model"])
def test_one_that_cannot_answer_is_told(name: str) -> None:
    with pytest.raises(ModelError, match="the model fell over"):
        stage([], **{name: ModelError("the model fell over")}).warm_up()


def test_only_the_own_model_is_waited_for() -> None:
    """While a second one is away, what it would have been asked is for review."""
    away = ModelUnavailableError("down")
    with pytest.raises(ModelUnavailableError):
        stage([], own=away).warm_up()
    stage([], detector=away, second=away).warm_up()


def test_with_the_stage_they_come_and_go() -> None:
    notes: list[str] = []
    with stage(notes) as made:
        assert sorted(notes) == ["detector loaded", "own loaded", "second_model loaded"]
        made.load()
        notes.clear()
    assert sorted(notes) == ["detector closed", "own closed", "second_model closed"]
