"""Generation: constrained, sampled, quantized, compiled, and cut short for a warm-up."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bibwatch.drawing import photo
from bibwatch.errors import ConfigurationError, ModelError, ModelUnavailableError
from bibwatch.runtimes.base import Constraint, FinishReason, Prediction
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions, quantization
from bibwatch.runtimes.transformers.quantization import EIGHT, FOUR, Quantizer
from bibwatch.runtimes.transformers.sampling import SeededSampler
from bibwatch.testing.tiny_vlm import make_tiny_vlm
from trained import BOTH

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.local

PROMPT = "Which bib?"
BIBS = {
    "type": "object",
    "properties": {
        "bibs": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"number": {"type": "string", "pattern": "^[0-9]{1,4}$"}},
                "required": ["number"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["bibs"],
    "additionalProperties": False,
}


def load(folder: Path, **settings: Any) -> VisionHfTransformers:
    plain: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 3, "max_new_tokens": 12}
    options = VisionHfTransformersOptions.model_validate({"name": "x", "repo_id": str(folder), **plain, **settings})
    return VisionHfTransformers(options)


def predict(
    folder: Path, images: list[Image.Image], constraint: Constraint | None = None, **settings: Any
) -> list[Prediction]:
    with load(folder, **settings) as runtime:
        return list(runtime.predict_batch(images, PROMPT, constraint=constraint))


def texts(folder: Path, images: list[Image.Image], **settings: Any) -> list[str]:
    return [answer.text for answer in predict(folder, images, **settings)]


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [photo((bib,), size=size) for bib, size in (("1024", (300, 200)), ("0042", (90, 60)), ("777", (200, 300)))]


class TestConstraints:
    @pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "seed": 1}, {"batch_size": 1}], ids=str)
    def test_every_reply_of_a_batch_matches_the_schema(
        self, tiny_vlm: Path, pictures: list[Image.Image], settings: dict[str, Any]
    ) -> None:
        answers = predict(tiny_vlm, pictures, Constraint(json_schema=BIBS), max_new_tokens=80, **settings)
        assert [answer.finish_reason for answer in answers] == [FinishReason.STOP] * 3
        for answer in answers:
            assert all(re.fullmatch("[0-9]{1,4}", bib["number"]) for bib in json.loads(answer.text)["bibs"])
        assert len({answer.text for answer in answers}) > 1

    def test_a_reply_ends_when_it_matches_the_regular_expression(
        self, tiny_vlm: Path, pictures: list[Image.Image]
    ) -> None:
        """Replies have different lengths: a finished reply must not affect the others."""
        answers = predict(tiny_vlm, pictures, Constraint(regex="[0-9]|(bib|number) [a-z]{2,9}"))
        assert [answer.error for answer in answers] == [None] * 3
        for answer in answers:
            assert answer.finish_reason is FinishReason.STOP
            assert re.fullmatch("[0-9]|(bib|number) [a-z]{2,9}", answer.text)

    def test_a_batch_gives_the_same_replies_as_single_images(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        digits = Constraint(regex="[0-9]{3,9}")
        together, alone = (predict(tiny_vlm, pictures, digits, batch_size=size) for size in (3, 1))
        assert [answer.text for answer in together] == [answer.text for answer in alone]

    def test_probabilities_are_the_models_own(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        """Not those after the constraint, which would be higher."""
        (free,) = predict(tiny_vlm, pictures[:1])
        (held,) = predict(tiny_vlm, pictures[:1], Constraint(regex="[0-9]"))
        with load(tiny_vlm) as runtime:
            inputs = runtime._inputs(pictures[:1], PROMPT)
            offered = runtime._model.model(**inputs).logits[0, -1].float().log_softmax(-1)
            token = runtime._model.processor.tokenizer.convert_tokens_to_ids(held.text)
        assert held.tokens[0].logprob == pytest.approx(offered[token].item(), abs=1e-4)
        assert held.tokens[0].logprob < free.tokens[0].logprob

    @pytest.mark.parametrize(
        "constraint", [Constraint(regex="[0-9"), Constraint(json_schema={"type": "no such type"})], ids=str
    )
    def test_an_invalid_constraint_is_an_error(
        self, tiny_vlm: Path, pictures: list[Image.Image], constraint: Constraint
    ) -> None:
        for answer in predict(tiny_vlm, pictures, constraint):
            assert isinstance(answer.error, ModelError)
            assert str(answer.error).startswith("invalid constraint: ")
            assert "\n" not in str(answer.error)

    def test_without_the_library_the_error_is_not_the_images(
        self, tiny_vlm: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "llguidance.hf", None)
        for answer in predict(tiny_vlm, pictures, Constraint(regex="[0-9]")):
            assert isinstance(answer.error, ModelUnavailableError)
            assert str(answer.error).endswith("pip install 'bibwatch[local]'")
        assert all(answer.error is None for answer in predict(tiny_vlm, pictures))


class TestSampling:
    def test_the_same_seed_gives_the_same_replies_in_any_batch(
        self, tiny_vlm: Path, pictures: list[Image.Image]
    ) -> None:
        warm = {"temperature": 1.5, "seed": 7}
        drawn = texts(tiny_vlm, pictures, **warm)
        assert drawn == texts(tiny_vlm, pictures, **warm)
        assert drawn == texts(tiny_vlm, pictures, **warm, batch_size=1)
        assert drawn != texts(tiny_vlm, pictures, **{**warm, "seed": 8})
        assert drawn != texts(tiny_vlm, pictures)

    def test_a_seed_does_not_change_torchs_generator(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        torch.manual_seed(3)
        expected = torch.rand(3).tolist()
        torch.manual_seed(3)
        texts(tiny_vlm, pictures, temperature=1.5, seed=7)
        assert torch.rand(3).tolist() == expected

    def test_a_small_top_p_leaves_the_likeliest_token(self, tiny_vlm: Path, pictures: list[Image.Image]) -> None:
        assert texts(tiny_vlm, pictures, temperature=2.0, top_p=1e-6, seed=1) == texts(tiny_vlm, pictures)

    def test_tokens_are_sampled_by_their_probability(self) -> None:
        probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
        replies = 4000
        chance = SeededSampler(replies, temperature=1.0, top_p=0.9, seed=None)
        for place, generator in enumerate(chance._generators):
            generator.manual_seed(place)
        scores = chance(torch.zeros(replies, 1, dtype=torch.long), probabilities.log().repeat(replies, 1))
        drawn = Counter(scores.argmax(-1).tolist())
        assert drawn[3] == 0  # beyond top_p
        for token in range(3):
            assert drawn[token] / replies == pytest.approx(probabilities[token].item() / 0.95, abs=0.03)


class TestQuantized:
    @pytest.mark.parametrize(
        ("quantizer", "bits", "kept"),
        [("bitsandbytes", EIGHT, "Int8Params"), ("bitsandbytes", FOUR, "Params4bit"), ("torchao", EIGHT, "Int8Tensor")],
    )
    def test_weights_are_quantized_and_the_model_replies(
        self, tiny_vlm: Path, pictures: list[Image.Image], quantizer: str, bits: int, kept: str
    ) -> None:
        settings = {"quantized": True, "quantizer": quantizer, "load_in_8bit": bits == EIGHT, "dtype": "bfloat16"}
        with load(tiny_vlm, **settings) as runtime:
            layer = runtime._model.model.model.text_model.layers[0]
            assert type(layer.mlp.up_proj.weight).__name__ == kept
            answers = list(runtime.predict_batch(pictures, PROMPT))
        assert [answer.error for answer in answers] == [None] * 3
        assert len({answer.text for answer in answers}) > 1

    def test_layers_of_unsupported_shapes_keep_their_precision(
        self, tmp_path: Path, pictures: list[Image.Image]
    ) -> None:
        """96 columns are not a multiple of 64: bitsandbytes computes wrong results on a CPU, or fails."""
        folder = make_tiny_vlm(tmp_path / "odd", vision_width=96)
        with load(folder, quantized=True, load_in_8bit=False, dtype="bfloat16") as runtime:
            answers = list(runtime.predict_batch(pictures, PROMPT))
            linear = [module for module in runtime._model.model.modules() if isinstance(module, torch.nn.Linear)]
        assert [answer.error for answer in answers] == [None] * 3
        small = {module for module in linear if type(module.weight).__name__ == "Params4bit"}
        assert small
        assert all(module.in_features % 64 == 0 and module.out_features % 32 == 0 for module in small)
        assert any(module.in_features % 64 for module in set(linear) - small)

    @pytest.mark.parametrize("checkpoint", BOTH, ids=lambda folder: folder.name)
    def test_trained_models_reply_in_4_bits(self, checkpoint: Path, pictures: list[Image.Image]) -> None:
        answers = predict(checkpoint, pictures, quantized=True, load_in_8bit=False, dtype="bfloat16")
        assert [answer.error for answer in answers] == [None] * 3

    def test_layers_that_transformers_skips_are_still_skipped(self) -> None:
        """A list of layers replaces transformers' own, which has the last layer with its tied weights."""
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=1,
            tie_word_embeddings=True,
        )  # fmt: skip
        with torch.device("meta"):
            odd = transformers.LlamaForCausalLM(config)
            config.intermediate_size = 128
            even = transformers.LlamaForCausalLM(config)
        skipped = set(quantization.skipped_layers(odd) or ())
        assert {"model.layers.0.mlp.down_proj", "lm_head"} <= skipped
        assert not skipped & {f"model.layers.0.{name}" for name in ("mlp.up_proj", "self_attn.q_proj")}
        assert quantization.skipped_layers(even) is None

    def test_only_4_bits_of_bitsandbytes_on_the_cpu_limit_shapes(self) -> None:
        assert quantization.needs_shapes(Quantizer.BITSANDBYTES, FOUR, "cpu")
        assert not quantization.needs_shapes(Quantizer.BITSANDBYTES, FOUR, "cuda:0")
        assert not quantization.needs_shapes(Quantizer.BITSANDBYTES, EIGHT, "cpu")
        assert not quantization.needs_shapes(Quantizer.TORCHAO, FOUR, "cpu")

    def test_8_bits_log_no_cast_warnings(
        self, tiny_vlm: Path, pictures: list[Image.Image], caplog: pytest.LogCaptureFixture
    ) -> None:
        with load(tiny_vlm, quantized=True, dtype="bfloat16") as runtime:
            caplog.clear()
            assert [answer.error for answer in runtime.predict_batch(pictures, PROMPT)] == [None] * 3
        assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]

    @pytest.mark.parametrize("quantizer", ["bitsandbytes", "torchao"])
    def test_without_its_library_it_is_rejected_before_weights_are_loaded(
        self, tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch, quantizer: str
    ) -> None:
        monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == quantizer else find_spec(name))
        said = f"{quantizer} not installed: pip install 'bibwatch[quantized]'"
        assert refusal(monkeypatch, tiny_vlm, quantized=True, quantizer=quantizer) == f"preset x: {said}"
        assert load(tiny_vlm, quantized=True, quantizer=quantizer).options.obstacle() == said

    def test_torchao_cannot_do_4_bits_on_the_cpu(self, tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quantization, "find_spec", lambda _: object())
        said = refusal(monkeypatch, tiny_vlm, quantized=True, quantizer="torchao", load_in_8bit=False)
        assert said == "preset x: torchao supports 4 bits on CUDA only, not on cpu; set quantizer = bitsandbytes"
        assert quantization.unsupported_reason(Quantizer.TORCHAO, FOUR, "cuda:0") is None
        assert quantization.unsupported_reason(Quantizer.TORCHAO, EIGHT, "cpu") is None


