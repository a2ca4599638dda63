"""Weights in 8 or 4 bits: which libraries can do that, and on which devices.

Knows bitsandbytes and torchao; imports them only to load a model.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

EIGHT, FOUR = 8, 4
_CPU_ROWS, _CPU_COLUMNS = 32, 64  # block size of a weight in bitsandbytes with 4 bits on a CPU


class Quantizer(StrEnum):
    """The library that quantizes the weights."""

    BITSANDBYTES = "bitsandbytes"  # 8 and 4 bits, on CUDA and the CPU
    TORCHAO = "torchao"  # 8 bits anywhere, 4 on CUDA; the arithmetic stays in the model's precision


def unsupported_reason(quantizer: Quantizer, bits: int, device: str) -> str | None:
    """Return why weights cannot be quantized for a device, or None."""
    if find_spec(quantizer) is None:
        return f"{quantizer} not installed: pip install 'bibwatch[quantized]'"
    if quantizer is Quantizer.TORCHAO and bits == FOUR and not device.startswith(("cuda", "auto")):
        return f"torchao supports 4 bits on CUDA only, not on {device}; set quantizer = bitsandbytes"
    if quantizer is Quantizer.TORCHAO and bits == FOUR and find_spec("mslk") is None:
        return "torchao needs mslk for 4 bits: pip install mslk, or set quantizer = bitsandbytes"
    return None


def needs_shapes(quantizer: Quantizer, bits: int, device: str) -> bool:
    """Return whether only weights of certain shapes can be quantized for a device."""
    return quantizer is Quantizer.BITSANDBYTES and bits == FOUR and device == "cpu"


def skipped_layers(model: Any) -> list[str] | None:
    """Return the layers not to quantize if only certain shapes can be; None if all can be.

    bitsandbytes would fail with other shapes, or return wrong results.
    """
    import torch
    from transformers.quantizers.base import get_keys_to_not_convert

    unsupported = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (module.out_features % _CPU_ROWS or module.in_features % _CPU_COLUMNS)
    ]
    # A list replaces transformers' own, so it has to include the layers that transformers would skip.
    return [*unsupported, *get_keys_to_not_convert(model)] if unsupported else None


def settings(
    quantizer: Quantizer, bits: int, dtype: Any, *, int8_threshold: float, skipped: list[str] | None = None
) -> Any:
    """Return the `quantization_config` for transformers."""
    import transformers

    if quantizer is Quantizer.BITSANDBYTES:
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_not_cast_warning)
        return transformers.BitsAndBytesConfig(
            load_in_8bit=bits == EIGHT,
            load_in_4bit=bits == FOUR,
            llm_int8_threshold=int8_threshold,
            llm_int8_skip_modules=skipped,
            bnb_4bit_compute_dtype=dtype,
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig() if bits == EIGHT else Int4WeightOnlyConfig())


def _is_not_cast_warning(record: logging.LogRecord) -> bool:
    """Drop a message that bitsandbytes logs for every layer and token: that inputs are cast to float16."""
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")
