"""What replies in text have in common: what is no reply at all, fences around them, and JSON somewhere in them.

Knows how models wrap and spoil what they were asked for. Does not know what they were asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from bibwatch.errors import ModelReplyError, ModelTruncatedError
from bibwatch.runtimes.base import FinishReason, Prediction

__all__ = ["reply"]  # for plugins; the rest is for the interpreters here

_QUOTED = 80  # characters of a reply that an error message keeps
_DEEPEST = 32  # levels of nesting; a reply that goes deeper is noise

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_SPECIAL = r"<\|[a-z_]+\|>|<end_of_utterance>|</?s>|<eos>|<pad>|<bos>"
_NOT_SAID = re.compile(rf"(?:\s|{_SPECIAL})+")
# A fence that is not closed runs to the end, as in CommonMark.
_FENCE = re.compile(r"^ {0,3}(`{3,}+|~{3,}+)([^\n`]*)\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# A string that is not closed runs to the end too: these patterns must not look at the rest of a reply twice.
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_STRING_OR_NUMBER = re.compile(_STRING + r"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.DOTALL)
_STRING_OR_BRACKET = re.compile(_STRING + r"|[\[\]{}]", re.DOTALL)
_BEGIN = re.compile(r"[\[{]")
_THOUGHTS_BEGIN, _THOUGHTS_END = "<think>", "</think>"  # some chat templates write the first of them themselves


class Fenced(NamedTuple):
    """A fenced block: the language its fence names (or ""), and what is inside."""

    language: str
    text: str


class Json(NamedTuple):
    """The JSON values of a reply, in order."""

    values: list[Any]
    scattered: bool  # there are several, and more than line ends between them: which is the answer is not known


def reply(prediction: Prediction, prompt: str) -> str:
    """Return what the model replied, without what it thought before, as text that any database takes.

    Raises ModelTruncatedError if the reply was cut off, ModelReplyError if it says nothing or only the prompt again.
    """
    if prediction.finish_reason is FinishReason.LENGTH:
        raise ModelTruncatedError(
            f"the reply was cut off; raise max_new_tokens of the preset, or ask for less: {quoted(prediction.text)}"
        )
    text = _said(clean(prediction.text))
    if text.startswith(_THOUGHTS_BEGIN) and _THOUGHTS_END not in text:
        raise ModelReplyError(f"the reply has thoughts and no answer: {quoted(text)}")
    text = _said(text[answer_start(text) :])
    if not text:
        raise ModelReplyError("the reply is blank")
    if text.casefold().split() == prompt.casefold().split():
        raise ModelReplyError(f"the reply only repeats the prompt: {quoted(text)}")
    return text


def answer_start(text: str) -> int:
    """Return where the answer begins in what a model wrote: after its thoughts, if it has any."""
    end = text.rfind(_THOUGHTS_END)
    return 0 if end < 0 else end + len(_THOUGHTS_END)


def _said(text: str) -> str:
    """Take white space and an engine's own signs off both ends."""
    ends = [found.span() for found in _NOT_SAID.finditer(text)]
    start = ends[0][1] if ends and ends[0][0] == 0 else 0
    end = ends[-1][0] if ends and ends[-1][1] == len(text) else len(text)
    return text[start:end]


def clean(text: str) -> str:
    """Return the text with plain line ends, without control characters and surrogates: UTF-8, and no NUL."""
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _CONTROLS.sub("", paired.replace("\r\n", "\n").replace("\r", "\n"))


def quoted(text: str) -> str:
    """Return the first characters of a reply, on one line, for an error message."""
    return repr(text[:_QUOTED] + ("…" if len(text) > _QUOTED else ""))


def fences(text: str) -> list[Fenced]:
    """Return the fenced blocks of a text."""
    return [Fenced("".join(info.split()[:1]), inside.rstrip("\n")) for _, info, inside in _FENCE.findall(text)]


def without_fences(text: str) -> str:
    """Return what is outside of the fenced blocks."""
    return _FENCE.sub("", text)


def unfenced(text: str) -> str:
    """Return what is inside of the fence if one fence is around it all; else the text."""
    text = text.strip()
    fence = _FENCE.match(text)
    if not fence:
        return text
    if fence.end() == len(text):
        return fence[3].strip("\n")
    # Markdown has fences of its own: there the first and the last belong together.
    first, *lines, last = text.split("\n")
    outer = fence[2].strip().lower() in {"markdown", "md"} and last.strip() == fence[1]
    return "\n".join(lines).strip("\n") if outer and first else text


def json_values(text: str) -> Json:
    """Return the JSON of a reply: the whole of it, or what is in its fences, or among its prose.

    Numbers come as strings, exactly as printed, also those with leading zeros. Raises ModelReplyError if there is
    no JSON, or if one is begun and not ended.
    """
    with suppress(ValueError):
        return Json([_loads(text)], scattered=False)
    blocks = [found for fence in fences(text) if (found := _values_among(fence.text)).values]
    if not blocks:
        blocks = [_values_among(text)]
    values = [value for block in blocks for value in block.values]
    if not values:
        raise ModelReplyError(f"no JSON in the reply: {quoted(text)}")
    scattered = len(blocks) > 1 or blocks[0].scattered
    if scattered and all(value == values[0] for value in values):
        return Json(values[:1], scattered=False)  # said twice
    return Json(values, scattered=scattered)


def _values_among(text: str) -> Json:
    values, between = [], text
    for part in _bracketed(text):
        with suppress(ValueError):  # prose has brackets too
            values.append(_loads(part))
            between = between.replace(part, "", 1)
    return Json(values, scattered=bool(between.strip(", \t\n")))


def _loads(text: str) -> Any:
    """Parse JSON as strictly as there is; raises ValueError."""
    as_printed = _STRING_OR_NUMBER.sub(lambda found: found[0] if found[0][0] == '"' else f'"{found[0]}"', text)
    try:
        value = json.loads(as_printed, strict=False, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("too deep") from None
    return _cleaned(value, _DEEPEST)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that is there twice: one of the two would be lost")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _cleaned(value: Any, levels: int) -> Any:
    """Clean the strings of a JSON value: escapes such as \\u0000 bring back what `clean` took out."""
    if levels == 0:
        raise ValueError("too deep")
    match value:
        case str():
            return clean(value)
        case list():
            return [_cleaned(item, levels - 1) for item in value]
        case dict():
            return {clean(key): _cleaned(item, levels - 1) for key, item in value.items()}
        case _:
            return value


def _bracketed(text: str) -> Iterator[str]:
    """Yield what stands in brackets, outermost, brackets included; quotes count inside of brackets only."""
    position = 0
    while begin := _BEGIN.search(text, position):
        depth = 0
        for found in _STRING_OR_BRACKET.finditer(text, begin.start()):
            depth += (found[0] in "[{") - (found[0] in "]}")
            if not depth:
                break
        if depth:
            raise ModelReplyError(f"the JSON of the reply does not end: {quoted(text)}")
        position = found.end()
        yield text[begin.start() : position]
