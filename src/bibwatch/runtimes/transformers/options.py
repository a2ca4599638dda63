"""The options of `vision_hf_transformers`: plain settings, without the engine."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from importlib.util import find_spec
from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.runtimes.base import ModelOptions
from bibwatch.runtimes.devices import AcceleratorDevice, Dtype, DtypeOption
from bibwatch.runtimes.hub import HubOptions, folder_of
from bibwatch.runtimes.transformers import quantization
from bibwatch.runtimes.transformers.families import ModelFamily, family_of
from bibwatch.runtimes.transformers.quantization import Quantizer

_COMPILERS = ("c++", "g++", "clang++")


class TransformersModelType(StrEnum):
    """The transformers class that loads the checkpoint."""

    AUTOMODEL = "automodel"
    AUTOMODEL_VISION2SEQ = "automodel-vision2seq"  # removed in transformers 5; same as imagetexttotext
    AUTOMODEL_CAUSALLM = "automodel-causallm"
    AUTOMODEL_IMAGETEXTTOTEXT = "automodel-imagetexttotext"


class TransformersPromptStyle(StrEnum):
    """How the prompt is given to the model."""

    CHAT = "chat"  # with the checkpoint's chat template
    RAW = "raw"  # as written, including image placeholders
    NONE = "none"  # not at all: only the image


class VisionHfTransformersOptions(HubOptions):
    """A checkpoint that transformers supports, on a GPU or the CPU."""

    hardware_fields: ClassVar[frozenset[str]] = ModelOptions.hardware_fields | {
        "device", "device_fallback", "supported_devices", "compile",
    }  # fmt: skip
    # Runtimes with the same folder and places share one loaded model, unless these differ.
    loaded_by: ClassVar[tuple[str, ...]] = (
        "trust_remote_code", "transformers_model_type", "quantized", "quantizer", "load_in_8bit", "llm_int8_threshold",
        "compile",
    )  # fmt: skip

    kind: Literal["vision_hf_transformers"] = "vision_hf_transformers"
    transformers_model_type: TransformersModelType = Field(
        default=TransformersModelType.AUTOMODEL_IMAGETEXTTOTEXT,
        description="The transformers class that loads the checkpoint.",
    )
    transformers_prompt_style: TransformersPromptStyle = Field(
        default=TransformersPromptStyle.CHAT,
        description="With the chat template (chat), as written (raw), or only the image (none).",
    )
    family: ModelFamily = Field(
        default=ModelFamily.AUTO, description="How the model takes its inputs; auto: by its checkpoint."
    )
    dtype: DtypeOption = Field(
        default=Dtype.AUTO,
        description="Precision; auto: bfloat16 if the hardware supports it.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: cuda, then mps, then cpu."
    )
    device_fallback: bool = Field(
        default=True,
        description="Use the CPU, with a warning, if the device is missing or runs out of memory.",
    )
    supported_devices: tuple[AcceleratorDevice, ...] = Field(
        default=tuple(AcceleratorDevice), min_length=1, description="Devices the model can run on."
    )
    quantized: bool = Field(default=False, description="Load the weights in 8 or 4 bits.")
    quantizer: Quantizer = Field(
        default=Quantizer.BITSANDBYTES,
        description="If quantized: the library to use. torchao supports 4 bits on CUDA only.",
    )
    load_in_8bit: bool = Field(default=True, description="If quantized: 8 bits; false: 4 bits.")
    llm_int8_threshold: float = Field(
        default=6.0, ge=0, description="If quantized to 8 bits with bitsandbytes: larger activations stay in 16 bits."
    )
    use_kv_cache: bool = Field(
        default=True, description="Keep what was computed for earlier tokens; false saves memory but is slow."
    )
    compile: bool = Field(
        default=False,
        description="Compile the decoder's feed-forward blocks with torch.compile, which delays the first replies "
        "by a minute or more. Needs a C++ compiler.",
    )

    @property
    def place(self) -> str:
        return self.device

    @property
    def bits(self) -> int:
        """Bits of a quantized weight."""
        return quantization.EIGHT if self.load_in_8bit else quantization.FOUR

    @property
    def libraries(self) -> tuple[str, ...]:
        """Libraries that the checkpoint needs; those of its family are known once it is downloaded."""
        folder = folder_of(self.repo_id, self.revision)
        return "torch", "transformers", *(family_of(self.family, folder).needs if folder else ())

    def obstacle(self) -> str | None:
        return self.unavailable_reason(*self.libraries, extra="local") or self.unsupported_reason(self.device)

    def unsupported_reason(self, device: str) -> str | None:
        """Return why these options cannot work on a device, or None."""
        if self.quantized and (reason := quantization.unsupported_reason(self.quantizer, self.bits, device)):
            return reason
        if self.compile and not any(map(shutil.which, (*_COMPILERS, os.environ.get("CXX", "")))):
            return "compile = true needs a C++ compiler; install g++, or set compile = false"
        if self.compile and device.startswith("cuda") and find_spec("triton") is None:
            return "compile = true needs triton on CUDA: pip install triton, or set compile = false"
        return None
