"""`vision_hf_transformers`, run on a tiny model with random weights."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bibwatch.drawing import photo
from bibwatch.errors import ConfigurationError
from bibwatch.runtimes.base import BoxConvention, FinishReason, Prediction
from bibwatch.runtimes.devices import AcceleratorDevice, Dtype, choose_device, torch_dtype
from bibwatch.runtimes.transformers import (
    TransformersModelType,
    TransformersPromptStyle,
    VisionHfTransformers,
    VisionHfTransformersOptions,
)
from bibwatch.testing import RuntimeConformance
from bibwatch.testing.tiny_vlm import make_tiny_vlm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
load_file, save_file = safetensors.load_file, safetensors.save_file

pytestmark = pytest.mark.local

PROMPT = "Which bib?"
NEW_TOKENS = 12


def options(folder: Path, **settings: Any) -> VisionHfTransformersOptions:
    """Return options that make the tiny model's replies short and reproducible."""
    plain: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 3, "max_new_tokens": NEW_TOKENS}
    return VisionHfTransformersOptions.model_validate({"name": "tiny", "repo_id": str(folder), **plain, **settings})


def predict(folder: Path, images: list[Image.Image], prompt: str = PROMPT, **settings: Any) -> list[Prediction]:
    with VisionHfTransformers(options(folder, **settings)) as runtime:
        return list(runtime.predict_batch(images, prompt))


