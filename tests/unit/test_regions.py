"""Stages that process regions of a photo: selection, cropping and boxes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bibwatch.errors import ModelError
from bibwatch.interpreters.plain_text import PlainText
from bibwatch.runtimes.base import FinishReason, Prediction
from bibwatch.stages.picture_description import PictureDescription
from bibwatch.stages.regions import Region
from bibwatch.testing.stages import ScriptedRuntime, photo, scripted

CLOCK = {"label": "clock", "box": (0.25, 0.0, 0.5, 0.25)}
ARCH = {"label": "arch", "box": (0.0, 0.0, 1.0, 0.5)}


def says(text: str) -> Prediction:
    return Prediction(text=text, finish_reason=FinishReason.STOP)


def make(*predictions: Prediction, **options: Any) -> Any:
    return scripted(PictureDescription, PlainText, *(predictions or (says("Something."),)), **options)


def sizes(stage: Any) -> list[tuple[int, int]]:
    assert isinstance(stage.runtime, ScriptedRuntime)
    return [image.size for image in stage.runtime.images]


def test_without_regions_the_whole_photo_is_processed() -> None:
    stage = make(says("A road."))
    (outcome,) = stage.read([photo(640, 480)])
    assert outcome.output == {"regions": [{"label": "photo", "box": [0, 0, 640, 480], "description": "A road."}]}
    assert sizes(stage) == [(640, 480)]
    assert stage.text(outcome) == "A road."


def test_each_region_is_cropped_and_processed() -> None:
    stage = make(says("01:23:45"), says("An arch."), regions=[CLOCK, ARCH])
    (outcome,) = stage.read([photo(640, 480)])
    assert sizes(stage) == [(160, 120), (640, 240)]
    assert [(each["label"], each["box"], each["description"]) for each in outcome.output["regions"]] == [
        ("clock", [160, 0, 320, 120], "01:23:45"),
        ("arch", [0, 0, 640, 240], "An arch."),
    ]
    assert stage.text(outcome) == "clock:\n01:23:45\n\narch:\nAn arch."


def test_results_belong_to_their_photos() -> None:
    stage = make(*map(says, "abcd"), regions=[CLOCK, ARCH])
    outcomes = list(stage.read([photo(), photo()]))
    descriptions = [[each["description"] for each in outcome.output["regions"]] for outcome in outcomes]
    assert descriptions == [["a", "b"], ["c", "d"]]


def test_only_selected_labels_are_processed() -> None:
    stage = make(regions=[CLOCK, ARCH], labels=["arch"])
    (outcome,) = stage.read([photo()])
    assert [each["label"] for each in outcome.output["regions"]] == ["arch"]
    assert sizes(stage) == [(640, 240)]


def test_a_stage_may_filter_regions_itself() -> None:
    class Left(PictureDescription):
        def is_selected(self, region: Region) -> bool:
            return region.box.x1 == 0

    stage = scripted(Left, PlainText, says("x"), regions=[CLOCK, ARCH])
    (outcome,) = stage.read([photo()])
    assert outcome.output
    assert [each["label"] for each in outcome.output["regions"]] == ["arch"]


def test_a_region_is_expanded_within_the_photo_and_scaled() -> None:
    stage = make(regions=[CLOCK], image_scale=2, expansion_factor=0.5)
    list(stage.read([photo(640, 480)]))
    # 160 x 120 pixels, 80 more on either side, 60 more below, none above; then enlarged twofold.
    assert sizes(stage) == [(640, 360)]


def test_one_failed_region_is_the_error_of_the_photo() -> None:
    error = ModelError("the model fell over")
    stage = make(says("fine"), Prediction(error=error), regions=[CLOCK, ARCH])
    (outcome,) = stage.read([photo()])
    assert (outcome.error, outcome.output) == (error, None)


def test_regions_need_the_full_size_photo() -> None:
    assert make(regions=[CLOCK], model={"longest_side": 512}).longest_side is None
    assert make(model={"longest_side": 512}).longest_side == 512


def test_boxes_are_in_pixels_of_the_full_size_photo() -> None:
    stage = make(regions=[CLOCK])
    (outcome,) = stage.read([photo(1280, 960, scale=2)])
    assert outcome.output["regions"][0]["box"] == [320, 0, 640, 240]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["arch"]}, "no region named 'arch'; available: photo"),
        ({"labels": ["arhc"], "regions": [ARCH]}, "no region named 'arhc'; available: arch"),
        ({"regions": [{"label": "x", "box": (0.5, 0, 0.5, 1)}]}, "is empty"),
        ({"regions": [{"label": "x", "box": (0, 0, 1.5, 1)}]}, "less than or equal to 1"),
        ({"regions": [{"label": "", "box": (0, 0, 1, 1)}]}, "at least 1 character"),
        ({"image_scale": 0}, "greater than 0"),
        ({"expansion_factor": -1}, "greater than or equal to 0"),
    ],
)
def test_invalid_regions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**options)


share = st.floats(0, 1, allow_nan=False)


@given(
    st.tuples(share, share, share, share).filter(lambda box: box[0] < box[2] and box[1] < box[3]),
    st.floats(0, 2),
    st.floats(0.01, 8),
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
)
def test_any_region_of_any_photo_is_a_valid_image(
    box: tuple[float, float, float, float], expansion: float, scale: float, size: tuple[int, int]
) -> None:
    stage = make(regions=[{"label": "x", "box": box}], expansion_factor=expansion, image_scale=scale)
    (outcome,) = stage.read([photo(*size)])
    assert outcome.error is None
    ((width, height),) = sizes(stage)
    assert width >= 1
    assert height >= 1
