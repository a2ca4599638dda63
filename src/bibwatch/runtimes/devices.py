"""Where torch computes, and in what precision.

Knows torch's devices and the precisions that hardware supports. Imports torch only in function calls.
"""

from __future__ import annotations

import gc
from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Any

import structlog
from pydantic import AliasChoices, BeforeValidator, Field

from bibwatch.errors import ConfigurationError

log = structlog.get_logger()

_BFLOAT16_FROM = (8, 0)  # CUDA compute capability: Ampere
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


class AcceleratorDevice(StrEnum):
    """What a model can run on."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Dtype(StrEnum):
    """Precision of weights and arithmetic."""

    AUTO = "auto"  # bfloat16 if the hardware supports it, float16 on older CUDA devices, else float32
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


# Also accepts the name `torch_dtype`, and None for auto.
DtypeOption = Annotated[
    Dtype,
    BeforeValidator(lambda value: Dtype.AUTO if value is None else value),
    Field(validation_alias=AliasChoices("dtype", "torch_dtype")),
]


def choose_device(wanted: str, supported: Collection[AcceleratorDevice], *, fallback: bool, where: str) -> str:
    """Return the device to compute on: the one wanted, or for `auto` the best available.

    If it is not available, returns the CPU and logs a warning; without `fallback`, raises ConfigurationError.
    """
    family = wanted.partition(":")[0]
    if family != "auto" and family not in supported:
        raise ConfigurationError(f"{where}: device {wanted} is not in supported_devices ({', '.join(supported)})")
    if family == "auto":
        for device in (AcceleratorDevice.CUDA, AcceleratorDevice.MPS, AcceleratorDevice.CPU):
            if device in supported and _is_available(device):
                return device.value
        raise ConfigurationError(f"{where}: this machine has none of supported_devices ({', '.join(supported)})")
    if _is_available(wanted):
        return wanted
    if fallback and AcceleratorDevice.CPU in supported:
        log.warning("device.fallback", preset=where, wanted=wanted, taken="cpu")
        return AcceleratorDevice.CPU.value
    raise ConfigurationError(f"{where}: this machine has no {wanted}; set device = auto, or device_fallback = true")


def torch_dtype(dtype: Dtype, device: str) -> Any:
    """Return torch's dtype for computing on a device."""
    import torch

    if dtype is not Dtype.AUTO:
        return getattr(torch, dtype.value)
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= _BFLOAT16_FROM else torch.float16
    if device == "cpu" and _cpu_supports_bfloat16():
        return torch.bfloat16
    return torch.float32


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether a computation failed for lack of memory, on the device or the host."""
    import torch

    if isinstance(exc, MemoryError | torch.OutOfMemoryError):
        return True
    # MPS, the CPU and CUDA's libraries raise a plain RuntimeError.
    return isinstance(exc, RuntimeError) and any(message in str(exc) for message in _OUT_OF_MEMORY)


def free_memory(device: str) -> None:
    """Release the memory that torch has cached on a device."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()


def _cpu_supports_bfloat16() -> bool:
    from torch import cpu

    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())  # noqa: SLF001  # no public API


def _is_available(device: str) -> bool:
    import torch

    family, _, number = device.partition(":")
    if family == "cuda":
        return bool(torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count())
    return family == "cpu" or bool(torch.backends.mps.is_available())
