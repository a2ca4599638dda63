"""Every built-in stage meets the stage contract."""

from __future__ import annotations

from typing import Any, ClassVar

from bibwatch.domain.box import Box
from bibwatch.interpreters.bib_json import BibJson
from bibwatch.interpreters.bib_lines import BibLines
from bibwatch.interpreters.code_block import CodeBlock
from bibwatch.interpreters.doctags import DocTags
from bibwatch.interpreters.plain_text import PlainText
from bibwatch.interpreters.table import TableLines, TableText
from bibwatch.runtimes.base import FinishReason, OutputKind, Prediction, TextLine
from bibwatch.stages.bib_number import BibNumber
from bibwatch.stages.code_understanding import CodeUnderstanding
from bibwatch.stages.picture_description import PictureDescription
from bibwatch.stages.table import Table
from bibwatch.stages.vision_convert import VisionConvert
from bibwatch.testing import StageConformance


def replied(text: str) -> Prediction:
    return Prediction(text=text, finish_reason=FinishReason.STOP, device="cpu", seconds=0.1)


def line(text: str, x: float, y: float) -> TextLine:
    return TextLine(text, 0.99, Box(x, y, x + 40, y + 10))


class TestBibNumberOfLines(StageConformance):
    stage = BibNumber
    interpreter = BibLines
    output_kind = OutputKind.LINES
    good = Prediction(lines=(line("1042", 100, 100),), finish_reason=FinishReason.STOP)
    boxes = 1


class TestBibNumberOfReplies(StageConformance):
    stage = BibNumber
    interpreter = BibJson
    good = replied('{"bibs": [{"number": "0042", "box": [100, 100, 300, 200]}]}')
    boxes = 1


class TestPictureDescription(StageConformance):
    stage = PictureDescription
    interpreter = PlainText
    good = replied("Two runners cross a finish line.")


class TestVisionConvert(StageConformance):
    stage = VisionConvert
    interpreter = PlainText
    good = replied("# Start list\n\n1. Ada")


class TestVisionConvertOfDocTags(StageConformance):
    stage = VisionConvert
    interpreter = DocTags
    model: ClassVar[dict[str, Any]] = {"markup": "doctags"}
    good = replied("<doctag><text><loc_0><loc_0><loc_250><loc_100>Start list</text></doctag>")
    boxes = 1


class TestCodeUnderstanding(StageConformance):
    stage = CodeUnderstanding
    interpreter = CodeBlock
    good = replied("```python\nprint(42)\n```")


class TestTableOfReplies(StageConformance):
    stage = Table
    interpreter = TableText
    good = replied("| bib | name |\n|---|---|\n| 0042 | Ada |")


class TestTableOfLines(StageConformance):
    stage = Table
    interpreter = TableLines
    output_kind = OutputKind.LINES
    good = Prediction(
        lines=tuple(
            line(text, 100 * column, 20 * row)
            for row, texts in enumerate([("bib", "name"), ("0042", "Ada"), ("7", "Bo")])
            for column, text in enumerate(texts)
        ),
        finish_reason=FinishReason.STOP,
    )
