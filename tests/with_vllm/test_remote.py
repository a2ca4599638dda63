"""A real vLLM server with a trained checkpoint: requests, replies and a sudden death."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bibwatch import drawing
from bibwatch.errors import ModelRejectedError
from bibwatch.images import Photo
from bibwatch.registry import Registry
from bibwatch.runtimes.base import Constraint, FinishReason, Prediction
from bibwatch.runtimes.openai import VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from sites import Site
from trained import SMOLVLM, UNTAUGHT, bibs, pictures, readings, reply

pytest.importorskip("vllm")

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

NUMBERS = bibs(64)
QUESTION = "Which bib?"
STAGES = {"bib_number": {"crops": "none"}}
FORM = "[0-9]+"  # of four digits too


@pytest.fixture(scope="module")
def trained(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serving(SMOLVLM, tmp_path_factory.mktemp("trained") / "server.log") as server:
        yield server


@pytest.fixture
def runtime(trained: Any) -> Iterator[VisionOpenAILikeApi]:
    options = {"name": "trained", "api_url": trained.url, "model_name": "tiny", "max_new_tokens": 32}
    at_once = {"batch_size": 64, "concurrency": 64}
    with VisionOpenAILikeApi(VisionOpenAILikeApiOptions.model_validate(options | at_once)) as runtime:
        yield runtime


def right(predictions: Iterable[Prediction]) -> int:
    return sum(each.text == reply(bib) for each, bib in zip(predictions, NUMBERS, strict=True))


def test_64_simultaneous_requests_match_the_servers_metrics(trained: Any, runtime: VisionOpenAILikeApi) -> None:
    """Its `/metrics` count each request once, and the same tokens as our predictions."""
    before = metrics(trained)
    said = list(runtime.predict_batch(pictures(NUMBERS), QUESTION))
    after = metrics(trained)
    assert [each.error for each in said] == [None] * 64
    assert right(said) >= 60
    assert {each.finish_reason for each in said} == {FinishReason.STOP}
    usages = [each.usage for each in said if each.usage]
    counted = {name: after[name] - before[name] for name in after}
    assert counted == {
        "vllm:request_success": 64,
        "vllm:prompt_tokens": sum(usage.prompt_tokens for usage in usages),
        "vllm:generation_tokens": sum(usage.completion_tokens for usage in usages),
    }


def metrics(server: Any) -> dict[str, float]:
    answer = httpx.get(server.url.replace("/v1", "/metrics"))
    families = list(text_string_to_metric_families(answer.text))
    wanted = ("vllm:request_success", "vllm:prompt_tokens", "vllm:generation_tokens")
    return {
        family.name: sum(sample.value for sample in family.samples if sample.name == f"{family.name}_total")
        for family in families
        if family.name in wanted
    }


@pytest.mark.parametrize("structured", ["response_format", "structured_outputs"])
def test_replies_match_the_constraint(runtime: VisionOpenAILikeApi, structured: str) -> None:
    """Two digits, although every image has three or four."""
    number = {"type": "object", "properties": {"number": {"type": "string", "pattern": "^[0-9]{2}$"}}}
    bibs = {"type": "array", "items": number | {"required": ["number"]}, "minItems": 1, "maxItems": 1}
    schema = {"type": "object", "properties": {"bibs": bibs}, "required": ["bibs"], "additionalProperties": False}
    runtime.options = runtime.options.model_copy(update={"structured": structured})
    asked = pictures([*UNTAUGHT[:4], "123", "906", "481", "777"])
    said = list(runtime.predict_batch(asked, QUESTION, constraint=Constraint(json_schema=schema)))
    assert [each.error for each in said] == [None] * 8
    numbers = [json.loads(each.text)["bibs"][0]["number"] for each in said]
    assert [len(number) for number in numbers] == [2] * 8


def test_untaught_bibs_have_a_lower_probability(trained: Any) -> None:
    """The probability of a reading comes from the tokens that the server returns."""
    preset = {"kind": "vision_openailike_api", "api_url": trained.url, "model_name": "tiny"}
    registry = Registry([], {"trained": preset}, STAGES)
    numbers = NUMBERS[:16] + UNTAUGHT[:16]
    photos = [Photo(image, *image.size, str(place), None) for place, image in enumerate(pictures(numbers))]
    with registry.stage("bib_number", "trained") as stage:
        outcomes = list(stage.read(photos))
    assert [each.error for each in outcomes] == [None] * 32
    taught, untaught = (
        [reading for outcome in part for reading in readings(outcome, FORM)] for part in (outcomes[:16], outcomes[16:])
    )
    assert sum(each.verdict == "accepted" for each in taught) >= 14
    assert mean(each.probability for each in untaught) < mean(each.probability for each in taught) - 0.1
    assert all(0 < each.probability <= 1 for each in taught + untaught)


def test_the_error_for_a_long_prompt_has_the_servers_message(runtime: VisionOpenAILikeApi) -> None:
    (said,) = runtime.predict_batch(pictures(NUMBERS[:1]), QUESTION * 1000)
    assert isinstance(said.error, ModelRejectedError)
    assert "1024" in str(said.error)


def test_a_server_killed_during_a_batch_recovers(serving: Callable[..., Any], tmp_path: Path) -> None:
    """Every photo is read once, without a failed attempt, and the log has both events."""
    site = Site(tmp_path)
    numbers = bibs(300)
    with serving(SMOLVLM, tmp_path / "first.log") as first:
        port = int(first.url.rpartition(":")[2].removesuffix("/v1"))
        preset = {"kind": "vision_openailike_api", "api_url": first.url, "model_name": "tiny", "max_new_tokens": 32}
        daemon = site.start(
            BIBWATCH_PRESETS=json.dumps({"remote": preset}),
            BIBWATCH_PRESET="remote",
            BIBWATCH_STAGES=json.dumps(STAGES),
            BIBWATCH_RACE__BIBS=FORM,
        )
        for place, picture in enumerate(pictures(numbers)):
            (site.camera / f"{place:03}.jpg").write_bytes(drawing.jpeg(picture, quality=95))
        site.wait(lambda: site.query("SELECT count(*) > 20 FROM results") == [(1,)])
        first.kill()
    site.wait(lambda: site.events("model.unavailable"))
    assert site.query("SELECT count(*) < 300 FROM results") == [(1,)]
    with serving(SMOLVLM, tmp_path / "second.log", port):
        site.wait(lambda: list(site.states().values()) == ["done"] * 300)
    assert site.stop(daemon) == 0
    assert site.query("SELECT count(*), count(DISTINCT image_id) FROM results") == [(300, 300)]
    assert site.query("SELECT max(attempts) FROM files") == [(1,)]
    assert len(site.events("model.available")) == 1
    told = [line["error"] for line in site.events("model.unavailable")]
    assert 1 <= len(told) <= 4, told  # a reason of each kind
    read = {int(name.removesuffix(".jpg")): bib for name, bib in site.bibs()}
    assert sum(read.get(place) == bib for place, bib in enumerate(numbers)) >= 280
