"""`bib_json`: bib candidates from a reply that is or contains JSON.

Knows the JSON shapes in which models report bibs, and derives confidence from token probabilities. Does not decide
which candidates are bibs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, normalized
from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.interpreters.replies import Json, answer_start, json_values, quoted, reply, unfenced
from bibwatch.runtimes.base import Constraint, CoordinateSpace, Prediction, Token

_LIST_KEYS = ("bibs", "bib_numbers", "numbers")  # keys models use for the list, and for the number in an entry
_NUMBER_KEYS = ("number", "bib", "bib_number")
_BOX_KEYS = ("box", "bbox", "bbox_2d")
_CORNER_KEYS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_NO_BIBS = {"none", "null", "n/a", "no bib", "no bibs"}
_MESSAGE_KEYS = ("error", "message", "reason")  # keys models use to explain an empty list
_MAX_DOUBTFUL_SCORE = 0.5
# Numbers allowed under constrained decoding: any bib, but no words.
_BIB = r"[A-Z]{0,3}[0-9]{1,6}[A-Z]?"
_NUMBER = re.compile(r"[A-Z]{0,4}[-.:]?\d[\d.:-]*[A-Z]{0,2}")  # without spaces
_WORD = re.compile(r"(?=\D*\d)[\w:.-]+")  # contains a digit: the form of bibs at some races
_LABEL = re.compile(r"^(?:bib|number|no\.?|nr\.?|[#№:\s])+", re.IGNORECASE)  # prefixes models put before a number
_EXAMPLE = re.compile(r'"[^"]*"|\{.*?\}|\[.*?\]', re.DOTALL)  # in a prompt; a model that cannot read echoes it
_SEPARATOR = re.compile(r"\s*[,;&]\s+|\s+(?:and|&)\s+")  # between numbers in one string


class BibJsonOptions(InterpreterOptions):
    """How to score the numbers in a reply."""

    produces: ClassVar[str] = "candidates"
    moved: ClassVar[Mapping[str, str]] = {"pattern": "race.bibs"}

    kind: Literal["bib_json"] = "bib_json"
    unknown_confidence: float = Field(
        default=0.5, ge=0, le=1, description="Confidence of a bib if the engine returns no token probabilities."
    )


class _Entry(BaseModel):
    """One bib as reported by a model; other keys are ignored."""

    number: str | None = Field(validation_alias=AliasChoices(*_NUMBER_KEYS))
    box: Any = Field(default=None, validation_alias=AliasChoices(*_BOX_KEYS))
    legible: Any = True
    confidence: Any = None

    def confidence_by(self, tokens: float | None, unknown: float) -> float:
        """Return the token probability, if known, or `unknown`, which a self-reported confidence can only lower."""
        stated = _number(self.confidence)
        without = min(stated, unknown) if stated is not None and 0 <= stated <= 1 else unknown
        return without if tokens is None else tokens

    @property
    def is_illegible(self) -> bool:
        """Whether the model reported the bib as illegible."""
        return str(self.legible).lower() in {"false", "no"}


class BibJson(Interpreter[BibJsonOptions, tuple[Candidate, ...]]):
    """Makes a candidate of every value that a reply reports as a bib.

    Returns no candidates only if the reply states that there are no bibs; otherwise raises ModelReplyError.
    """

    options_type: ClassVar[type[InterpreterOptions]] = BibJsonOptions

    @property
    def constraint(self) -> Constraint:
        return Constraint(json_schema=self.schema)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the reply, for engines that support constrained decoding."""
        number = {"type": "string", "pattern": f"^(?:{_BIB})$"}
        box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
        entry = _object({"number": number, "box": box}, required=["number"])
        return _object({"bibs": {"type": "array", "items": entry}}, required=["bibs"])

    def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
        text = reply(prediction, prompt)
        if _means_none(unfenced(text)):
            return ()
        found = json_values(text)
        entries = _entries(found.values, text)
        named = [entry for entry in entries if entry.number and not _means_none(entry.number)]
        if not named and (message := _error_message(found.values)):
            raise ModelReplyError(f"the reply has no bibs, only a message: {quoted(message)}")
        candidates = self._candidates(named, prediction, prompt, contradictory=_contradicts_itself(found))
        numbers = [number for number in map(_number_in, candidates) if number]
        examples = _words(" ".join(_EXAMPLE.findall(prompt)))
        if numbers and all(number in examples for number in numbers):
            raise ModelReplyError(f"the reply repeats the example in the prompt: {numbers[0]}")
        if named and not numbers:  # text in place of every number is not an answer
            raise ModelReplyError(f"no number where the bib should be: {quoted(text)}")
        return candidates

    def _candidates(
        self, entries: Sequence[_Entry], prediction: Prediction, prompt: str, *, contradictory: bool
    ) -> tuple[Candidate, ...]:
        probabilities = _NumberProbabilities(prediction.tokens)
        prompt_words = _words(prompt)
        candidates = []
        for entry in entries:
            printed = entry.number or ""
            score = entry.confidence_by(probabilities.of_next(printed), self.options.unknown_confidence)
            bare = _LABEL.sub("", printed)
            doubt = None
            if entry.is_illegible:
                doubt = "the model calls it illegible"
            elif contradictory:
                doubt = "the reply contradicts itself"
            elif {normalized(printed), normalized(bare)} & prompt_words:
                doubt = "a word from the prompt"
            candidates.append(
                Candidate(
                    text=printed,
                    score=min(score, _MAX_DOUBTFUL_SCORE) if doubt else score,
                    box=_box(entry.box, prediction.coordinates),
                    alternatives=(bare,) if bare and bare != printed else (),
                    doubt=doubt,
                )
            )
        return tuple(candidates)


