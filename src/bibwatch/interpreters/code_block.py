"""`code_block`: the code in a reply, and the language it says it is in.

Knows Markdown fences and the way SmolDocling marks code (`<_Python_>`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import fences, quoted, reply
from bibwatch.runtimes.base import Prediction

_LANGUAGE = re.compile(r"<_([^<>\s]+)_>[ \t]*\n?")
_SIGN = re.compile(r"[=(){}\[\];:#<>/\\]")  # code without any is not told from words
_PROSE = re.compile(r"[\w\s,:;.!?'\"()\u2019-]*[.!?]")
_BEFORE = re.compile(r"\A(?:<code>)?(?:<loc_\d+>)*")


@dataclass(frozen=True)
class Code:
    """A piece of code; `language` as the model named it, "" where it did not."""

    language: str
    text: str


class CodeBlockOptions(InterpreterOptions):
    """Nothing to choose."""

    produces: ClassVar[str] = "code"

    kind: Literal["code_block"] = "code_block"


class CodeBlock(Interpreter[CodeBlockOptions, Code]):
    """Takes the one fenced block, or the whole reply if it is marked as code or looks like it."""

    options_type: ClassVar[type[InterpreterOptions]] = CodeBlockOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Code:
        text = reply(prediction, prompt)
        blocks = fences(text)
        if len(blocks) > 1:
            raise ModelReplyError(f"{len(blocks)} pieces of code in the reply, one is wanted: {quoted(text)}")
        code = blocks[0] if blocks else marked_code(text)
        is_marked = blocks or code.language or text.startswith("<code>")
        if not code.text.strip() or not (is_marked or _looks_like_code(code.text)):
            raise ModelReplyError(f"no code in the reply: {quoted(text)}")
        return Code(code.language, code.text)


def _looks_like_code(text: str) -> bool:
    return bool(_SIGN.search(text)) and not _PROSE.fullmatch(text.strip())


def marked_code(text: str) -> Code:
    """Read code as SmolDocling marks it; without a mark the language is ""."""
    text = _BEFORE.sub("", text.strip("\n").rstrip().removesuffix("</code>").rstrip())
    mark = _LANGUAGE.match(text)
    return Code(mark[1], text[mark.end() :]) if mark else Code("", text)
