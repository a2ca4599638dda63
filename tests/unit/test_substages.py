"""Stages with substages: all are loaded, warmed up and closed together, once each."""

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
    """A runtime that records calls, and returns an error if it is given one."""

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
    """Make a stage with its own model and two substages, which all record calls in `notes`."""

    def make(name: str, **substages: BibNumber) -> BibNumber:
        options = BibNumberOptions(model_options=VisionOcrOptions(name=name))
        return BibNumber(options, Noting(name, notes, errors.get(name)), BibLines(BibLinesOptions()), substages)

    return make("own", detector=make("detector"), second_model=make("second_model"))


def test_all_are_warmed_up_once() -> None:
    notes: list[str] = []
    stage(notes).warm_up()
    assert sorted(notes) == sorted(
        f"{name} {what}" for name in ("own", "detector", "second_model") for what in ("loaded", "asked")
    )


@pytest.mark.parametrize("name", ["own", "detector", "second_model"])
def test_errors_of_any_model_are_raised(name: str) -> None:
    with pytest.raises(ModelError, match="the model fell over"):
        stage([], **{name: ModelError("the model fell over")}).warm_up()


def test_outages_of_substages_are_ignored() -> None:
    """During an outage of a substage, the readings it would check go to review."""
    away = ModelUnavailableError("down")
    with pytest.raises(ModelUnavailableError):
        stage([], own=away).warm_up()
    stage([], detector=away, second=away).warm_up()


def test_substages_are_loaded_and_closed_with_the_stage() -> None:
    notes: list[str] = []
    with stage(notes) as made:
        assert sorted(notes) == ["detector loaded", "own loaded", "second_model loaded"]
        made.load()
        notes.clear()
    assert sorted(notes) == ["detector closed", "own closed", "second_model closed"]


def test_the_detector_is_configurable() -> None:
    """Settings of the bundled OCR apply to the detector too; another preset may replace it."""
    smaller = {"rapidocr": {"base": "rapidocr", "longest_side": 640}, "quick": {"base": "rapidocr", "min_score": 0.1}}
    stage = Registry(presets=smaller).stage("bib_number", "smol-vllm")
    assert stage.substages["detector"].options.model_options.longest_side == 640
    chosen = Registry(presets=smaller, stages={"bib_number": {"detector_options": "quick"}})
    assert chosen.stage("bib_number", "smol-vllm").substages["detector"].options.model_options.name == "quick"


def test_substages_are_in_the_fingerprint() -> None:
    """The detector determines what is re-read; for OCR, which has no detector, it changes nothing."""
    finer = {"bib_number": {"detector_options": {"base": "rapidocr", "longest_side": 4000}}}
    for preset, changes in (("smol-vllm", True), ("rapidocr", False)):
        fingerprints = {
            Registry(stages=stages).stage_options("bib_number", preset).fingerprint() for stages in ({}, finer)
        }
        assert (len(fingerprints) == 2) is changes