@pytest.fixture(scope="module")
def runtime(tiny_vlm: Path) -> Iterator[VisionHfTransformers]:
    with VisionHfTransformers(options(tiny_vlm)) as loaded:
        yield loaded


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Return images of several shapes, which give inputs of different lengths."""
    return [photo((bib,), size=size) for bib, size in (("1024", (300, 200)), ("0042", (90, 60)), ("777", (200, 300)))]


class TestVisionHfTransformers(RuntimeConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls, tiny_vlm: Path) -> VisionHfTransformers:
        return VisionHfTransformers(options(tiny_vlm))


class TestAnswers:
    def test_a_batch_gives_the_same_replies_as_single_images(
        self, runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        together = list(runtime.predict_batch(pictures, PROMPT))
        alone = [next(runtime.predict_batch([picture], PROMPT)) for picture in pictures]
        assert [answer.text for answer in together] == [answer.text for answer in alone]
        assert len({answer.text for answer in together}) == len(pictures)
        for one, other in zip(together, alone, strict=True):
            assert [token.logprob for token in one.tokens] == pytest.approx(
                [token.logprob for token in other.tokens], abs=1e-3
            )

    def test_inputs_of_different_length_are_padded_on_the_left(
        self, tiny_vlm: Path, pictures: list[Image.Image]
    ) -> None:
        # At 128 pixels, images are split into tiles, whose number depends on the image's shape.
        strip = photo(("5",), size=(400, 90))
        together = predict(tiny_vlm, [strip, *pictures], image_longest_edge=128, batch_size=4)
        alone = predict(tiny_vlm, [strip, *pictures], image_longest_edge=128, batch_size=1)
        assert [answer.text for answer in together] == [answer.text for answer in alone]

    def test_tiles_change_the_reply(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        assert (
            predict(tiny_vlm, pictures[:1])[0].text != predict(tiny_vlm, pictures[:1], image_longest_edge=128)[0].text
        )

    def test_the_finish_reason_of_a_reply_that_was_cut_off(
        self, runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        (answer,) = runtime.predict_batch(pictures[:1], PROMPT)
        assert answer.finish_reason is FinishReason.LENGTH
        assert len(answer.tokens) == NEW_TOKENS
        assert answer.device == "cpu"

    def test_a_finished_reply_does_not_affect_the_others(
        self, other_vlm: Callable[..., Path], runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        whole = list(runtime.predict_batch(pictures, PROMPT))
        ids = [ids_of(runtime, picture) for picture in pictures]
        last = next(token for token in ids[0][2:] if all(token not in other for other in ids[1:]))
        model = other_vlm("generation_config.json", eos_token_id=[3, last])
        ended, *others = predict(model, pictures)
        length = ids[0].index(last)
        assert ended.finish_reason is FinishReason.STOP
        assert [token.logprob for token in ended.tokens] == pytest.approx(
            [token.logprob for token in whole[0].tokens[:length]], abs=1e-3
        )
        assert whole[0].text.startswith(ended.text)
        assert [answer.text for answer in others] == [answer.text for answer in whole[1:]]
        assert {answer.finish_reason for answer in others} == {FinishReason.LENGTH}

    def test_the_probability_of_a_token_is_the_models_own(
        self, runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        (answer,) = runtime.predict_batch(pictures[:1], PROMPT)
        inputs = runtime._inputs(pictures[:1], PROMPT)
        model = runtime._model.model
        out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, output_scores=True, return_dict_in_generate=True)
        expected = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
        assert [token.logprob for token in answer.tokens] == pytest.approx(expected[0].tolist(), abs=1e-5)

    def test_the_text_equals_the_decoded_tokens(
        self, runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        for picture in pictures:
            (answer,) = runtime.predict_batch([picture], PROMPT)
            assert answer.text == runtime._model.processor.tokenizer.decode(
                ids_of(runtime, picture), skip_special_tokens=True
            )

    def test_replies_are_the_same_without_a_kv_cache(
        self,
        tiny_vlm: Path,
        runtime: VisionHfTransformers,
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        cached = [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]
        with VisionHfTransformers(options(tiny_vlm, use_kv_cache=False)) as uncached:
            generate = uncached._model.model.generate
            asked: list[bool] = []
            monkeypatch.setattr(
                uncached._model.model, "generate", lambda **how: asked.append(how["use_cache"]) or generate(**how)
            )
            assert [answer.text for answer in uncached.predict_batch(pictures, PROMPT)] == cached
            assert asked == [False]

    def test_a_checkpoints_own_sampling_does_not_change_greedy_answers(
        self, other_vlm: Callable[..., Path], runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        model = other_vlm("generation_config.json", do_sample=True, temperature=1.5, top_p=0.9, top_k=50)
        expected = [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]
        assert [answer.text for answer in predict(model, pictures)] == expected

    def test_a_temperature_samples(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        torch.manual_seed(0)
        answers = predict(tiny_vlm, [pictures[0]] * 6, temperature=2.0, batch_size=6)
        assert [answer.error for answer in answers] == [None] * 6
        assert len({answer.text for answer in answers}) > 1

    @pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
    def test_other_precisions_run(self, tiny_vlm: Path, pictures: list[Image.Image], dtype: str) -> None:
        with VisionHfTransformers(options(tiny_vlm, dtype=dtype)) as runtime:
            assert runtime._model.model.dtype is torch_dtype(Dtype(dtype), "cpu")
            assert [answer.error for answer in runtime.predict_batch(pictures, PROMPT)] == [None] * 3


class TestPromptStyles:
    def test_raw_sends_the_prompt_as_written(
        self, tiny_vlm: Path, runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        written = f"<|im_start|>User:<image>{PROMPT}<end_of_utterance>\nAssistant:"  # what the chat template writes
        chat = [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]
        raw = predict(tiny_vlm, pictures, written, transformers_prompt_style=TransformersPromptStyle.RAW)
        assert [answer.text for answer in raw] == chat

    def test_raw_without_an_image_placeholder_is_an_error(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        answers = predict(tiny_vlm, pictures, transformers_prompt_style="raw")
        assert all("<image>" in str(answer.error) for answer in answers)

    def test_none_sends_only_the_image(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        unasked = predict(tiny_vlm, pictures, "one thing", transformers_prompt_style="none")
        again = predict(tiny_vlm, pictures, "another", transformers_prompt_style="none")
        assert [answer.error for answer in unasked] == [None] * 3
        assert [answer.text for answer in unasked] == [answer.text for answer in again]
        assert len({answer.text for answer in unasked}) == 3


class TestLoading:
    @pytest.fixture
    def engine_log(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
        """Also capture the log of transformers, which has its own handler."""
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        return caplog

    def test_the_error_for_a_missing_model_explains_how_to_get_it(self, tmp_path: Path) -> None:
        absent = VisionHfTransformersOptions(
            name="big", repo_id="HuggingFaceTB/SmolVLM-2.2B-Instruct", download_gb=4.5, revision="no-such"
        )
        with pytest.raises(ConfigurationError, match="hf download HuggingFaceTB/SmolVLM-Instruct --revision no-such"):
            VisionHfTransformers(absent).load()
        with pytest.raises(ConfigurationError, match=r"the folder .*nowhere does not exist"):
            VisionHfTransformers(options(tmp_path / "nowhere")).load()

    def test_the_error_for_a_folder_without_weights_is_one_line(self, other_vlm: Callable[..., Path]) -> None:
        model = other_vlm()
        (model / "model.safetensors").unlink()
        assert f"the folder {model} has no weights (*.safetensors, *.bin)" in refusal(model)

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"quantized": True, "quantizer": "bitsandbytes"},
            {"quantized": True, "quantizer": "bitsandbytes", "load_in_8bit": False},
            {"quantized": True, "quantizer": "torchao"},
        ],
        ids=str,
    )
    def test_missing_weights_are_an_error(
        self, other_vlm: Callable[..., Path], settings: dict[str, Any], engine_log: pytest.LogCaptureFixture
    ) -> None:
        model = other_vlm()
        weights = load_file(model / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "text_model.layers.1" not in name}
        save_file(kept, model / "model.safetensors", {"format": "pt"})
        said = refusal(model, **settings)
        assert f": {len(weights) - len(kept)} weights are missing in {model}" in said
        assert not logging.getLogger("transformers.modeling_utils").filters, "other models still get their reports"
        assert "(first: model.text_model.layers.1.input_layernorm.weight); " in said
        assert "LOAD REPORT" not in engine_log.text

    def test_weights_of_another_shape_are_an_error(
        self, other_vlm: Callable[..., Path], engine_log: pytest.LogCaptureFixture
    ) -> None:
        model = other_vlm()
        config = json.loads((model / "config.json").read_text())
        config["vision_config"]["intermediate_size"] *= 2
        (model / "config.json").write_text(json.dumps(config))
        assert re.search(
            r"6 weights .* differ in shape from its config\.json \(first: model\.vision_model", refusal(model)
        )
        assert "LOAD REPORT" not in engine_log.text

    @pytest.mark.parametrize("settings", [{}, {"quantized": True}, {"quantized": True, "load_in_8bit": False}], ids=str)
    def test_tied_weights_are_not_missing(
        self, tmp_path: Path, pictures: list[Image.Image], settings: dict[str, Any]
    ) -> None:
        folder = make_tiny_vlm(tmp_path / "tied")
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(folder)
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        (answer,) = predict(folder, pictures[:1], **settings)
        assert answer.error is None

    def test_no_chat_template(self, other_vlm: Callable[..., Path], pictures: list[Image.Image]) -> None:
        model = other_vlm()
        (model / "chat_template.jinja").unlink()
        assert refusal(model) == f"preset tiny: {model} has no chat template"
        (answer,) = predict(model, pictures[:1], "<image>", transformers_prompt_style="raw")
        assert answer.error is None

    def test_model_pixels_need_a_processor_with_a_known_size(self, tiny_vlm: Path) -> None:
        assert f"{tiny_vlm} cannot process an image with boxes = model_pixels: " in refusal(
            tiny_vlm, boxes="model_pixels"
        )

    def test_the_error_for_an_unknown_class_is_one_line(self, other_vlm: Callable[..., Path]) -> None:
        model = other_vlm("config.json", model_type="no_such_model")
        assert "no_such_model" in refusal(model)

    def test_code_that_comes_with_the_weights_needs_trust(self, other_vlm: Callable[..., Path]) -> None:
        model = other_vlm(
            "config.json",
            model_type="own_code",
            auto_map={"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"},
        )
        (model / "own.py").write_text("raise RuntimeError('this code was run')")
        assert "trust_remote_code = true" in refusal(model)
        assert "this code was run" in refusal(model, trust_remote_code=True)

    def test_a_class_that_generates_no_text_is_rejected(self, tiny_vlm: Path) -> None:
        assert "writes no text" in refusal(tiny_vlm, transformers_model_type=TransformersModelType.AUTOMODEL)

    def test_a_removed_class_is_replaced_by_its_successor(
        self, tiny_vlm: Path, runtime: VisionHfTransformers, pictures: list[Image.Image]
    ) -> None:
        expected = [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]
        answers = predict(tiny_vlm, pictures, transformers_model_type="automodel-vision2seq")
        assert [answer.text for answer in answers] == expected

    def test_a_size_that_the_processor_does_not_support_is_rejected(self, tiny_vlm: Path) -> None:
        assert "image_longest_edge" in refusal(tiny_vlm, max_pixels=100_000)


class TestDevices:
    def test_a_missing_device_falls_back_to_the_cpu(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        (answer,) = predict(tiny_vlm, pictures[:1], device="cuda:63")
        assert answer.error is None
        assert answer.device == "cpu"

    def test_a_missing_device_without_fallback_is_an_error(self, tiny_vlm: Path) -> None:
        assert "has no cuda:63" in refusal(tiny_vlm, device="cuda:63", device_fallback=False)
        assert "has no cuda:63" in refusal(tiny_vlm, device="cuda:63", supported_devices=["cuda"])

    def test_an_unsupported_device_is_rejected(self, tiny_vlm: Path) -> None:
        assert "supported_devices" in refusal(tiny_vlm, device="cpu", supported_devices=["cuda"])

    def test_auto_takes_the_best_available_device(self) -> None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        assert choose_device("auto", tuple(AcceleratorDevice), fallback=False, where="preset x") == best
        assert choose_device("auto", (AcceleratorDevice.CPU,), fallback=False, where="preset x") == "cpu"


def test_the_size_of_an_image_resized_by_qwen(tiny_vlm: Path) -> None:
    processor = transformers.Qwen2VLImageProcessorPil()
    runtime = VisionHfTransformers(options(tiny_vlm, boxes=BoxConvention.MODEL_PIXELS))
    loaded: Any = SimpleNamespace(processor=SimpleNamespace(image_processor=processor))
    runtime._loaded = loaded
    for size in ((640, 480), (3000, 2000), (50, 40)):
        (grid,) = processor(Image.new("RGB", size), return_tensors="pt")["image_grid_thw"].tolist()
        assert runtime.model_size(size) == (grid[2] * 14, grid[1] * 14)


def ids_of(runtime: VisionHfTransformers, picture: Image.Image) -> list[int]:
    """Return the tokens of the reply."""
    inputs = runtime._inputs([picture], PROMPT)
    sequence: list[int] = runtime._model.model.generate(**inputs, max_new_tokens=NEW_TOKENS)[
        0, inputs["input_ids"].shape[1] :
    ].tolist()
    return sequence


def refusal(folder: Path, **settings: Any) -> str:
    """Return why a model cannot be loaded, on one line."""
    with pytest.raises(ConfigurationError) as refused:
        VisionHfTransformers(options(folder, **settings)).load()
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("preset tiny: ")
    return str(refused.value)


def test_a_reply_ends_at_a_stop_text(tiny_vlm: Path, pictures: list[Image.Image]) -> None:
    """Whole tokens remain, with their probabilities."""
    (whole,) = predict(tiny_vlm, pictures[:1])
    stop = whole.text[4:6]
    (cut,) = predict(tiny_vlm, pictures[:1], stop=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason is FinishReason.STOP
    assert cut.tokens in ((), whole.tokens[: len(cut.tokens)])
