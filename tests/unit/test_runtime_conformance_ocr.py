"""The bundled OCR keeps the runtime contract."""

from __future__ import annotations

import pytest

from bibwatch.runtimes import ocr
from bibwatch.testing import RuntimeConformance

pytestmark = pytest.mark.heavy


class TestVisionOcr(RuntimeConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls) -> ocr.VisionOcr:
        return ocr.VisionOcr(ocr.VisionOcrOptions(batch_size=2, threads=1, longest_side=320))
