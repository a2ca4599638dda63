"""Weights in 8 or 4 bits: which library does it, and where that can work.

Knows bitsandbytes and torchao by name; imports them only when a model is loaded with them.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

EIGHT, FOUR = 8, 4
_CPU_ROWS, _CPU_COLUMNS = 32, 64  # of a weight: what bitsandbytes computes with at once, with 4 bits on a CPU


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


def needs_shapes(quantizer: Quantizer, bits: int, device: str) -> bool:
    """Return whether only weights of certain shapes can be made so small for a device."""
    return quantizer is Quantizer.BITSANDBYTES and bits == FOUR and device == "cpu"


def left_out(model: Any) -> list[str] | None:
    """Return the layers that keep their precision where only certain shapes can be quantized; None if all fit.

    bitsandbytes would fail at other shapes, or compute something else, picture by picture.
    """
    import torch
    from transformers.quantizers.base import get_keys_to_not_convert

    odd = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and (module.out_features % _CPU_ROWS or module.in_features % _CPU_COLUMNS)
    ]
    # To name any is to name all: those that transformers would leave out by itself are to stay out.
    return [*odd, *get_keys_to_not_convert(model)] if odd else None


def settings(
    quantizer: Quantizer, bits: int, dtype: Any, *, int8_threshold: float, left_out: list[str] | None = None
) -> Any:
    """Return what transformers is to be told as `quantization_config`."""
    import transformers

    if quantizer is Quantizer.BITSANDBYTES:
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_no_cast)
        return transformers.BitsAndBytesConfig(
            load_in_8bit=bits == EIGHT,
            load_in_4bit=bits == FOUR,
            llm_int8_threshold=int8_threshold,
            llm_int8_skip_modules=left_out,
            bnb_4bit_compute_dtype=dtype,
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    return transformers.TorchAoConfig(Int8WeightOnlyConfig() if bits == EIGHT else Int4WeightOnlyConfig())


def _is_no_cast(record: logging.LogRecord) -> bool:
    """Leave out what bitsandbytes says at every layer of every token: that 8 bits are made from float16."""
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast")
