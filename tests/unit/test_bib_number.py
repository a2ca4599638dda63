"""`bib_number`: bib candidates, their boxes, and errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import MOST, Candidate, Look, LookTaken, Source
from bibwatch.domain.readings import Verdict
from bibwatch.errors import ModelError, ModelReplyError, ModelUnavailableError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Interpreter
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.judging import judge
from bibwatch.runtimes.base import Prediction, Runtime, TextLine
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages.base import Outcome
from bibwatch.stages.bib_number import BibNumber, BibNumberOptions

_MIDDLE = Box(100, 100, 200, 200)


class Canned(Runtime[VisionOcrOptions]):
    """A runtime with scripted predictions that records its prompts and images."""

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
    """A photo of full size `width` by `height`, decoded at size `shown`."""
    return Photo(Image.new("RGB", shown), width, height, "0" * 64, None)


def stage(*predictions: Prediction, **options: Any) -> BibNumber:
    chosen = BibNumberOptions(model_options=VisionOcrOptions(), **options)
    return BibNumber(chosen, Canned(predictions), BibLines(BibLinesOptions()))


def prediction(text: str = "1234", score: float = 0.99, box: Box = _MIDDLE) -> Prediction:
    return Prediction(lines=(TextLine(text, score, box),), device="cpu", seconds=0.5)


def texts(outcome: Outcome) -> list[str]:
    return [candidate.text for candidate in outcome.candidates]


# Candidates


def test_each_line_is_a_candidate_with_its_box() -> None:
    (outcome,) = stage(prediction()).read([photo()])
    candidate = Candidate("1234", 0.99, _MIDDLE, source=Source.LINE, edge_distance=pytest.approx(1 / 6))
    assert outcome == Outcome((candidate,), (LookTaken(Look.PHOTO, 1),), device="cpu", seconds=0.5)


@pytest.mark.parametrize(("text", "score"), [("2026", 0.99), ("RUN 2026", 0.9), ("1234", 0.1), ("14:32", 0.99)])
def test_candidates_are_not_filtered_by_format_or_score(text: str, score: float) -> None:
    """Whether it is a bib is judged later, possibly again with other race settings."""
    (outcome,) = stage(prediction(text, score)).read([photo()])
    assert [(each.text, each.score) for each in outcome.candidates] == [(text, score)]


def test_the_best_of_too_many_candidates_are_kept_and_the_rest_counted() -> None:
    lines = [TextLine(str(number), number / 1000, _MIDDLE) for number in range(MOST + 30)]
    (outcome,) = stage(Prediction(lines=tuple(lines))).read([photo()])
    assert texts(outcome) == [line.text for line in lines[30:]]
    assert outcome.cut == 30
    assert outcome.looks == (LookTaken(Look.PHOTO, MOST + 30),)


@pytest.mark.parametrize(
    ("box", "distance"),
    [
        (Box(6, 100, 200, 200), 0.01),  # of 600 by 400
        (Box(100, 4, 200, 200), 0.01),
        (Box(100, 100, 594, 200), 0.01),
        (Box(100, 100, 200, 396), 0.01),
        (Box(60, 100, 540, 200), 0.1),
        (Box(0, 100, 200, 200), 0),
        (Box(-3, -3, 700, 500), 0),
    ],
)
def test_the_edge_distance_is_a_fraction_of_that_side(box: Box, distance: float) -> None:
    (outcome,) = stage(prediction(box=box)).read([photo()])
    assert outcome.candidates[0].edge_distance == pytest.approx(distance)


def test_a_candidate_without_a_box_has_no_edge_distance() -> None:
    class Teller(Interpreter[BibLinesOptions, tuple[Candidate, ...]]):
        options_type = BibLinesOptions

        def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
            return (Candidate(prediction.text, 0.99),)

    canned = Canned([Prediction(text="0042")])
    options = BibNumberOptions(model_options=VisionOcrOptions())
    (outcome,) = BibNumber(options, canned, Teller(BibLinesOptions())).read([photo()])
    assert outcome.candidates == (Candidate("0042", 0.99),)


def test_the_text_shows_the_readings_for_any_race() -> None:
    asking = stage(prediction(score=0.9), prediction("FINISH 1"))
    assert [asking.text(outcome) for outcome in asking.read([photo(), photo()])] == ["1234 (90%, review)", "no bib"]


# Boxes


@pytest.mark.parametrize(("width", "height", "factor"), [(6000, 4000, 10), (600, 400, 1), (300, 200, 0.5)])
def test_boxes_are_in_pixels_of_the_full_size(width: int, height: int, factor: float) -> None:
    (outcome,) = stage(prediction()).read([photo(width, height)])
    assert outcome.candidates[0].box == _MIDDLE.scaled(factor)


def test_the_edge_is_that_of_the_full_size_photo() -> None:
    """A box near the edge of the decoded image is near the edge of the photo."""
    sizes = {"shown": (600, 400)}
    for box, verdict in ((Box(100, 100, 599, 200), Verdict.REVIEW), (Box(100, 100, 500, 200), Verdict.ACCEPTED)):
        (outcome,) = stage(prediction(box=box)).read([photo(6000, 4000, **sizes)])
        assert [reading.verdict for reading in judge(outcome.candidates)] == [verdict]


# Batches and errors


def test_one_outcome_for_each_photo_in_order() -> None:
    many = [prediction(str(number)) for number in range(100, 120)]
    found = list(stage(*many).read(photo() for _ in many))
    assert list(map(texts, found)) == [[str(number)] for number in range(100, 120)]


def test_no_photos_no_outcomes() -> None:
    assert list(stage().read([])) == []


def test_the_model_gets_the_prompt_of_the_stage() -> None:
    """Once for each photo."""
    photos = [photo(), photo()]
    asking = stage(prediction(), prediction(), prompt="Which bibs?")
    list(asking.read(photos))
    assert asking.runtime.asked == [(each.image, "Which bibs?") for each in photos]


def test_device_and_time_are_passed_on() -> None:
    (outcome,) = stage(prediction()).read([photo()])
    assert (outcome.device, outcome.seconds) == ("cpu", 0.5)


def test_a_photo_without_a_bib_has_no_candidates_and_no_error() -> None:
    looked = (LookTaken(Look.PHOTO, 0),)
    assert list(stage(Prediction(device="cpu")).read([photo()])) == [Outcome(looks=looked, device="cpu")]


@pytest.mark.parametrize("error", [ModelError("no"), ModelUnavailableError("down"), ModelReplyError("gibberish")])
def test_an_error_of_the_runtime_is_the_error_of_its_photo(error: ModelError) -> None:
    """Its neighbours keep their candidates; anything returned with the error is ignored."""
    failed = Prediction(lines=prediction().lines, device="cuda", seconds=3, error=error)
    before, outcome, after = stage(prediction("11"), failed, prediction("22")).read([photo(), photo(), photo()])
    assert outcome == Outcome(device="cuda", seconds=3, error=error)
    assert [texts(each) for each in (before, after)] == [["11"], ["22"]]


def test_an_invalid_reply_is_the_error_of_its_photo() -> None:
    class Puzzled(BibLines):
        def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
            if prediction.text:
                raise ModelReplyError(prediction.text)
            return super().interpret(prediction, prompt)

    canned = Canned([Prediction(text="{", device="cpu", seconds=1), prediction("22")])
    puzzled = BibNumber(BibNumberOptions(model_options=VisionOcrOptions()), canned, Puzzled(BibLinesOptions()))
    outcome, after = puzzled.read([photo(), photo()])
    assert (str(outcome.error), outcome.candidates, outcome.device) == ("{", (), "cpu")
    assert texts(after) == ["22"]


@pytest.mark.parametrize("number", [1, 3])
def test_too_few_or_too_many_predictions_are_an_error(number: int) -> None:
    """The photos fail; the daemon does not."""

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
    assert "predictions than images" in str(outcomes[-1].error)


def test_outcomes_are_yielded_as_predictions_arrive() -> None:
    """So that stopping between two photos loses nothing."""
    asking = stage(*[prediction()] * 3)
    outcomes = asking.read([photo()] * 3)
    next(outcomes)
    assert len(asking.runtime.asked) == 1


def test_warm_up_loads_and_runs_the_model_once() -> None:
    asking = stage(prediction(), prediction())
    asking.warm_up()
    assert (asking.runtime.loaded, len(asking.runtime.asked)) == (1, 1)


def test_warm_up_raises_an_outage() -> None:
    with pytest.raises(ModelUnavailableError, match="down"):
        stage(Prediction(error=ModelUnavailableError("down"))).warm_up()


def test_photos_come_at_full_size() -> None:
    """Small numbers are cut from it."""
    assert stage().longest_side is None


@settings(deadline=None, max_examples=200)
@given(
    text=st.text() | st.from_regex(r"[A-Z]?\d{1,6}", fullmatch=True),
    score=st.floats(0, 1.1),
    corners=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
)
def test_no_line_ever_raises(text: str, score: float, corners: tuple[float, float, float, float]) -> None:
    (outcome,) = stage(prediction(text, score, Box(*corners))).read([photo()])
    assert outcome.error is None
    assert all(0 <= found.score <= 1 for found in outcome.candidates)
    assert all(0 <= found.probability <= 1 for found in judge(outcome.candidates))
