"""`vision_vllm` in process and `vision_openailike_api` against a server: a real vLLM, a model with random weights."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bibwatch.errors import ConfigurationError, ModelError, ModelRejectedError, ModelUnavailableError
from bibwatch.runtimes.base import Constraint, FinishReason, Prediction
from bibwatch.runtimes.openai import VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from bibwatch.runtimes.vllm import VisionVllm, VisionVllmOptions
from bibwatch.testing import RuntimeConformance

pytest.importorskip("vllm")
psutil = pytest.importorskip("psutil")  # comes with vLLM

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, of torch
]

_PROMPT = "Which bib numbers can be read in this photo?"
_DIGITS = Constraint(regex="[0-9]{4}")
_SCHEMA = Constraint(
    json_schema={
        "type": "object",
        "properties": {"legible": {"type": "string", "enum": ["yes", "no"]}},
        "required": ["legible"],
        "additionalProperties": False,
    }
)


def chequered(seed: int) -> Image.Image:
    """Draw grey squares that JPEG keeps exactly at full quality, so that a server gets the same pixels."""
    image = Image.new("RGB", (64, 64))
    shades = random.Random(seed)
    for left in range(0, 64, 16):
        for top in range(0, 64, 16):
            image.paste((shades.randrange(256),) * 3, (left, top, left + 16, top + 16))
    return image


_PICTURES = [chequered(seed) for seed in range(4)]


def inline(folder: Path, **options: Any) -> VisionVllm:
    """Create a runtime with a small engine that starts fast."""
    small: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_gb": 0.25,
        "max_model_len": 1024,
        "max_new_tokens": 16,
        "batch_size": 4,
    }
    return VisionVllm(VisionVllmOptions(name="inline", repo_id=str(folder), **(small | options)))


def remote(server: Any, **options: Any) -> VisionOpenAILikeApi:
    """Create a runtime for the server."""
    usual: dict[str, Any] = {
        "model_name": server.model,
        "structured": "structured_outputs",
        "jpeg_quality": 100,
        "max_new_tokens": 16,
        "concurrency": 4,
        "batch_size": 4,
    }
    return VisionOpenAILikeApi(VisionOpenAILikeApiOptions(name="remote", api_url=server.url, **(usual | options)))


def ask(runtime: Any, *images: Image.Image, constraint: Constraint | None = None) -> list[Prediction]:
    """Return the predictions for some images."""
    return list(runtime.predict_batch(images, _PROMPT, constraint=constraint))


def texts(predictions: list[Prediction]) -> list[str]:
    """Return the replies; fail if there is an error."""
    assert [prediction.error for prediction in predictions] == [None] * len(predictions)
    return [prediction.text for prediction in predictions]


def engine_processes() -> list[Any]:
    """Return the live processes of the in-process engine, without those of the server."""
    mine = psutil.Process().children(recursive=True)
    alive = [each for each in mine if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in alive if each.name().startswith("VLLM") and not _serves(each)]


def _serves(process: Any) -> bool:
    return any("api_server" in " ".join(parent.cmdline()) for parent in process.parents())


class Constrained(RuntimeConformance):
    """What both do beyond the contract."""

    def test_replies_match_a_regular_expression_and_have_tokens(self, runtime: Any) -> None:
        for prediction in ask(runtime, *_PICTURES, constraint=_DIGITS):
            assert prediction.error is None
            assert re.fullmatch("[0-9]{4}", prediction.text)
            assert prediction.finish_reason is FinishReason.STOP
            assert "".join(token.text for token in prediction.tokens) == prediction.text
            assert all(token.logprob <= 0 for token in prediction.tokens)

    def test_replies_match_a_schema(self, runtime: Any) -> None:
        for prediction in ask(runtime, *_PICTURES, constraint=_SCHEMA):
            assert prediction.error is None
            if prediction.finish_reason is FinishReason.STOP:
                assert json.loads(prediction.text)["legible"] in {"yes", "no"}
            else:  # whitespace is valid JSON, and random weights may generate it
                assert re.match(r"\s*(\{|$)", prediction.text)

    def test_an_invalid_regular_expression_is_an_error_of_that_call_only(self, runtime: Any) -> None:
        before = texts(ask(runtime, _PICTURES[0]))
        wrong = ask(runtime, *_PICTURES, constraint=Constraint(regex="[0-9"))
        assert all(isinstance(prediction.error, ModelError) for prediction in wrong)
        assert all("\n" not in str(prediction.error) for prediction in wrong)
        assert texts(ask(runtime, _PICTURES[0])) == before

    def test_the_finish_reason_of_a_reply_that_was_cut_off(self, runtime: Any) -> None:
        (prediction,) = ask(runtime, _PICTURES[0])
        assert prediction.finish_reason is FinishReason.LENGTH

    def test_a_reply_ends_before_a_stop_text(self, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        (whole,) = texts(ask(runtime, _PICTURES[0]))
        end = next(char for char in whole[2:] if char.isascii() and char.isprintable())
        monkeypatch.setattr(runtime, "options", runtime.options.model_copy(update={"stop": (end,)}))
        (cut,) = ask(runtime, _PICTURES[0])
        assert (cut.text, cut.finish_reason) == (whole.partition(end)[0], FinishReason.STOP)


class TestServer(Constrained):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls, server: Any) -> VisionOpenAILikeApi:
        return remote(server)

    def test_response_format(self, server: Any) -> None:
        with remote(server, structured="response_format") as runtime:
            self.test_replies_match_a_schema(runtime)

    def test_the_error_for_an_unknown_model_lists_the_servers_models(self, server: Any) -> None:
        with remote(server, model_name="smol") as runtime:
            (prediction,) = ask(runtime, _PICTURES[0])
        assert isinstance(prediction.error, ModelUnavailableError)
        assert re.search(r"no model 'smol'; it lists: tiny", str(prediction.error))

    def test_the_error_for_a_rejected_request_has_the_servers_message(self, server: Any) -> None:
        with remote(server, max_new_tokens=100_000) as runtime:
            (prediction,) = ask(runtime, _PICTURES[0])
        assert isinstance(prediction.error, ModelRejectedError)
        assert re.search(r"400: .*1024", str(prediction.error))


class TestInProcess(Constrained):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls, model_folder: Path) -> VisionVllm:
        return inline(model_folder)

    def test_closing_twice_is_harmless_and_use_reloads_the_model(
        self, runtime: VisionVllm, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """And nothing is printed to stdout."""
        before = texts(ask(runtime, *_PICTURES))
        assert engine_processes()
        runtime.close()
        runtime.close()
        assert engine_processes() == []
        assert texts(ask(runtime, *_PICTURES)) == before
        assert capfd.readouterr().out == ""

    def test_the_device_is_named(self, runtime: VisionVllm) -> None:
        assert ask(runtime, _PICTURES[0])[0].device == "cpu"

    def test_a_server_gives_the_same_replies(self, runtime: VisionVllm, server: Any) -> None:
        for image in _PICTURES:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=100)
            assert Image.open(file).tobytes() == image.tobytes()
        with remote(server) as other:
            here, there = (texts(ask(each, *_PICTURES)) for each in (runtime, other))
        assert here == there
        assert len(set(here)) > 1

    def test_an_engine_that_dies_is_an_error_and_leaves_no_process(self, runtime: VisionVllm) -> None:
        """It is killed before a batch: vLLM's own client would wait forever."""
        assert ask(runtime, _PICTURES[0])[0].error is None
        for process in engine_processes():
            process.kill()
        for prediction in ask(runtime, *_PICTURES):
            assert isinstance(prediction.error, ModelUnavailableError)
            assert "engine died" in str(prediction.error)
        assert engine_processes() == []


def test_sampling_options_are_passed_to_vllm(tmp_path: Path) -> None:
    sampling = inline(tmp_path, temperature=0.7, top_p=0.9, seed=3)._sampling(None)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.7, 0.9, 3)


def test_the_error_for_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^preset inline: the folder .* has no config\.json") as caught:
        inline(tmp_path).load()
    assert "\n" not in str(caught.value)


def test_a_size_that_the_model_does_not_support_is_rejected(model_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not support min_pixels"):
        inline(model_folder, min_pixels=100).load()


def test_a_killed_server_is_an_error_of_each_image(server: Any) -> None:
    """Must be the last test, because it kills the server."""
    with remote(server) as runtime:
        assert ask(runtime, _PICTURES[0])[0].error is None
        server.kill()
        predictions = ask(runtime, *_PICTURES)
    assert len(predictions) == len(_PICTURES)
    assert all(isinstance(prediction.error, ModelUnavailableError) for prediction in predictions)
    assert runtime.options.obstacle() == f"no server answers at {runtime.options.place}"
