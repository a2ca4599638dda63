"""`percentage`: the first percentage in a reply."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import reply
from bibwatch.runtimes.base import Prediction


class PercentageOptions(InterpreterOptions):
    """There is nothing to set."""

    kind: Literal["percentage"] = "percentage"


class Percentage(Interpreter[PercentageOptions, float]):
    """Finds the share, 0 to 1."""

    options_type: ClassVar[type[InterpreterOptions]] = PercentageOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> float:
        text = reply(prediction, prompt)
        found = re.search(r"(\d{1,3}(?:\.\d{1,6})?) ?%", text, re.ASCII)
        if not found or float(found[1]) > 100:
            raise ModelReplyError(f"no percentage: {text[:80]!r}")
        return float(found[1]) / 100
