"""The runtime: images in, lines of text with boxes and scores out. It takes no prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import ClassVar

from PIL import Image

from bibwatch import images as pictures
from bibwatch.domain.candidates import Glyphs
from bibwatch.errors import ConfigurationError, ModelError, one_line
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, Prediction, Runtime, TextLine
from bibwatch.runtimes.ocr import engines
from bibwatch.runtimes.ocr.options import VisionOcrOptions
from bibwatch.runtimes.ocr.reading import Line, Reader

_LEAST_SIDE = 32  # pixels of an image


class VisionOcr(Runtime[VisionOcrOptions]):
    """Detector and recogniser, one image after another: batching them gains nothing on a CPU."""

    options_type: ClassVar[type[ModelOptions]] = VisionOcrOptions

    def __init__(self, options: VisionOcrOptions) -> None:
        super().__init__(options)
        self._reader: Reader | None = None

    def load(self) -> None:
        if self._reader is not None:
            return
        options = self.options
        try:
            detector, recogniser = (
                engines.load(f"PP-OCRv6_{task}_small.onnx", options.engine, options.threads) for task in ("det", "rec")
            )
        except Exception as exc:
            raise ConfigurationError(
                f"preset {options.name}: the bundled OCR cannot be loaded ({one_line(exc)}); reinstall bibwatch"
            ) from exc
        self._reader = Reader(detector, recogniser)

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        del prompt  # an OCR is not asked, it reads
        self.load()
        for image in images:
            start = time.perf_counter()
            try:
                if constraint:
                    raise ModelError("an OCR cannot constrain what it reads")
                lines, error = self._read(image), None
            except Exception as exc:  # noqa: BLE001  # whatever the engine raises is this image's error, not the batch's
                lines, error = (), ModelError(f"rapidocr: {one_line(exc)}")
            seconds = time.perf_counter() - start
            yield Prediction(lines=lines, finish_reason=FinishReason.STOP, device="cpu", seconds=seconds, error=error)

    def close(self) -> None:
        self._reader = None

    def _read(self, image: Image.Image) -> tuple[TextLine, ...]:
        import numpy as np

        assert self._reader is not None  # noqa: S101  # predict_batch has loaded it
        image = pictures.widen(pictures.to_rgb(image), _LEAST_SIDE)
        factor = min(self.options.enlarge, self.options.longest_side / max(image.size))
        found = self._reader.read(np.asarray(image), pictures.scaled_size(image.size, factor))
        return tuple(_text_line(line, image.width) for line in found if line.text.score >= self.options.min_score)


def _text_line(line: Line, width: int) -> TextLine:
    text, quad = line.text, line.quad
    box = quad.box
    left, right = line.margins or (None, None)
    glyphs = Glyphs(
        height=quad.height,
        width=quad.width,
        angle=quad.angle,
        lowest=min(text.scores),
        first=text.scores[0],
        last=text.scores[-1],
        edge=min(box.x1, width - box.x2) / quad.height,
        margin_left=left,
        margin_right=right,
    )
    return TextLine(text.text, text.score, box, quad.slope, line.look, glyphs, text.alternatives)