class TestCompiled:
    def test_every_layer_is_compiled_and_one_compilation_serves_all(
        self, tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After eight recompilations, torch would silently stop compiling."""
        layers, tokens = 12, 3
        graphs: list[list[int]] = []

        def counting(graph: Any, _: Any) -> Any:
            runs: list[int] = []
            graphs.append(runs)
            return lambda *values: runs.append(1) or graph.forward(*values)

        deep = make_tiny_vlm(tmp_path / "deep", text_layers=layers, vision_layers=1)
        compiled = torch.nn.Module.compile
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled(self, **how, backend=counting))
        monkeypatch.setattr("bibwatch.runtimes.transformers.options.shutil.which", lambda _: "/usr/bin/c++")
        torch.compiler.reset()
        answers = predict(deep, pictures[:2], max_new_tokens=tokens, compile=True)
        torch.compiler.reset()
        assert [answer.error for answer in answers] == [None] * 2
        assert len(graphs) <= 2  # many tokens, and one
        assert sum(map(len, graphs)) == layers * tokens

    @pytest.mark.timeout(600)
    @pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler")
    def test_replies_are_the_same_when_compiled(self, tmp_path: Path, pictures: list[Image.Image]) -> None:
        small = make_tiny_vlm(tmp_path / "small", text_layers=1, vision_layers=1)
        plain = texts(small, pictures[:2], max_new_tokens=3)
        with load(small, max_new_tokens=3, compile=True) as runtime:
            (layer,) = runtime._model.model.get_decoder().layers
            assert layer.mlp._compiled_call_impl is not None
            answers = list(runtime.predict_batch(pictures[:2], PROMPT))
        assert [answer.text for answer in answers] == plain

    def test_without_a_compiler_it_is_rejected(self, tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bibwatch.runtimes.transformers.options.shutil.which", lambda _: None)
        assert "compile = true needs a C++ compiler" in refusal(monkeypatch, tiny_vlm, compile=True)


def test_a_warm_up_generates_only_a_few_tokens(tiny_vlm: Path, pictures: list[Image.Image]) -> None:
    with load(tiny_vlm) as runtime:
        with runtime.short_answers():
            (short,) = runtime.predict_batch(pictures[:1], PROMPT)
        (whole,) = runtime.predict_batch(pictures[:1], PROMPT)
    assert len(short.tokens) == 4
    assert len(whole.tokens) == 12
    assert short.tokens == whole.tokens[:4]


def refusal(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: Any) -> str:
    """Return why a model is rejected, before any weights are loaded."""

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", read)
    with pytest.raises(ConfigurationError) as refused:
        load(folder, **settings).load()
    assert "\n" not in str(refused.value)
    return str(refused.value)
