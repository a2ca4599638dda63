"""Parsing shared by all text replies: missing or truncated replies, fences and embedded JSON.

Knows how models wrap and corrupt their output. Does not know what the prompt asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from bibwatch.errors import ModelReplyError, ModelTruncatedError
from bibwatch.runtimes.base import FinishReason, Prediction

__all__ = ["reply"]  # public, for plugins; the rest is internal to this package

_MAX_QUOTE = 80  # characters of a reply in an error message
_MAX_DEPTH = 32  # nesting levels; a deeper reply is noise

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_SPECIAL = r"<\|[a-z_]+\|>|<end_of_utterance>|</?s>|<eos>|<pad>|<bos>"
_PADDING = re.compile(rf"(?:\s|{_SPECIAL})+")
# An unclosed fence runs to the end, as in CommonMark.
_FENCE = re.compile(r"^ {0,3}(`{3,}+|~{3,}+)([^\n`]*)\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# An unclosed string runs to the end too: these patterns must not scan the rest of a reply twice.
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_STRING_OR_NUMBER = re.compile(_STRING + r"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.DOTALL)
_STRING_OR_BRACKET = re.compile(_STRING + r"|[\[\]{}]", re.DOTALL)
_OPENING_BRACKET = re.compile(r"[\[{]")
_REASONING_START, _REASONING_END = "<think>", "</think>"  # some chat templates supply the opening tag


class Fenced(NamedTuple):
    """A fenced block: its language (or "") and its content."""

    language: str
    text: str


class Json(NamedTuple):
    """The JSON values in a reply, in order."""

    values: list[Any]
    scattered: bool  # several values, not just one per line: unclear which is the answer


def reply(prediction: Prediction, prompt: str) -> str:
    """Return the model's reply without its reasoning, as text that any database can store.

    Raise ModelTruncatedError if the reply was cut off, ModelReplyError if it is blank or only repeats the prompt.
    """
    if prediction.finish_reason is FinishReason.LENGTH:
        raise ModelTruncatedError(
            f"the reply was cut off; raise the preset's max_new_tokens, or ask for less: {quoted(prediction.text)}"
        )
    text = _stripped(clean(prediction.text))
    if text.startswith(_REASONING_START) and _REASONING_END not in text:
        raise ModelReplyError(f"the reply has reasoning but no answer: {quoted(text)}")
    text = _stripped(text[answer_start(text) :])
    if not text:
        raise ModelReplyError("the reply is blank")
    if text.casefold().split() == prompt.casefold().split():
        raise ModelReplyError(f"the reply only repeats the prompt: {quoted(text)}")
    return text


def answer_start(text: str) -> int:
    """Return the index at which the answer begins, after any reasoning."""
    end = text.rfind(_REASONING_END)
    return 0 if end < 0 else end + len(_REASONING_END)


def _stripped(text: str) -> str:
    """Strip whitespace and special tokens from both ends."""
    ends = [found.span() for found in _PADDING.finditer(text)]
    start = ends[0][1] if ends and ends[0][0] == 0 else 0
    end = ends[-1][0] if ends and ends[-1][1] == len(text) else len(text)
    return text[start:end]


def clean(text: str) -> str:
    """Normalize line ends, remove control characters and replace lone surrogates: valid UTF-8 without NUL."""
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _CONTROLS.sub("", paired.replace("\r\n", "\n").replace("\r", "\n"))


def quoted(text: str) -> str:
    """Return the start of a reply, quoted on one line, for an error message."""
    return repr(text[:_MAX_QUOTE] + ("…" if len(text) > _MAX_QUOTE else ""))


def fences(text: str) -> list[Fenced]:
    """Return the fenced blocks in a text."""
    return [Fenced("".join(info.split()[:1]), inside.rstrip("\n")) for _, info, inside in _FENCE.findall(text)]


def without_fences(text: str) -> str:
    """Return the text outside fenced blocks."""
    return _FENCE.sub("", text)


def unfenced(text: str) -> str:
    """Return the content of the fence that encloses the whole text, if there is one; otherwise the text."""
    text = text.strip()
    fence = _FENCE.match(text)
    if not fence:
        return text
    if fence.end() == len(text):
        return fence[3].strip("\n")
    # Fenced Markdown may contain fences: pair the first with the last.
    first, *lines, last = text.split("\n")
    outer = fence[2].strip().lower() in {"markdown", "md"} and last.strip() == fence[1]
    return "\n".join(lines).strip("\n") if outer and first else text


def json_values(text: str) -> Json:
    """Return the JSON in a reply: the whole reply, or its fenced blocks, or values in its prose.

    Numbers are strings, exactly as printed, including leading zeros. Raise ModelReplyError if there is no JSON or if
    it is incomplete.
    """
    with suppress(ValueError):
        return Json([_loads(text)], scattered=False)
    blocks = [found for fence in fences(text) if (found := _values_in(fence.text)).values]
    if not blocks:
        blocks = [_values_in(text)]
    values = [value for block in blocks for value in block.values]
    if not values:
        raise ModelReplyError(f"no JSON in the reply: {quoted(text)}")
    scattered = len(blocks) > 1 or blocks[0].scattered
    if scattered and all(value == values[0] for value in values):
        return Json(values[:1], scattered=False)  # repeated
    return Json(values, scattered=scattered)


def _values_in(text: str) -> Json:
    values, between = [], text
    for part in _bracketed(text):
        with suppress(ValueError):  # prose has brackets too
            values.append(_loads(part))
            between = between.replace(part, "", 1)
    return Json(values, scattered=bool(between.strip(", \t\n")))


def _loads(text: str) -> Any:
    """Parse JSON, rejecting duplicate keys, NaN and deep nesting. Raise ValueError."""
    as_printed = _STRING_OR_NUMBER.sub(lambda found: found[0] if found[0][0] == '"' else f'"{found[0]}"', text)
    try:
        value = json.loads(as_printed, strict=False, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("too deep") from None
    return _cleaned(value, _MAX_DEPTH)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key: one of its values would be lost")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _cleaned(value: Any, levels: int) -> Any:
    """Clean the strings in a JSON value: escapes such as \\u0000 bring back what `clean` removed."""
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
    """Yield the outermost bracketed parts, brackets included; quotes only count inside brackets."""
    position = 0
    while begin := _OPENING_BRACKET.search(text, position):
        depth = 0
        for found in _STRING_OR_BRACKET.finditer(text, begin.start()):
            depth += (found[0] in "[{") - (found[0] in "]}")
            if not depth:
                break
        if depth:
            raise ModelReplyError(f"the JSON in the reply is incomplete: {quoted(text)}")
        position = found.end()
        yield text[begin.start() : position]
