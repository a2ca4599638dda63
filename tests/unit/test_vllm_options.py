"""Options of `vision_vllm`, and errors without vLLM. tests/with_vllm has the tests of predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bibwatch.errors import ConfigurationError
from bibwatch.runtimes.devices import Dtype
from bibwatch.runtimes.vllm import VisionVllm, VisionVllmOptions


def options(**changed: Any) -> VisionVllmOptions:
    usual: dict[str, Any] = {"name": "mine", "repo_id": "Qwen/Qwen2-VL-2B-Instruct"}
    return VisionVllmOptions(**(usual | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"dtype": "bfloat16", "quantization": "awq", "max_model_len": 4096, "kv_cache_gb": 1.5, "stop": ("</doctag>",)},
        {"gpu_memory_utilization": 0.5, "tensor_parallel_size": 2, "enforce_eager": True, "image_longest_edge": 1536},
    ],
)
def test_options_round_trip_through_json(changed: dict[str, Any]) -> None:
    made = options(**changed)
    assert VisionVllmOptions.model_validate_json(made.model_dump_json()) == made


def test_torch_dtype_is_an_alias_of_dtype() -> None:
    assert options(torch_dtype="float16").dtype is Dtype.FLOAT16


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "vision_ocr"},
        {"repo_id": ""},
        {"dtype": "int8"},
        {"max_model_len": 0},
        {"gpu_memory_utilization": 1.1},
        {"kv_cache_gb": 0},
        {"tensor_parallel_size": 0},
        {"device": "cuda"},
        {"prompt": "x"},
    ],
)
def test_invalid_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        options(**wrong)


def test_the_hardware_does_not_change_the_identity() -> None:
    """So photos are not read again; in another precision they are."""
    here, there = options(), options(gpu_memory_utilization=0.5, kv_cache_gb=1, tensor_parallel_size=4, batch_size=99)
    assert here.identity() == there.identity() != options(dtype="float32").identity()


def test_the_error_without_vllm_explains_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    made = options(repo_id=str(tmp_path))
    assert made.obstacle() == "vllm not installed: pip install 'bibwatch[vllm]'"
    with pytest.raises(ConfigurationError, match=r"^preset mine: .*pip install 'bibwatch\[vllm\]'$"):
        VisionVllm(made).load()
