"""`vision_convert`: converts a photo of a page to Markdown or DocTags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bibwatch.images import Photo
from bibwatch.interpreters.base import InterpreterOptions
from bibwatch.interpreters.doctags import DocTagsOptions, Document
from bibwatch.interpreters.plain_text import PlainTextOptions
from bibwatch.runtimes.base import Markup, ModelOptions, OutputKind, Prediction
from bibwatch.stages.base import Outcome, Stage, StageOptions


class VisionConvertOptions(StageOptions):
    """Converts photos of pages to documents.

    The interpreter determines the format: `plain_text` keeps Markdown as is, `doctags` parses DocTags.
    """

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {OutputKind.TEXT: PlainTextOptions()}
    questions: ClassVar[Mapping[Markup, str]] = {
        Markup.MARKDOWN: "Convert this page to Markdown. Leave out nothing and add nothing.",
        Markup.DOCTAGS: "Convert this page to docling.",
    }

    kind: Literal["vision_convert"] = "vision_convert"

    @classmethod
    def value_kinds(cls) -> set[str]:
        return {PlainTextOptions.produces, DocTagsOptions.produces}

    @classmethod
    def default_interpreter(cls, model: ModelOptions) -> InterpreterOptions | None:
        return DocTagsOptions() if model.markup is Markup.DOCTAGS else super().default_interpreter(model)


class VisionConvert(Stage[VisionConvertOptions]):
    """Converts each photo to a document."""

    options_type: ClassVar[type[StageOptions]] = VisionConvertOptions

    def interpret(self, photo: Photo, prediction: Prediction) -> Outcome:
        found: Document | str = self.interpreter.interpret(prediction, self.options.question)
        output = {"markdown": found} if isinstance(found, str) else self._document(photo, found)
        return Outcome(output=output, device=prediction.device, seconds=prediction.seconds)

    def text(self, outcome: Outcome) -> str:
        return str((outcome.output or {})["markdown"])

    def _document(self, photo: Photo, document: Document) -> dict[str, Any]:
        elements = [
            {
                "label": element.label,
                "text": element.text,
                "box": element.box.scaled(photo.scale).rounded() if element.box else None,
            }
            for element in document.elements
        ]
        return {"markdown": document.markdown(), "doctags": document.source, "elements": elements}
