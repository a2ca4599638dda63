"""Options of `vision_ocr`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.runtimes.base import ModelOptions, OutputKind


class VisionOcrOptions(ModelOptions):
    """The PP-OCRv6 models of RapidOCR's wheel, on the CPU."""

    output_kind: ClassVar[OutputKind] = OutputKind.LINES
    code_revision: ClassVar[int] = 2
    hardware_fields: ClassVar[frozenset[str]] = ModelOptions.hardware_fields | {"engine"}

    kind: Literal["vision_ocr"] = "vision_ocr"
    name: str = "rapidocr"
    batch_size: int = Field(default=2, ge=1, description="Images decoded and recorded together.")
    longest_side: int = Field(
        default=1536,
        ge=32,
        le=4096,
        description="Images are searched for text at this longest side, in pixels; numbers are then read at full size.",
    )
    enlarge: float = Field(default=4.0, ge=1, le=4, description="Maximum upscaling factor for small images.")
    min_score: float = Field(default=0.0, ge=0, le=1, description="Lines with a lower confidence are dropped.")
    engine: Literal["auto", "openvino", "onnxruntime"] = Field(
        default="auto", description="The inference engine; auto: OpenVINO where it is installed, else ONNX Runtime."
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 uses all.")

    @property
    def model(self) -> str:
        return "PP-OCRv6-small"

    @property
    def decode_side(self) -> int | None:
        return None  # small numbers are cut from the full-size photo