class _NumberProbabilities:
    """Looks up the token probabilities of numbers, in the order of the reply."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._text = "".join(token.text for token in tokens)
        self._position = answer_start(self._text)

    def of_next(self, printed: str) -> float | None:
        """Return the probability of the next occurrence of a number; None if unknown."""
        number = re.escape(printed)
        # Prefer a JSON value: the same digits may appear in an earlier box.
        for form in (rf'(?:"\s*|:\s*)({number})(?=\s*["\s,\]}}])', rf"(?<![\w.])({number})(?![\w.])"):
            if printed and (found := re.compile(form).search(self._text, self._position)):
                self._position = found.end()
                return self._probability(*found.span(1))
        return None

    def _probability(self, start: int, end: int) -> float | None:
        total, at = 0.0, 0
        for token in self._tokens:
            after = at + len(token.text)
            if at < end and after > start:
                total += token.logprob
            at = after
        return None if math.isnan(total) else math.exp(min(0.0, total))


def _entries(value: Any, text: str) -> list[_Entry]:
    """Return the bibs in a JSON value. Raise ModelReplyError if its shape is unknown."""
    match value:
        case None:
            return [_Entry(number=None)]
        case str():
            return [_Entry(number=number) for number in _numbers(value)]
        case list():
            return [entry for item in value for entry in _entries(item, text)]
        case dict():
            for name in (*_LIST_KEYS, *_NUMBER_KEYS):
                if (name in _LIST_KEYS and name in value) or isinstance(value.get(name), list | dict):
                    return _entries(value[name], text)
            with suppress(ValidationError):
                entry = _Entry.model_validate(value)
                numbers = [None] if entry.number is None else _numbers(entry.number)
                return [entry.model_copy(update={"number": number}) for number in numbers]
    raise ModelReplyError(f"the reply reports no bibs in a known format: {quoted(text)}")


def _error_message(values: Sequence[Any]) -> str:
    """Return the error message in a reply, or ""."""
    messages = [value[name] for value in values if isinstance(value, dict) for name in _MESSAGE_KEYS if name in value]
    return " ".join(text for text in messages if isinstance(text, str)).strip()


def _contradicts_itself(found: Json) -> bool:
    """Return whether a reply has several answers: drafts and corrections rather than one bib per line."""
    one_each = all(isinstance(value, dict) and not value.keys() & set(_LIST_KEYS) for value in found.values)
    several = any(value != found.values[0] for value in found.values)
    return several and (found.scattered or not one_each)


def _numbers(text: str) -> list[str]:
    return _SEPARATOR.split(" ".join(text.split()))


def _number_in(candidate: Candidate) -> str | None:
    """Return the number in a candidate, bib or not (`7`, `14:32`, `A1B2`); None for words."""
    texts = (candidate.text, *candidate.alternatives)
    numbers = (text for text in texts if _NUMBER.fullmatch(normalized(text)) or _WORD.fullmatch(text.strip()))
    return next(map(normalized, numbers), None)


def _means_none(text: str) -> bool:
    return text.strip(" \n.!\"'").lower() in _NO_BIBS


def _words(prompt: str) -> set[str]:
    return {normalized(word) for word in re.findall(r"\w+", prompt)}


def _box(value: Any, coordinates: CoordinateSpace | None) -> Box | None:
    """Parse a box in any format models use; None if it is invalid or the coordinate space is unknown."""
    if isinstance(value, dict):
        value = next(([value[side] for side in sides] for sides in _CORNER_KEYS if value.keys() >= set(sides)), None)
    if isinstance(value, str):
        value = re.findall(r"-?\d+(?:\.\d+)?", value)
    if coordinates is None or not isinstance(value, list):
        return None
    numbers = [_number(side) for side in value]
    return coordinates.box(side for side in numbers if side is not None) if None not in numbers else None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
