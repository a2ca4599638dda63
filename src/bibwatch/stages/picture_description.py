"""`picture_description`: describes a photo in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bibwatch.interpreters.base import InterpreterOptions
from bibwatch.interpreters.plain_text import PlainTextOptions
from bibwatch.runtimes.base import Markup, OutputKind, Prediction
from bibwatch.stages.base import StageOptions
from bibwatch.stages.regions import RegionStage, RegionStageOptions


class PictureDescriptionOptions(RegionStageOptions):
    """Describes photos in words."""

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {OutputKind.TEXT: PlainTextOptions()}
    questions: ClassVar[Mapping[Markup, str]] = {
        Markup.MARKDOWN: "Describe this picture in a few sentences.",
    }

    kind: Literal["picture_description"] = "picture_description"


class PictureDescription(RegionStage[PictureDescriptionOptions]):
    """Describes each region."""

    options_type: ClassVar[type[StageOptions]] = PictureDescriptionOptions

    def value(self, prediction: Prediction) -> dict[str, Any]:
        return {"description": self.interpreter.interpret(prediction, self.options.question)}

    def show(self, value: dict[str, Any]) -> str:
        return str(value["description"])
