"""`plain_text`: the reply as is, without the fence models tend to wrap it in."""

from __future__ import annotations

from typing import ClassVar, Literal

from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import reply, unfenced
from bibwatch.runtimes.base import Prediction


class PlainTextOptions(InterpreterOptions):
    """No options."""

    produces: ClassVar[str] = "text"

    kind: Literal["plain_text"] = "plain_text"


class PlainText(Interpreter[PlainTextOptions, str]):
    """Returns the reply, without an enclosing fence."""

    options_type: ClassVar[type[InterpreterOptions]] = PlainTextOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> str:
        text = unfenced(reply(prediction, prompt)).strip()
        if not text:
            raise ModelReplyError("the reply is an empty fence")
        return text
