"""`vision_ocr`: the bundled OCR. Its models are in RapidOCR's wheel: nothing is ever downloaded."""

from bibwatch.runtimes.ocr.options import VisionOcrOptions
from bibwatch.runtimes.ocr.runtime import VisionOcr

__all__ = ["VisionOcr", "VisionOcrOptions"]
