"""`plain_text`: the reply as it is, without the fence that models like to put around it."""

from __future__ import annotations

from typing import ClassVar, Literal

from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import reply, unfenced
from bibwatch.runtimes.base import Prediction


class PlainTextOptions(InterpreterOptions):
    """Nothing to choose."""

    produces: ClassVar[str] = "text"

    kind: Literal["plain_text"] = "plain_text"


class PlainText(Interpreter[PlainTextOptions, str]):
    """Takes the reply at its word."""

    options_type: ClassVar[type[InterpreterOptions]] = PlainTextOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> str:
        text = unfenced(reply(prediction, prompt)).strip()
        if not text:
            raise ModelReplyError("the reply is a fence with nothing in it")
        return text
