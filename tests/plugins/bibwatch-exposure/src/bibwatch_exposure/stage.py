"""`exposure`: is a photo too dark, or too bright, to read?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.images import Photo
from bibwatch.interpreters.base import InterpreterOptions
from bibwatch.runtimes.base import Markup, OutputKind, Prediction
from bibwatch.stages.base import Outcome, Stage, StageOptions
from bibwatch_exposure.interpreter import PercentageOptions


class ExposureOptions(StageOptions):
    """Tells photos that are too dark or too bright."""

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {OutputKind.TEXT: PercentageOptions()}
    questions: ClassVar[Mapping[Markup, str]] = {Markup.MARKDOWN: "How bright is this picture, as a percentage?"}

    kind: Literal["exposure"] = "exposure"
    dark: float = Field(default=0.15, ge=0, le=1, description="Photos darker than this share of white are too dark.")
    bright: float = Field(default=0.85, ge=0, le=1, description="Photos brighter than this are too bright.")


class Exposure(Stage[ExposureOptions]):
    """One verdict for each photo."""

    options_type: ClassVar[type[StageOptions]] = ExposureOptions

    def interpret(self, photo: Photo, prediction: Prediction) -> Outcome:
        share: float = self.interpreter.interpret(prediction, self.options.question)
        verdict = "dark" if share < self.options.dark else "bright" if share > self.options.bright else "fine"
        output = {"brightness": share, "exposure": verdict}
        return Outcome(output=output, device=prediction.device, seconds=prediction.seconds)

    def text(self, outcome: Outcome) -> str:
        output = outcome.output or {}
        return f"{output['exposure']} ({output['brightness']:.0%})"
