"""`code_understanding`: extracts source code and its language from a photo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from bibwatch.interpreters.base import InterpreterOptions
from bibwatch.interpreters.code_block import Code, CodeBlockOptions
from bibwatch.runtimes.base import Markup, OutputKind, Prediction
from bibwatch.stages.base import StageOptions
from bibwatch.stages.regions import RegionStage, RegionStageOptions


class CodeUnderstandingOptions(RegionStageOptions):
    """Extracts source code from photos."""

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {OutputKind.TEXT: CodeBlockOptions()}
    questions: ClassVar[Mapping[Markup, str]] = {
        Markup.MARKDOWN: "Copy the code in this picture exactly, into one fenced block that names the language.",
        Markup.DOCTAGS: "Convert code to text.",
    }

    kind: Literal["code_understanding"] = "code_understanding"


class CodeUnderstanding(RegionStage[CodeUnderstandingOptions]):
    """Extracts the code in each region."""

    options_type: ClassVar[type[StageOptions]] = CodeUnderstandingOptions

    def value(self, prediction: Prediction) -> dict[str, Any]:
        code: Code = self.interpreter.interpret(prediction, self.options.question)
        return {"language": code.language, "code": code.text}

    def show(self, value: dict[str, Any]) -> str:
        return str(value["code"])
