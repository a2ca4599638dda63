"""`code_block`: the code in a reply, and its language.

Knows Markdown fences and SmolDocling's language markers (`<_Python_>`).
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
_CODE_CHARACTER = re.compile(r"[=(){}\[\];:#<>/\\]")  # code without any of these looks like prose
_PROSE = re.compile(r"[\w\s,:;.!?'\"()\u2019-]*[.!?]")
_PREFIX = re.compile(r"\A(?:<code>)?(?:<loc_\d+>)*")


@dataclass(frozen=True)
class Code:
    """A block of code; `language` is the name the model gave, or ""."""

    language: str
    text: str


class CodeBlockOptions(InterpreterOptions):
    """No options."""

    produces: ClassVar[str] = "code"

    kind: Literal["code_block"] = "code_block"


class CodeBlock(Interpreter[CodeBlockOptions, Code]):
    """Extracts the only fenced block, or the whole reply if it is marked as code or looks like code."""

    options_type: ClassVar[type[InterpreterOptions]] = CodeBlockOptions

    def interpret(self, prediction: Prediction, prompt: str = "") -> Code:
        text = reply(prediction, prompt)
        blocks = fences(text)
        if len(blocks) > 1:
            raise ModelReplyError(f"expected one block of code in the reply, found {len(blocks)}: {quoted(text)}")
        code = blocks[0] if blocks else marked_code(text)
        is_marked = blocks or code.language or text.startswith("<code>")
        if not code.text.strip() or not (is_marked or _looks_like_code(code.text)):
            raise ModelReplyError(f"no code in the reply: {quoted(text)}")
        return Code(code.language, code.text)


def _looks_like_code(text: str) -> bool:
    return bool(_CODE_CHARACTER.search(text)) and not _PROSE.fullmatch(text.strip())


def marked_code(text: str) -> Code:
    """Parse code in SmolDocling's markup; the language is "" if there is no marker."""
    text = _PREFIX.sub("", text.strip("\n").rstrip().removesuffix("</code>").rstrip())
    marker = _LANGUAGE.match(text)
    return Code(marker[1], text[marker.end() :]) if marker else Code("", text)
