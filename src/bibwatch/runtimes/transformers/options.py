"""The options of `vision_hf_transformers`: plain settings, no engine."""

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
    """Which of transformers' classes reads the checkpoint."""

    AUTOMODEL = "automodel"
    AUTOMODEL_VISION2SEQ = "automodel-vision2seq"  # gone from transformers 5; taken as image-text-to-text
    AUTOMODEL_CAUSALLM = "automodel-causallm"
    AUTOMODEL_IMAGETEXTTOTEXT = "automodel-imagetexttotext"


class TransformersPromptStyle(StrEnum):
    """How the prompt is put to the model."""

    CHAT = "chat"  # by the checkpoint's own chat template
    RAW = "raw"  # as it is written, image placeholders included
    NONE = "none"  # not at all; the picture alone


class VisionHfTransformersOptions(HubOptions):
    """A checkpoint that transformers knows, on a GPU or the CPU."""

    hardware_fields: ClassVar[frozenset[str]] = ModelOptions.hardware_fields | {
        "device", "device_fallback", "supported_devices", "compile",
    }  # fmt: skip
    # What is loaded depends on these, the folder, and the devices it may be on there: what differs in others is one.
    loaded_by: ClassVar[tuple[str, ...]] = (
        "trust_remote_code", "transformers_model_type", "quantized", "quantizer", "load_in_8bit", "llm_int8_threshold",
        "compile",
    )  # fmt: skip

    kind: Literal["vision_hf_transformers"] = "vision_hf_transformers"
    transformers_model_type: TransformersModelType = Field(
        default=TransformersModelType.AUTOMODEL_IMAGETEXTTOTEXT,
        description="transformers' class for the checkpoint.",
    )
    transformers_prompt_style: TransformersPromptStyle = Field(
        default=TransformersPromptStyle.CHAT,
        description="By the chat template, as it is written, or the picture alone.",
    )
    family: ModelFamily = Field(
        default=ModelFamily.AUTO, description="How the model is given pictures; auto: as its checkpoint says."
    )
    dtype: DtypeOption = Field(
        default=Dtype.AUTO,
        description="Precision; auto takes bfloat16 where the hardware computes in it.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: cuda, then mps, then cpu."
    )
    device_fallback: bool = Field(
        default=True,
        description="Take the CPU, with a warning, where the device is not there or has too little memory.",
    )
    supported_devices: tuple[AcceleratorDevice, ...] = Field(
        default=tuple(AcceleratorDevice), min_length=1, description="Devices the model can be computed on."
    )
    quantized: bool = Field(default=False, description="Load the weights in 8 or 4 bits.")
    quantizer: Quantizer = Field(
        default=Quantizer.BITSANDBYTES,
        description="If quantized: the library that does it. torchao has 4 bits on CUDA only.",
    )
    load_in_8bit: bool = Field(default=True, description="If quantized: 8 bits; false takes 4.")
    llm_int8_threshold: float = Field(
        default=6.0, ge=0, description="If quantized to 8 bits by bitsandbytes: activations over this stay in 16."
    )
    use_kv_cache: bool = Field(
        default=True, description="Keep what was computed for earlier tokens; false saves memory and takes long."
    )
    compile: bool = Field(
        default=False,
        description="Compile the decoder's feed-forward blocks with torch.compile: a minute or more at the first "
        "answers. Needs a compiler.",
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
        """What must be installed to feed and run the checkpoint; what its family needs is known once it is here."""
        folder = folder_of(self.repo_id, self.revision)
        return "torch", "transformers", *(family_of(self.family, folder).needs if folder else ())

    def obstacle(self) -> str | None:
        return self.missing(*self.libraries, extra="local") or self.hindrance(self.device)

    def hindrance(self, device: str) -> str | None:
        """Return which of these options cannot work on a device, and why; None if they can."""
        if self.quantized and (hindrance := quantization.obstacle(self.quantizer, self.bits, device)):
            return hindrance
        if self.compile and not any(map(shutil.which, (*_COMPILERS, os.environ.get("CXX", "")))):
            return "compile = true needs a C++ compiler (g++), and there is none; install it or set compile = false"
        if self.compile and device.startswith("cuda") and find_spec("triton") is None:
            return "compile = true needs triton on CUDA: pip install triton, or set compile = false"
        return None
