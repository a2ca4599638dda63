"""Trained checkpoints give the same replies in vLLM, in process and as a server, as in transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.openai import VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions
from bibwatch.runtimes.vllm import VisionVllm, VisionVllmOptions
from trained import BOTH, UNTAUGHT, bibs, pictures, reply

pytest.importorskip("vllm")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, of torch
]

NUMBERS = bibs(48)
USUAL: dict[str, Any] = {"name": "trained", "batch_size": 4, "max_new_tokens": 32}


@pytest.fixture(scope="module", params=BOTH, ids=lambda folder: folder.name)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[str]:
    """Return the replies in transformers; nearly all must be correct for the comparison to mean anything."""
    options = {"repo_id": str(checkpoint), "device": "cpu", "dtype": "float32", "family": "generic"}
    with VisionHfTransformers(VisionHfTransformersOptions.model_validate(USUAL | options)) as runtime:
        said = texts(runtime.predict_batch(pictures(NUMBERS + UNTAUGHT), "Which bib?"))
    assert sum(text == reply(bib) for text, bib in zip(said, NUMBERS, strict=False)) >= 44
    return said


def texts(predictions: Iterable[Prediction]) -> list[str]:
    """Return the replies; fail if there is an error."""
    told = list(predictions)
    assert [each.error for each in told] == [None] * len(told)
    return [each.text for each in told]


def test_in_process(checkpoint: Path, expected: list[str]) -> None:
    engine = {"dtype": "float32", "enforce_eager": True, "kv_cache_gb": 0.25, "max_model_len": 1024}
    options = VisionVllmOptions.model_validate(USUAL | engine | {"repo_id": str(checkpoint)})
    with VisionVllm(options) as runtime:
        assert texts(runtime.predict_batch(pictures(NUMBERS + UNTAUGHT), "Which bib?")) == expected


def test_as_a_server(checkpoint: Path, expected: list[str], serving: Callable[..., Any], tmp_path: Path) -> None:
    """The server gets JPEGs, so doubtful replies may differ."""
    with serving(checkpoint, tmp_path / "server.log") as server:
        there = {"api_url": server.url, "model_name": server.model, "concurrency": 4}
        with VisionOpenAILikeApi(VisionOpenAILikeApiOptions.model_validate(USUAL | there)) as runtime:
            assert texts(runtime.predict_batch(pictures(NUMBERS), "Which bib?")) == expected[: len(NUMBERS)]
