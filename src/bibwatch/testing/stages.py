"""The stage contract as tests, for bibwatch's stages and those of plugins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from PIL import Image

from bibwatch.errors import ModelError, ModelReplyError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Interpreter
from bibwatch.runtimes.base import (
    BoxConvention,
    Constraint,
    CoordinateSpace,
    FinishReason,
    ModelOptions,
    OutputKind,
    Prediction,
    Runtime,
)
from bibwatch.stages.base import Outcome, Stage


class ScriptedOptions(ModelOptions):
    """Options of a model that returns scripted text replies."""

    kind: str = "scripted"
    name: str = "scripted"


class ScriptedLinesOptions(ScriptedOptions):
    """Options of a model that returns scripted lines of text."""

    output_kind: ClassVar[OutputKind] = OutputKind.LINES


class ScriptedRuntime(Runtime[ScriptedOptions]):
    """Returns scripted predictions in turn, and records the images and prompts."""

    options_type: ClassVar[type[ModelOptions]] = ScriptedOptions

    def __init__(self, options: ScriptedOptions, predictions: Sequence[Prediction]) -> None:
        super().__init__(options)
        self._predictions = predictions
        self.images: list[Image.Image] = []
        self.prompts: list[str] = []

    def load(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        del constraint
        for image in images:
            prediction = self._predictions[len(self.images) % len(self._predictions)]
            self.images.append(image)
            self.prompts.append(prompt)
            yield prediction


def scripted(
    stage: type[Stage[Any]],
    interpreter: type[Interpreter[Any, Any]],
    *predictions: Prediction,
    output_kind: OutputKind = OutputKind.TEXT,
    model: dict[str, Any] | None = None,
    substages: Mapping[str, Stage[Any]] | None = None,
    **options: Any,
) -> Stage[Any]:
    """Return a stage whose model returns these predictions in turn; `options` are the stage's, `model` the model's."""
    model_type = ScriptedOptions if output_kind is OutputKind.TEXT else ScriptedLinesOptions
    model_options = model_type.model_validate(model or {})
    chosen = stage.options_type.model_validate({"model_options": model_options, **options})
    runtime = ScriptedRuntime(model_options, predictions)
    return stage(chosen, runtime, interpreter(chosen.model_interpreter_options), substages)


def photo(width: int = 640, height: int = 480, *, scale: int = 1) -> Photo:
    """Return a blank photo, decoded at 1/scale of its size."""
    image = Image.new("RGB", (width // scale, height // scale), "white")
    return Photo(image, width, height, sha256="0" * 64, captured_at=None)


class StageConformance:
    """What every stage must do. Subclass it in a plugin's tests:

    class TestExposure(StageConformance):
        stage = Exposure
        interpreter = Percentage
        good = Prediction(text="41.5 %", finish_reason=FinishReason.STOP)
    """

    stage: type[Stage[Any]]
    interpreter: type[Interpreter[Any, Any]]
    output_kind: OutputKind = OutputKind.TEXT  # of the model
    model: Mapping[str, Any] = {}  # other model options
    boxes: int = 0  # minimum number of boxes in the outcome of `good`
    good: Prediction  # one the stage can use
    bad: Prediction = Prediction(text="\ufffd I am sorry, but", finish_reason=FinishReason.LENGTH)  # one it cannot

    def make(self, *predictions: Prediction, **options: Any) -> Stage[Any]:
        """Return the stage with a model that returns these predictions in turn."""
        model = {**self.model, **options.pop("model", {})}
        return scripted(
            self.stage, self.interpreter, *predictions, output_kind=self.output_kind, model=model, **options
        )

    def read(self, stage: Stage[Any], number: int = 1) -> list[Outcome]:
        """Read `number` photos."""
        return list(stage.read(photo() for _ in range(number)))

    def test_one_outcome_per_photo(self) -> None:
        outcomes = self.read(self.make(self.good), 3)
        assert len(outcomes) == 3
        assert all(outcome.error is None for outcome in outcomes), [outcome.error for outcome in outcomes]

    def test_no_photos_no_outcomes(self) -> None:
        assert self.read(self.make(self.good), 0) == []

    def test_a_good_outcome_is_json_and_readable(self) -> None:
        stage = self.make(self.good)
        (outcome,) = self.read(stage)
        assert outcome.candidates or outcome.output, "the outcome of a usable prediction is empty"
        if outcome.output is not None:
            assert json.loads(json.dumps(outcome.output, allow_nan=False)) == outcome.output
        assert stage.text(outcome).strip()

    def test_a_failed_prediction_affects_only_its_photo(self) -> None:
        error = ModelError("the model fell over")
        first, second, third = self.read(self.make(self.good, Prediction(error=error), self.good), 3)
        assert (first.error, second.error, third.error) == (None, error, None)
        assert not second.candidates
        assert second.output is None

    def test_an_unusable_reply_is_an_error_not_an_empty_result(self) -> None:
        if self.output_kind is OutputKind.LINES:
            pytest.skip("lines of text are always valid, even if there are none")
        for text in ("", "   ", "\0"):
            (outcome,) = self.read(self.make(Prediction(text=text, finish_reason=FinishReason.STOP)))
            assert isinstance(outcome.error, ModelReplyError), text
        (outcome,) = self.read(self.make(self.bad))
        assert isinstance(outcome.error, ModelReplyError)

    def test_a_faulty_runtime_or_interpreter_is_an_error_of_the_photo(self) -> None:
        class Faulty(self.interpreter):  # type: ignore[name-defined, misc]
            def interpret(self, prediction: Prediction, prompt: str = "") -> Any:
                raise KeyError(prompt)

        stage = self.make(self.good)
        stage.interpreter = Faulty(stage.options.model_interpreter_options)
        outcomes = self.read(stage, 2)
        stage = self.make(self.good)
        stage.runtime.predict_batch = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        for outcome in (*outcomes, *self.read(stage, 2)):
            assert isinstance(outcome.error, ModelError)
            assert "\n" not in str(outcome.error)

    def test_device_and_seconds_are_passed_on(self) -> None:
        good = Prediction(**{**vars(self.good), "device": "cuda:1", "seconds": 0.5})
        (outcome,) = self.read(self.make(good))
        assert (outcome.device, outcome.seconds) == ("cuda:1", 0.5)

    def test_the_model_gets_the_default_or_the_configured_prompt(self) -> None:
        for options, asked in (({}, None), ({"prompt": "What is this?"}, "What is this?")):
            stage = self.make(self.good, **options)
            self.read(stage)
            assert isinstance(stage.runtime, ScriptedRuntime)
            assert stage.runtime.prompts == [asked or stage.options.question]
            assert stage.runtime.prompts != [""]

    def test_warm_up_raises_errors(self) -> None:
        self.make(self.good).warm_up()
        with pytest.raises(ModelError, match="fell over"):
            self.make(Prediction(error=ModelError("the model fell over"))).warm_up()

    def test_the_fingerprint_covers_what_changes_answers(self) -> None:
        same = {self.make(self.good, model={"batch_size": size}).options.fingerprint() for size in (1, 2)}
        assert len(same) == 1
        assert self.make(self.good, model={"longest_side": 640}).options.fingerprint() not in same
        asked = self.make(self.good, prompt="What is this?").options.fingerprint()
        assert (asked in same) == (self.output_kind is OutputKind.LINES), (
            "only a model with a prompt can change its answer"
        )

    def test_options_survive_json(self) -> None:
        options = self.make(self.good, prompt="What?").options
        others = {"model_options", "model_interpreter_options", *options.submodels}  # built by the registry
        own = json.loads(options.model_dump_json(exclude=others))
        again = type(options).model_validate(own | {name: getattr(options, name) for name in others})
        assert again == options

    def test_a_model_made_for_another_stage_is_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot do"):
            self.make(self.good, model={"stages": ["another"]})

    def test_boxes_are_in_pixels_of_the_full_size_photo(self) -> None:
        coordinates = CoordinateSpace(BoxConvention.REL1000, 320, 240, sent=(320, 240))
        stage = self.make(Prediction(**{**vars(self.good), "coordinates": coordinates}))
        (outcome,) = stage.read([photo(scale=2)])
        assert outcome.error is None
        boxes = _boxes(outcome)
        assert len(boxes) >= self.boxes
        for box in boxes:
            assert 0 <= box[0] < box[2] <= 640
            assert 0 <= box[1] < box[3] <= 480


def _boxes(outcome: Outcome) -> list[list[float]]:
    boxes = [[*vars(candidate.box).values()] for candidate in outcome.candidates if candidate.box]
    for part in (outcome.output or {}).values():
        if isinstance(part, list):
            boxes += [each["box"] for each in part if isinstance(each, dict) and each.get("box")]
    return boxes
