"""Attention over patches on a CPU in bfloat16: the same as torch's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions, attention

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.local

MODULE = SimpleNamespace(is_causal=False)
counts = st.integers(1, 5)


def torchs_own(query: Any, key: Any, value: Any, scaling: float, **how: Any) -> Any:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling, **how).transpose(1, 2)


@settings(deadline=None)
@given(counts, counts, st.integers(1, 40), st.integers(1, 2000), st.integers(0, 99))
def test_it_equals_torchs_attention(pictures: int, heads: int, number: int, at_once: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(pictures, heads, number, 8, generator=generator) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_MAX_SCORES", at_once)
        found, _ = attention.attend(MODULE, *tensors, None, scaling=0.3, is_causal=False)
    torch.testing.assert_close(found, torchs_own(*tensors, 0.3))


def test_other_cases_are_left_to_torch() -> None:
    tensors = [torch.randn(2, 3, 7, 8) for _ in range(3)]
    mask = torch.rand(2, 1, 7, 7) > 0.2
    found, _ = attention.attend(MODULE, *tensors, mask, scaling=0.3, is_causal=False)
    torch.testing.assert_close(found, torchs_own(*tensors, 0.3, attn_mask=mask))
    found, _ = attention.attend(MODULE, *tensors, None, scaling=0.3, is_causal=True)
    torch.testing.assert_close(found, torchs_own(*tensors, 0.3, is_causal=True))


@pytest.mark.parametrize(("dtype", "taken"), [("bfloat16", "bibwatch_patches"), ("float32", "sdpa")])
def test_only_the_vision_model_in_bfloat16_uses_it(tiny_vlm: Path, dtype: str, taken: str) -> None:
    options = VisionHfTransformersOptions(name="x", repo_id=str(tiny_vlm), device="cpu", dtype=dtype)
    with VisionHfTransformers(options) as runtime:
        assert runtime.loaded
        config = runtime.loaded.model.config
        assert config.vision_config._attn_implementation == taken
        assert config.text_config._attn_implementation == "sdpa"
