"""`bib_number`: which readings are accepted, where they are, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bibwatch.domain.box import Box
from bibwatch.errors import ModelError, ModelReplyError, ModelUnavailableError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Bib, Interpreter
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.runtimes.base import Prediction, Runtime, TextLine
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages.base import Outcome, Reading, Verdict
from bibwatch.stages.bib_number import BibNumber, BibNumberOptions

_MIDDLE = Box(100, 100, 200, 200)


class Canned(Runtime[VisionOcrOptions]):
    """A runtime that says what it was told to say, and keeps what it was asked."""

    options_type = VisionOcrOptions

    def __init__(self, predictions: Sequence[Prediction]) -> None:
        super().__init__(VisionOcrOptions())
        self.predictions = predictions
        self.asked: list[tuple[Image.Image, str]] = []
        self.loaded = 0

    def load(self) -> None:
        self.loaded += 1

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: object = None
    ) -> Iterator[Prediction]:
        del constraint
        for image, prediction in zip(images, self.predictions, strict=False):
            self.asked.append((image, prompt))
            yield prediction

    def close(self) -> None:
        pass


def photo(width: int = 600, height: int = 400, *, shown: tuple[int, int] = (600, 400)) -> Photo:
    """A photo of full size `width` by `height`, decoded to the size `shown`."""
    return Photo(Image.new("RGB", shown), width, height, "0" * 64, None)


def stage(*predictions: Prediction, **options: Any) -> BibNumber:
    chosen = BibNumberOptions(model_options=VisionOcrOptions(), **options)
    return BibNumber(chosen, Canned(predictions), BibLines(BibLinesOptions()))


def prediction(text: str = "1234", score: float = 0.99, box: Box = _MIDDLE) -> Prediction:
    return Prediction(lines=(TextLine(text, score, box),), device="cpu", seconds=0.5)


def reading(text: str = "1234", score: float = 0.99, box: Box = _MIDDLE, **options: Any) -> Reading:
    """Judge one line of text in a photo of 600 by 400."""
    (outcome,) = stage(prediction(text, score, box), **options).read([photo()])
    (found,) = outcome.readings
    return found


# Verdicts


def test_a_sure_reading_in_the_middle_is_accepted() -> None:
    assert reading() == Reading("1234", 0.99, Verdict.ACCEPTED, _MIDDLE)


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.949, "review"), (0.95, "accepted"), (0.951, "accepted"), (1.0, "accepted")]
)
def test_an_unsure_reading_is_for_review(score: float, verdict: str) -> None:
    assert reading(score=score, accept_confidence=0.95).verdict == verdict


@pytest.mark.parametrize(
    ("bib", "verdict"),
    [
        *[(bib, "review") for bib in ("2026", "1999", "1900", "2099")],
        *[(bib, "accepted") for bib in ("2100", "1899", "202", "20261", "12026", "02026", "M2026", "0042")],
    ],
)
def test_a_number_that_may_be_a_year_is_for_review(bib: str, verdict: str) -> None:
    assert reading(bib).verdict == verdict


@pytest.mark.parametrize(("bib", "verdict"), [("2026", "accepted"), ("1000", "review")])
def test_which_numbers_are_doubtful_can_be_set(bib: str, verdict: str) -> None:
    assert reading(bib, doubtful="1000").verdict == verdict


@pytest.mark.parametrize(
    ("box", "verdict"),
    [
        (Box(7, 5, 593, 395), "accepted"),
        (Box(6, 100, 200, 200), "review"),
        (Box(100, 4, 200, 200), "review"),
        (Box(100, 100, 594, 200), "review"),
        (Box(100, 100, 200, 396), "review"),
        (Box(-3, -3, 700, 500), "review"),
        (Box(0, 0, 600, 400), "review"),
    ],
)
def test_a_reading_at_the_edge_may_be_cut(box: Box, verdict: str) -> None:
    """One hundredth of 600 by 400: 6 pixels left and right, 4 above and below."""
    assert reading(box=box, edge=0.01).verdict == verdict


def test_a_box_that_touches_the_frame_is_at_its_edge_however_small_the_margin() -> None:
    assert reading(box=Box(0, 100, 200, 200), edge=0).verdict == "review"
    assert reading(box=Box(0.5, 100, 200, 200), edge=0).verdict == "accepted"


@pytest.mark.parametrize(("text", "score"), [("2026", 0.9), ("2026", 0.99), ("1234", 0.9)])
def test_any_doubt_is_enough(text: str, score: float) -> None:
    assert reading(text, score, Box(0, 0, 10, 10)).verdict == "review"


def test_a_bib_without_a_place_can_be_accepted() -> None:
    """A model that gives no boxes says nothing of edges."""

    class Teller(Interpreter[BibLinesOptions, tuple[Bib, ...]]):
        options_type = BibLinesOptions

        def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Bib, ...]:
            return (Bib(prediction.text, 0.99, None),)

    canned = Canned([Prediction(text="0042")])
    (outcome,) = BibNumber(BibNumberOptions(model_options=VisionOcrOptions()), canned, Teller(BibLinesOptions())).read(
        [photo()]
    )
    assert outcome.readings == (Reading("0042", 0.99, Verdict.ACCEPTED, None),)


# Boxes


@pytest.mark.parametrize(("width", "height", "factor"), [(6000, 4000, 10), (600, 400, 1), (300, 200, 0.5)])
def test_boxes_are_in_pixels_of_the_full_size(width: int, height: int, factor: float) -> None:
    (outcome,) = stage(prediction()).read([photo(width, height)])
    assert outcome.readings[0].box == _MIDDLE.scaled(factor)


def test_the_edge_is_that_of_the_full_size() -> None:
    """A box near the end of what the model saw is near the end of the photo, and no other."""
    sizes = {"shown": (600, 400)}
    for box, verdict in ((Box(100, 100, 599, 200), "review"), (Box(100, 100, 500, 200), "accepted")):
        (outcome,) = stage(prediction(box=box)).read([photo(6000, 4000, **sizes)])
        assert outcome.readings[0].verdict == verdict


# Batches and errors


def test_one_outcome_for_each_photo_in_order() -> None:
    many = [prediction(str(number)) for number in range(100, 120)]
    found = list(stage(*many).read(photo() for _ in many))
    assert [outcome.readings[0].bib for outcome in found] == [str(number) for number in range(100, 120)]


def test_no_photos_are_no_outcomes() -> None:
    assert list(stage().read([])) == []


def test_the_model_is_asked_the_prompt_of_the_stage() -> None:
    """About the photos as they are given, and each once."""
    photos = [photo(), photo()]
    asking = stage(prediction(), prediction(), prompt="Which bibs?")
    list(asking.read(photos))
    assert asking.runtime.asked == [(each.image, "Which bibs?") for each in photos]


def test_device_and_time_are_the_models() -> None:
    (outcome,) = stage(prediction()).read([photo()])
    assert (outcome.device, outcome.seconds) == ("cpu", 0.5)


def test_a_photo_without_a_bib_has_no_readings_and_no_error() -> None:
    assert list(stage(Prediction(device="cpu")).read([photo()])) == [Outcome(device="cpu")]


@pytest.mark.parametrize("error", [ModelError("no"), ModelUnavailableError("down"), ModelReplyError("gibberish")])
def test_an_error_of_the_runtime_is_the_error_of_its_photo(error: ModelError) -> None:
    """Its neighbours have their readings; whatever came with the error is no answer."""
    failed = Prediction(lines=prediction().lines, device="cuda", seconds=3, error=error)
    before, outcome, after = stage(prediction("11"), failed, prediction("22")).read([photo(), photo(), photo()])
    assert outcome == Outcome(device="cuda", seconds=3, error=error)
    assert [each.readings[0].bib for each in (before, after)] == ["11", "22"]


def test_an_answer_that_makes_no_sense_is_the_error_of_its_photo() -> None:
    class Puzzled(BibLines):
        def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Bib, ...]:
            if prediction.text:
                raise ModelReplyError(prediction.text)
            return super().interpret(prediction, prompt)

    canned = Canned([Prediction(text="{", device="cpu", seconds=1), prediction("22")])
    puzzled = BibNumber(BibNumberOptions(model_options=VisionOcrOptions()), canned, Puzzled(BibLinesOptions()))
    outcome, after = puzzled.read([photo(), photo()])
    assert (str(outcome.error), outcome.readings, outcome.device) == ("{", (), "cpu")
    assert after.readings[0].bib == "22"


@pytest.mark.parametrize("number", [1, 3])
def test_a_runtime_that_gives_too_few_or_too_many_is_found_out(number: int) -> None:
    """And costs photos an attempt, not the daemon its life."""

    class Miscounting(Canned):
        def predict_batch(
            self, images: Iterable[Image.Image], prompt: str, *, constraint: object = None
        ) -> Iterator[Prediction]:
            del images, prompt, constraint
            yield from self.predictions

    miscounting = Miscounting([prediction()] * number)
    asking = BibNumber(BibNumberOptions(model_options=VisionOcrOptions()), miscounting, BibLines(BibLinesOptions()))
    outcomes = list(asking.read([photo(), photo()]))
    assert len(outcomes) == 2
    assert "predictions than there were images" in str(outcomes[-1].error)


def test_outcomes_come_as_the_model_gives_them() -> None:
    """So that a stop between two photos loses no answer."""
    asking = stage(*[prediction()] * 3)
    outcomes = asking.read([photo()] * 3)
    next(outcomes)
    assert len(asking.runtime.asked) == 1


def test_warming_up_loads_and_asks_once() -> None:
    asking = stage(prediction(), prediction())
    asking.warm_up()
    assert (asking.runtime.loaded, len(asking.runtime.asked)) == (1, 1)


def test_a_model_that_cannot_answer_does_not_warm_up() -> None:
    with pytest.raises(ModelUnavailableError, match="down"):
        stage(Prediction(error=ModelUnavailableError("down"))).warm_up()


def test_photos_may_come_as_small_as_the_model_sees_them() -> None:
    asking = stage()
    assert asking.longest_side == VisionOcrOptions().longest_side


@settings(deadline=None, max_examples=200)
@given(
    text=st.text() | st.from_regex(r"[A-Z]?\d{1,6}", fullmatch=True),
    score=st.floats(0, 1.1),
    corners=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
)
def test_no_line_ever_raises(text: str, score: float, corners: tuple[float, float, float, float]) -> None:
    (outcome,) = stage(prediction(text, score, Box(*corners))).read([photo()])
    assert outcome.error is None
    assert all(0 <= found.confidence <= 1 for found in outcome.readings)
