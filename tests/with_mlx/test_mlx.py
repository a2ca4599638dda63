"""`vision_mlx`, run on a tiny model with random weights, and compared to transformers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bibwatch.drawing import photo
from bibwatch.errors import ConfigurationError, ModelUnavailableError
from bibwatch.runtimes.base import Constraint, FinishReason, Prediction
from bibwatch.runtimes.mlx import VisionMlx, VisionMlxOptions
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions
from bibwatch.testing import RuntimeConformance
from trained import BOTH, QWEN2VL, UNTAUGHT, bibs, reply
from trained import pictures as pictures_of

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_vlm")
pytest.importorskip("torch")

pytestmark = pytest.mark.mlx

PROMPT = "Which bib?"
NEW_TOKENS = 12


def options(folder: Path, **settings: Any) -> VisionMlxOptions:
    return VisionMlxOptions.model_validate(
        {"name": "tiny", "repo_id": str(folder), "max_new_tokens": NEW_TOKENS, **settings}
    )


def predict(folder: Path, images: list[Image.Image], **settings: Any) -> list[Prediction]:
    with VisionMlx(options(folder, **settings)) as runtime:
        return list(runtime.predict_batch(images, PROMPT))


def predict_with_transformers(folder: Path, images: list[Image.Image], **settings: Any) -> list[Prediction]:
    plain: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": NEW_TOKENS}
    taken = VisionHfTransformersOptions.model_validate({"repo_id": str(folder), **plain, **settings})
    with VisionHfTransformers(taken) as runtime:
        return list(runtime.predict_batch(images, PROMPT))


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [photo((bib,), size=size) for bib, size in (("1024", (300, 200)), ("0042", (90, 60)), ("777", (200, 300)))]


class TestVisionMlx(RuntimeConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls, tiny_vlm: Path) -> VisionMlx:
        return VisionMlx(options(tiny_vlm, batch_size=2))


class TestSameAsTransformers:
    @pytest.mark.parametrize("settings", [{}, {"image_longest_edge": 128}], ids=str)
    def test_replies_are_equal(self, tiny_vlm: Path, pictures: list[Image.Image], settings: dict[str, Any]) -> None:
        ours = predict(tiny_vlm, pictures, **settings)
        theirs = predict_with_transformers(tiny_vlm, pictures, **settings)
        assert [answer.text for answer in ours] == [answer.text for answer in theirs]
        assert len({answer.text for answer in ours}) == len(pictures)
        for one, other in zip(ours, theirs, strict=True):
            assert one.finish_reason is other.finish_reason is FinishReason.LENGTH
            assert [token.logprob for token in one.tokens] == pytest.approx(
                [token.logprob for token in other.tokens],
                abs=0.05,  # they resize images slightly differently
            )

    def test_they_do_not_affect_each_other(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        texts = [
            [answer.text for answer in run(tiny_vlm, pictures)]
            for run in (predict, predict_with_transformers, predict, predict_with_transformers)
        ]
        assert texts == [texts[0]] * 4

    def test_each_keeps_its_own_processor(self, tiny_vlm: Path) -> None:
        from transformers import AutoProcessor

        for _ in range(2):  # the second time, mlx-vlm's module is already imported and patches nothing
            with VisionMlx(options(tiny_vlm)) as runtime:
                assert type(runtime._processor).__module__.startswith("mlx_vlm.")
            assert type(AutoProcessor.from_pretrained(tiny_vlm)).__module__.startswith("transformers.")


@pytest.fixture
def saved_by_transformers_5(tiny_vlm: Path, other_vlm: Callable[..., Path]) -> Path:
    """Return the tiny model as transformers 5 saves it: with `rope_theta` only in `rope_parameters`."""
    text = json.loads((tiny_vlm / "config.json").read_text())["text_config"]
    assert text["rope_parameters"]["rope_theta"] == text.pop("rope_theta")
    return other_vlm("config.json", text_config=text)


class TestRopeTheta:
    def test_a_checkpoint_saved_by_transformers_5_loads_correctly(
        self, saved_by_transformers_5: Path, pictures: list[Image.Image]
    ) -> None:
        saved = saved_by_transformers_5
        before = (saved / "config.json").read_bytes()
        texts = [answer.text for answer in predict(saved, pictures)]
        assert texts == [answer.text for answer in predict_with_transformers(saved, pictures)]
        assert (saved / "config.json").read_bytes() == before

    def test_the_workaround_is_still_needed(self, saved_by_transformers_5: Path) -> None:
        """Fails once mlx-vlm supports `rope_parameters`: then remove our workaround."""
        import mlx_vlm

        from bibwatch.runtimes.mlx import _mlx_processors

        with _mlx_processors():
            model, _ = mlx_vlm.load(str(saved_by_transformers_5))
        assert model.config.text_config.rope_theta == 1_000_000


class TestAnswers:
    def test_the_finish_reason_of_a_finished_reply(
        self, tiny_vlm: Path, other_vlm: Callable[..., Path], pictures: list[Image.Image]
    ) -> None:
        (whole,) = predict(tiny_vlm, pictures[:1])
        texts = [token.text for token in whole.tokens]
        place = next(place for place, text in enumerate(texts) if place > 1 and text.isascii() and text.strip())
        tokenizer = json.loads((tiny_vlm / "tokenizer.json").read_text())
        last = tokenizer["model"]["vocab"][texts[place].replace(" ", "Ġ")]
        model = other_vlm("generation_config.json", eos_token_id=[3, last])
        (ended,) = predict(model, pictures[:1])
        assert ended.finish_reason is FinishReason.STOP
        assert ended.tokens == whole.tokens[: texts.index(texts[place])]
        (other,) = predict_with_transformers(model, pictures[:1])
        assert (ended.finish_reason, ended.text) == (other.finish_reason, other.text)

    def test_the_device_is_the_one_mlx_computes_on(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        (answer,) = predict(tiny_vlm, pictures[:1])
        assert answer.device == ("gpu" if mx.metal.is_available() or mx.cuda.is_available() else "cpu")

    def test_a_checkpoints_own_sampling_does_not_change_greedy_answers(
        self, tiny_vlm: Path, other_vlm: Callable[..., Path], pictures: list[Image.Image]
    ) -> None:
        model = other_vlm("generation_config.json", do_sample=True, temperature=1.5, top_p=0.9, top_k=50)
        assert [a.text for a in predict(model, pictures)] == [a.text for a in predict(tiny_vlm, pictures)]

    def test_replies_match_the_constraint(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        digits = Constraint(regex="[0-9]|[a-z]{2,9}")
        with VisionMlx(options(tiny_vlm)) as runtime:
            answers = list(runtime.predict_batch(pictures, PROMPT, constraint=digits))
            free = [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]
        for answer in answers:
            assert answer.finish_reason is FinishReason.STOP
            assert re.fullmatch("[0-9]|[a-z]{2,9}", answer.text)
        assert free == [answer.text for answer in predict(tiny_vlm, pictures)]

    def test_without_the_library_the_error_is_not_the_images(
        self, tiny_vlm: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "llguidance.hf", None)
        with VisionMlx(options(tiny_vlm)) as runtime:
            (answer,) = runtime.predict_batch(pictures[:1], PROMPT, constraint=Constraint(regex="[0-9]+"))
        assert isinstance(answer.error, ModelUnavailableError)
        assert str(answer.error).endswith("pip install 'bibwatch[mlx]'")

    def test_the_same_seed_gives_the_same_reply(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        def drawn(**settings: Any) -> list[str]:
            return [answer.text for answer in predict(tiny_vlm, pictures, temperature=1.5, **settings)]

        assert drawn(seed=7) == drawn(seed=7) != drawn(seed=8)
        likeliest = [answer.text for answer in predict(tiny_vlm, pictures)]
        assert drawn(seed=7, top_p=1e-6) == likeliest


class TestLoading:
    def test_the_error_for_a_missing_model_explains_how_to_get_it(self) -> None:
        absent = VisionMlxOptions(name="far", repo_id="mlx-community/no-such-model-4bit")
        with pytest.raises(ConfigurationError, match="hf download mlx-community/no-such-model-4bit"):
            VisionMlx(absent).load()

    def test_the_error_for_an_unknown_model_is_one_line(self, other_vlm: Callable[..., Path]) -> None:
        model = other_vlm("config.json", model_type="no_such_model")
        with pytest.raises(ConfigurationError) as refused:
            VisionMlx(options(model)).load()
        assert "no_such_model" in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_checkpoint_without_a_chat_template_is_refused(self, other_vlm: Callable[..., Path]) -> None:
        model = other_vlm()
        (model / "chat_template.jinja").unlink()
        with pytest.raises(ConfigurationError, match="has no chat template"):
            VisionMlx(options(model)).load()


def test_a_reply_ends_at_a_stop_text(tiny_vlm: Path, pictures: list[Image.Image]) -> None:
    (whole,) = predict(tiny_vlm, pictures[:1])
    stop = whole.text[4:6]
    (cut,) = predict(tiny_vlm, pictures[:1], stop=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason is FinishReason.STOP


class TestTrainedModels:
    @pytest.mark.parametrize("checkpoint", BOTH, ids=lambda folder: folder.name)
    def test_replies_equal_those_of_transformers(self, checkpoint: Path) -> None:
        numbers = bibs(48)
        said = [each.text for each in predict(checkpoint, pictures_of(numbers))]
        assert said == [each.text for each in predict_with_transformers(checkpoint, pictures_of(numbers))]
        assert sum(text == reply(bib) for text, bib in zip(said, numbers, strict=True)) >= 44

    @pytest.mark.parametrize("checkpoint", BOTH, ids=lambda folder: folder.name)
    def test_probabilities_equal_those_of_transformers_in_the_same_precision(
        self, checkpoint: Path, tmp_path: Path
    ) -> None:
        """MLX computes in the checkpoint's precision. The checkpoint is saved by transformers 5."""
        saved = save_by_transformers_5(checkpoint, tmp_path / "saved")
        ours, theirs = (run(saved, pictures_of(UNTAUGHT)) for run in (predict, predict_with_transformers))
        assert [answer.text for answer in ours] == [answer.text for answer in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert logprobs(one) == pytest.approx(logprobs(other), abs=0.02)

    def test_the_image_size_of_qwen_is_applied(self, tmp_path: Path) -> None:
        """mlx-vlm uses other names for it."""
        saved = save_by_transformers_5(QWEN2VL, tmp_path / "saved")
        numbers = pictures_of(bibs(12))
        area = {"min_pixels": 1500, "max_pixels": 2304}
        said = [each.text for each in predict(saved, numbers, **area)]
        assert said == [each.text for each in predict_with_transformers(saved, numbers, **area)]
        assert said != [each.text for each in predict(saved, numbers)]

    def test_the_image_comes_before_the_prompt_in_qwen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in all other engines; mlx-vlm's default is the opposite."""
        asked: list[str] = []

        def generated(_model: Any, _processor: Any, text: str, **_settings: Any) -> list[Any]:
            asked.append(text)
            return []

        monkeypatch.setattr("mlx_vlm.stream_generate", generated)
        predict(QWEN2VL, pictures_of(bibs(1)))
        assert f"<|vision_end|>{PROMPT}" in asked[0]

    def test_the_workaround_is_still_needed(self, tmp_path: Path) -> None:
        """Fails once mlx-vlm supports a nested Qwen2-VL: then remove our workaround."""
        import mlx_vlm

        from bibwatch.runtimes.mlx import _mlx_processors

        with _mlx_processors(), pytest.raises(TypeError, match="hidden_size"):
            mlx_vlm.load(str(save_by_transformers_5(QWEN2VL, tmp_path / "saved")))


def save_by_transformers_5(checkpoint: Path, folder: Path) -> Path:
    """Save a copy of a checkpoint in single precision."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).save_pretrained(folder)
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def logprobs(answer: Prediction) -> list[float | None]:
    return [token.logprob for token in answer.tokens]
