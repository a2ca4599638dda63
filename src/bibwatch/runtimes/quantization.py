"""Weights in 8 or 4 bits: which library does it, and where that can work.

Knows bitsandbytes and torchao by name; imports them only when a model is loaded with them.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from typing import Any

EIGHT, FOUR = 8, 4


class Quantizer(StrEnum):
    """Who makes the weights small."""

    BITSANDBYTES = "bitsandbytes"  # 8 and 4 bits, on CUDA and the CPU
    TORCHAO = "torchao"  # 8 bits anywhere, 4 on CUDA; the arithmetic stays in the model's precision


def obstacle(quantizer: Quantizer, bits: int, device: str) -> str | None:
    """Return why weights cannot be made so small for a device, or None."""
    if find_spec(quantizer) is None:
        return f"{quantizer} not installed: pip install 'bibwatch[quantized]'"
    if quantizer is Quantizer.TORCHAO and bits == FOUR and not device.startswith(("cuda", "auto")):
        return f"torchao computes with 4 bits on CUDA only, not on {device}; set quantizer = bitsandbytes"
    if quantizer is Quantizer.TORCHAO and bits == FOUR and find_spec("mslk") is None:
        return "torchao needs mslk for 4 bits; pip install mslk, or set quantizer = bitsandbytes"
    return None


def settings(quantizer: Quantizer, bits: int, dtype: Any, *, int8_threshold: float) -> Any:
    """Return what transformers is to be told as `quantization_config`."""
    import transformers

    if quantizer is Quantizer.BITSANDBYTES:
        return transformers.BitsAndBytesConfig(
            load_in_8bit=bits == EIGHT,
            load_in_4bit=bits == FOUR,
            llm_int8_threshold=int8_threshold,
            bnb_4bit_compute_dtype=dtype,
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig() if bits == EIGHT else Int4WeightOnlyConfig())
