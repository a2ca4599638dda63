"""`vision_ocr`: RapidOCR, the bundled default. Its models are part of its wheel: nothing is ever downloaded.

Returns lines of text with boxes and scores; takes no prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field

from bibwatch.domain.box import Box
from bibwatch.errors import ConfigurationError, ModelError, one_line
from bibwatch.images import resize, scaled_size, to_rgb, widen
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, OutputKind, Prediction, Runtime, TextLine

_MIN_SIDE = 32  # pixels; RapidOCR's own minimum is 30


class VisionOcrOptions(ModelOptions):
    """RapidOCR on the CPU, with the PP-OCRv6 models from its wheel."""

    output_kind: ClassVar[OutputKind] = OutputKind.LINES

    kind: Literal["vision_ocr"] = "vision_ocr"
    name: str = "rapidocr"
    longest_side: int = Field(
        default=1536, ge=32, le=4096, description="Images are resized to this longest side, in pixels."
    )
    enlarge: float = Field(default=2.0, ge=1, le=4, description="Maximum upscaling factor for small images.")
    min_score: float = Field(default=0.5, ge=0, le=1, description="Lines with a lower confidence are dropped.")
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 uses all.")

    @property
    def model(self) -> str:
        return "PP-OCRv6-small"


class VisionOcr(Runtime[VisionOcrOptions]):
    """RapidOCR's detector and recogniser, one image after another: batching them gains nothing on a CPU."""

    options_type: ClassVar[type[ModelOptions]] = VisionOcrOptions

    def __init__(self, options: VisionOcrOptions) -> None:
        super().__init__(options)
        self._ocr: Any = None

    def load(self) -> None:
        if self._ocr is not None:
            return
        try:
            from rapidocr import RapidOCR
        except ImportError as exc:
            raise ConfigurationError(
                f"preset {self.options.name}: rapidocr cannot be imported ({exc}); reinstall bibwatch"
            ) from exc
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,  # photos are upright; bibs are not upside down
                "Global.text_score": self.options.min_score,
                "Global.max_side_len": 4096,  # images are already resized
                "EngineConfig.onnxruntime.intra_op_num_threads": self.options.threads or -1,
            }
        )

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        del prompt
        self.load()
        for image in images:
            start = time.perf_counter()
            try:
                if constraint:
                    raise ModelError("OCR does not support constraints")
                lines, error = self._read(image), None
            except Exception as exc:  # noqa: BLE001  # RapidOCR may raise anything
                lines, error = (), ModelError(f"rapidocr: {one_line(exc)}")
            seconds = time.perf_counter() - start
            yield Prediction(lines=lines, finish_reason=FinishReason.STOP, device="cpu", seconds=seconds, error=error)

    def close(self) -> None:
        self._ocr = None

    def _read(self, image: Image.Image) -> tuple[TextLine, ...]:
        import numpy as np

        factor = min(self.options.enlarge, self.options.longest_side / max(image.size))
        image = resize(to_rgb(image), scaled_size(image.size, factor))
        # RapidOCR enlarges the short side to 736 pixels, which would make a long thin image huge.
        image = widen(image, max(_MIN_SIDE, max(image.size) // 8))
        found = self._ocr(np.asarray(image)[:, :, ::-1])  # RapidOCR takes BGR
        if found.txts is None:
            return ()
        return tuple(
            TextLine(text, float(score), _bounding_box(corners).scaled(1 / factor), _slope(corners))
            for text, score, corners in zip(found.txts, found.scores, found.boxes, strict=True)
        )


def _bounding_box(corners: Any) -> Box:
    """Return the box that encloses a quadrilateral of shape (4, 2)."""
    (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
    return Box(float(x1), float(y1), float(x2), float(y2))


def _slope(corners: Any) -> float | None:
    """Return a quadrilateral's slope in pixels down per pixel to the right; corners are clockwise from top left."""
    top_left, top_right, bottom_right, bottom_left = corners
    dx, dy = top_right + bottom_right - top_left - bottom_left
    return float(dy / dx) if dx > 0 else None
