"""The runtime contract as tests: subclass `RuntimeConformance` in your tests and define the fixture `unloaded`."""

from __future__ import annotations

import io
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import ExifTags, Image
from pydantic import ValidationError

from bibwatch.drawing import jpeg, photo
from bibwatch.errors import ModelError
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, OutputKind, Prediction, Runtime

_BIBS = ("1024", "0042", "777")
_ROUNDING = 1e-4  # a log probability may exceed 0 by this much
_YES_OR_NO = {
    "type": "object",
    "properties": {"legible": {"type": "string", "enum": ["yes", "no"]}},
    "required": ["legible"],
    "additionalProperties": False,
}


class RuntimeConformance:
    """What every runtime must do, with any engine. Define the fixture `unloaded`; the model is loaded twice in total.

    The options should make answers repeatable (temperature 0) and short, and enable constraints if the runtime
    supports them:

        class TestMyRuntime(RuntimeConformance):
            @pytest.fixture(scope="class")
            @classmethod
            def unloaded(cls):
                return MyRuntime(MyOptions(name="mine", batch_size=2, max_new_tokens=16))
    """

    prompt = "Which bib numbers can be read in this photo?"

    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls) -> Runtime[Any]:
        """Return the runtime under test, not loaded yet."""
        raise NotImplementedError(f"{cls.__name__} does not define the fixture `unloaded`")

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls, unloaded: Runtime[Any]) -> Iterator[Runtime[Any]]:
        """Load the runtime for the tests of this class, and close it afterwards."""
        with unloaded:
            yield unloaded

    def predict(self, runtime: Runtime[Any], images: Iterable[Image.Image]) -> list[Prediction]:
        """Return the predictions for some images."""
        return list(runtime.predict_batch(images, self.prompt))

    # Output.

    def test_a_prediction_is_complete(self, runtime: Runtime[Any]) -> None:
        image = photo(("1024",), size=(300, 200))
        (prediction,) = self.predict(runtime, [image])
        assert prediction.error is None
        assert prediction.device
        assert math.isfinite(prediction.seconds)
        assert prediction.seconds > 0
        assert isinstance(prediction.finish_reason, FinishReason)
        if runtime.options.output_kind is OutputKind.LINES:
            assert prediction.text == ""
            assert all(0 <= line.score <= 1 and line.text for line in prediction.lines)
        else:
            assert prediction.lines == ()
            assert prediction.coordinates is not None
            assert (prediction.coordinates.width, prediction.coordinates.height) == image.size

    def test_tokens_join_to_the_text(self, runtime: Runtime[Any]) -> None:
        (prediction,) = self.predict(runtime, [photo(("1024",), size=(300, 200))])
        if prediction.tokens:
            assert "".join(token.text for token in prediction.tokens) == prediction.text
        assert all(math.isfinite(token.logprob) and token.logprob <= _ROUNDING for token in prediction.tokens)

    def test_one_prediction_per_image_in_order(self, runtime: Runtime[Any]) -> None:
        images = [photo((bib,), size=(300, 200)) for bib in _BIBS]
        forward = _answers(self.predict(runtime, images))
        backward = _answers(self.predict(runtime, reversed(images)))
        assert len(forward) == len(images)
        assert forward == backward[::-1]

    def test_the_same_image_gets_the_same_answer(self, runtime: Runtime[Any]) -> None:
        image = photo(("1024",), size=(300, 200))
        assert len(set(_answers(self.predict(runtime, [image, image]) + self.predict(runtime, [image])))) == 1

    # Input.

    def test_no_images_no_predictions(self, runtime: Runtime[Any]) -> None:
        assert self.predict(runtime, []) == []

    def test_images_are_consumed_as_needed(self, runtime: Runtime[Any]) -> None:
        ahead = runtime.options.batch_size
        given = 0

        def images() -> Iterator[Image.Image]:
            nonlocal given
            for _ in range(2 * ahead + 1):
                given += 1
                yield Image.new("RGB", (64, 64), "white")

        answered = 0
        for _ in runtime.predict_batch(images(), self.prompt):
            assert given - answered <= ahead
            answered += 1
        assert answered == 2 * ahead + 1

    def test_a_caller_may_stop_between_predictions(self, runtime: Runtime[Any]) -> None:
        images = [photo((bib,), size=(300, 200)) for bib in _BIBS]
        for prediction in runtime.predict_batch(iter(images), self.prompt):
            assert prediction.error is None
            break
        assert [prediction.error for prediction in self.predict(runtime, images)] == [None] * len(images)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
    def test_images_of_any_mode(self, runtime: Runtime[Any], mode: str) -> None:
        (prediction,) = self.predict(runtime, [_in_mode(photo(("1024",), size=(300, 200)), mode)])
        assert prediction.error is None

    def test_an_opaque_alpha_channel_changes_nothing(self, runtime: Runtime[Any]) -> None:
        image = photo(("1024",), size=(300, 200))
        plain, with_alpha = _answers(self.predict(runtime, [image, image.convert("RGBA")]))
        assert plain == with_alpha

    def test_the_orientation_tag_is_ignored(self, runtime: Runtime[Any]) -> None:
        image = photo(("1024",), size=(300, 200))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        file = io.BytesIO()
        image.save(file, "PNG", exif=exif)
        plain, tagged = _answers(self.predict(runtime, [image, Image.open(file)]))
        assert plain == tagged

    @pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (6000, 4000)], ids=str)
    def test_images_of_any_size(self, runtime: Runtime[Any], size: tuple[int, int]) -> None:
        (prediction,) = self.predict(runtime, [Image.new("RGB", size, "white")])
        assert prediction.error is None

    def test_a_broken_image_does_not_affect_its_neighbours(self, runtime: Runtime[Any]) -> None:
        image = photo(("1024",), size=(300, 200))
        before, broken, after = self.predict(runtime, [image, _truncated(image), image])
        assert isinstance(broken.error, ModelError)
        assert str(broken.error)
        assert "\n" not in str(broken.error)
        assert broken.text == ""
        assert broken.lines == ()
        assert _answers([before, after]) == _answers(self.predict(runtime, [image, image]))

    # Constraints: obeyed or refused, never ignored.

    def test_a_pattern_is_obeyed_or_refused(self, runtime: Runtime[Any]) -> None:
        for prediction in self._constrained(runtime, Constraint(regex="[0-9]{1,4}")):
            assert re.fullmatch(
                "[0-9]{1,4}" if prediction.finish_reason is FinishReason.STOP else "[0-9]{0,4}", prediction.text
            )

    def test_a_schema_is_obeyed_or_refused(self, runtime: Runtime[Any]) -> None:
        for prediction in self._constrained(runtime, Constraint(json_schema=_YES_OR_NO)):
            if prediction.finish_reason is FinishReason.LENGTH:
                assert re.fullmatch(r"\s*(\{.*)?", prediction.text, re.DOTALL)
            else:
                assert json.loads(prediction.text)["legible"] in {"yes", "no"}

    def _constrained(self, runtime: Runtime[Any], constraint: Constraint) -> list[Prediction]:
        """Return the successful predictions; the others must be model errors."""
        if runtime.options.output_kind is OutputKind.LINES:
            pytest.skip("OCR takes no prompt, so its output cannot be constrained")
        images = [photo((bib,), size=(300, 200)) for bib in _BIBS]
        predictions = list(runtime.predict_batch(images, self.prompt, constraint=constraint))
        assert len(predictions) == len(images)
        assert all(prediction.error is None or isinstance(prediction.error, ModelError) for prediction in predictions)
        return [prediction for prediction in predictions if prediction.error is None]

    # Loading.

    def test_loading_twice_is_harmless(self, runtime: Runtime[Any]) -> None:
        runtime.load()
        runtime.load()
        assert self.predict(runtime, [photo(("1024",), size=(300, 200))])[0].error is None

    def test_closing_twice_is_harmless_and_use_reloads_the_model(self, runtime: Runtime[Any]) -> None:
        image = photo(("1024",), size=(300, 200))
        before = _answers(self.predict(runtime, [image]))
        runtime.close()
        runtime.close()
        assert _answers(self.predict(runtime, [image])) == before

    def test_a_model_loaded_in_one_thread_works_in_another(self, runtime: Runtime[Any]) -> None:
        images = [photo(("1024",), size=(300, 200))]
        with ThreadPoolExecutor(1) as other:
            elsewhere = other.submit(self.predict, runtime, images).result()
        assert _answers(elsewhere) == _answers(self.predict(runtime, images))

    # Options.

    def test_the_runtime_declares_its_options_type(self, unloaded: Runtime[Any]) -> None:
        assert type(unloaded).get_options_type() is type(unloaded.options)
        assert isinstance(unloaded.options, ModelOptions)

    def test_options_survive_json(self, unloaded: Runtime[Any]) -> None:
        options = unloaded.options
        assert type(options).model_validate_json(options.model_dump_json()) == options

    def test_options_survive_toml(self, unloaded: Runtime[Any]) -> None:
        options = unloaded.options
        written = "\n".join(
            f"{key} = {_toml(value)}" for key, value in options.model_dump(mode="json", exclude_none=True).items()
        )
        assert type(options).model_validate(tomllib.loads(written)) == options

    def test_an_unknown_option_is_refused(self, unloaded: Runtime[Any]) -> None:
        with pytest.raises(ValidationError, match="no_such_option"):
            type(unloaded.options).model_validate({**unloaded.options.model_dump(), "no_such_option": 1})

    def test_identity_holds_what_can_change_an_answer(self, unloaded: Runtime[Any]) -> None:
        options = unloaded.options
        assert options.identity()["kind"] == options.kind
        assert not (options.hardware_fields | options.about_fields) & options.identity().keys()
        elsewhere = options.model_copy(update={"batch_size": options.batch_size + 1, "note": "on another machine"})
        assert elsewhere.identity() == options.identity()
        json.dumps(options.identity())  # hashed as JSON

    def test_the_reason_it_cannot_run_is_one_line(self, unloaded: Runtime[Any]) -> None:
        reason = unloaded.options.obstacle()
        assert reason is None or (reason.strip() and "\n" not in reason)


def _answers(predictions: Iterable[Prediction]) -> list[tuple[Any, ...]]:
    """Return the predictions without device and seconds. Fail if there is an error."""
    predictions = list(predictions)
    assert [prediction.error for prediction in predictions] == [None] * len(predictions)
    return [(prediction.text, prediction.lines, prediction.finish_reason) for prediction in predictions]


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return image.convert("I").point(lambda value: value * 257).convert("I;16")
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert(mode)


def _truncated(image: Image.Image) -> Image.Image:
    """Return an image that fails when its pixels are loaded, because the file is truncated."""
    data = jpeg(image)
    return Image.open(io.BytesIO(data[: len(data) // 2]))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # a JSON string, number or boolean is TOML too
