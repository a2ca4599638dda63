"""A stage that asks others in its turn: they are loaded, warmed up and let go with it, once each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from PIL import Image

from bibwatch.errors import ModelError, ModelUnavailableError
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.registry import Registry
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

    def make(name: str, **substages: BibNumber) -> BibNumber:
        options = BibNumberOptions(model_options=VisionOcrOptions(name=name))
        return BibNumber(options, Noting(name, notes, errors.get(name)), BibLines(BibLinesOptions()), substages)

    return make("own", detector=make("detector"), second_model=make("second_model"))


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
    """While a second one is away, what it would have been asked goes to review."""
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


def test_the_detector_is_the_users_preset() -> None:
    """Settings of the bundled OCR are for the detector too; another preset may take its place."""
    smaller = {"rapidocr": {"base": "rapidocr", "longest_side": 640}, "quick": {"base": "rapidocr", "min_score": 0.1}}
    stage = Registry(presets=smaller).stage("bib_number", "smol-vllm")
    assert stage.substages["detector"].options.model_options.longest_side == 640
    chosen = Registry(presets=smaller, stages={"bib_number": {"detector_options": "quick"}})
    assert chosen.stage("bib_number", "smol-vllm").substages["detector"].options.model_options.name == "quick"


def test_what_a_substage_sees_is_in_the_fingerprint() -> None:
    """A finer detector has a model look elsewhere; for an OCR, which has no detector, it changes nothing."""
    finer = {"bib_number": {"detector_options": {"base": "rapidocr", "longest_side": 4000}}}
    for preset, changes in (("smol-vllm", True), ("rapidocr", False)):
        fingerprints = {
            Registry(stages=stages).stage_options("bib_number", preset).fingerprint() for stages in ({}, finer)
        }
        assert (len(fingerprints) == 2) is changes
