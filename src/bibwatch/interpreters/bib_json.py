"""`bib_json`: what may be bibs in a reply that is JSON, or has JSON in it.

Knows the shapes in which models name bibs, and what a reply's tokens say of how sure the model was. Does not know
which of them are bibs.
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

_LISTS = ("bibs", "bib_numbers", "numbers")  # names models give the list, and the number in an entry of it
_NUMBERS = ("number", "bib", "bib_number")
_BOXES = ("box", "bbox", "bbox_2d")
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_NONE = {"none", "null", "n/a", "no bib", "no bibs"}
_TROUBLES = ("error", "message", "reason")  # what a model may say beside an empty list: it could not look
_DOUBTFUL_AT_MOST = 0.5
# What an engine that can be held to a form may write as a number: any bib there is, and no words.
_BIB = r"[A-Z]{0,3}[0-9]{1,6}[A-Z]?"
_NUMBER = re.compile(r"[A-Z]{0,4}[-.:]?\d[\d.:-]*[A-Z]{0,2}")  # spaces left out
_WORD = re.compile(r"(?=\D*\d)[\w:.-]+")  # with a digit: what a bib is at some races
_LABEL = re.compile(r"^(?:bib|number|no\.?|nr\.?|[#№:\s])+", re.IGNORECASE)  # that models put before a number
_EXAMPLE = re.compile(r'"[^"]*"|\{.*?\}|\[.*?\]', re.DOTALL)  # in a prompt: a model that cannot read repeats it
_SEVERAL = re.compile(r"\s*[,;&]\s+|\s+(?:and|&)\s+")  # numbers in one string


class BibJsonOptions(InterpreterOptions):
    """How sure the numbers of a reply are."""

    produces: ClassVar[str] = "candidates"
    moved: ClassVar[Mapping[str, str]] = {"pattern": "race.bibs"}

    kind: Literal["bib_json"] = "bib_json"
    unknown_confidence: float = Field(
        default=0.5, ge=0, le=1, description="How sure a bib is where the engine tells no token probabilities."
    )


class _Entry(BaseModel):
    """One bib as models write it; what else they say of it is not asked for."""

    number: str | None = Field(validation_alias=AliasChoices(*_NUMBERS))
    box: Any = Field(default=None, validation_alias=AliasChoices(*_BOXES))
    legible: Any = True
    confidence: Any = None

    def confidence_by(self, tokens: float | None, unknown: float) -> float:
        """How sure the bib is. What a model says of its own sureness is believed only against the bib."""
        stated = _number(self.confidence)
        without = min(stated, unknown) if stated is not None and 0 <= stated <= 1 else unknown
        return without if tokens is None else tokens

    @property
    def is_illegible(self) -> bool:
        """Whether the model says that it could not really read it."""
        return str(self.legible).lower() in {"false", "no"}


class BibJson(Interpreter[BibJsonOptions, tuple[Candidate, ...]]):
    """Take every value that a reply names as a bib.

    No bibs is an answer only where the reply says so; a reply of anything else is a ModelReplyError.
    """

    options_type: ClassVar[type[InterpreterOptions]] = BibJsonOptions

    @property
    def constraint(self) -> Constraint:
        return Constraint(json_schema=self.schema)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the reply that is wanted, for engines that can hold a model to one."""
        number = {"type": "string", "pattern": f"^(?:{_BIB})$"}
        box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
        entry = _object({"number": number, "box": box}, required=["number"])
        return _object({"bibs": {"type": "array", "items": entry}}, required=["bibs"])

    def interpret(self, prediction: Prediction, prompt: str = "") -> tuple[Candidate, ...]:
        text = reply(prediction, prompt)
        if _says_none(unfenced(text)):
            return ()
        found = json_values(text)
        entries = _entries(found.values, text)
        named = [entry for entry in entries if entry.number and not _says_none(entry.number)]
        if not named and (trouble := _trouble(found.values)):
            raise ModelReplyError(f"the model names no bibs and says: {quoted(trouble)}")
        candidates = self._candidates(named, prediction, prompt, contradictory=_contradicts_itself(found))
        numbers = [number for number in map(_number_in, candidates) if number]
        examples = _words(" ".join(_EXAMPLE.findall(prompt)))
        if numbers and all(number in examples for number in numbers):
            raise ModelReplyError(f"the reply repeats the example of the prompt: {numbers[0]}")
        if named and not numbers:  # words where a number should be are no answer at all
            raise ModelReplyError(f"no number where the bib should be: {quoted(text)}")
        return candidates

    def _candidates(
        self, entries: Sequence[_Entry], prediction: Prediction, prompt: str, *, contradictory: bool
    ) -> tuple[Candidate, ...]:
        probabilities = _NumberProbabilities(prediction.tokens)
        asked = _words(prompt)
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
            elif {normalized(printed), normalized(bare)} & asked:
                doubt = "a word of the question"
            candidates.append(
                Candidate(
                    text=printed,
                    score=min(score, _DOUBTFUL_AT_MOST) if doubt else score,
                    box=_box(entry.box, prediction.coordinates),
                    alternatives=(bare,) if bare and bare != printed else (),
                    doubt=doubt,
                )
            )
        return tuple(candidates)


class _NumberProbabilities:
    """The probability of each number, in the order of the reply: that of the tokens it is written with."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._text = "".join(token.text for token in tokens)
        self._position = answer_start(self._text)

    def of_next(self, printed: str) -> float | None:
        """Return the probability of the tokens of the next occurrence of a number; None if that is not known."""
        number = re.escape(printed)
        # As a value of JSON if possible: the same digits may be in a box that comes first.
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
    """Return the bibs a JSON value names, in whichever shape. Raises ModelReplyError for a shape that is unknown."""
    match value:
        case None:
            return [_Entry(number=None)]
        case str():
            return [_Entry(number=number) for number in _numbers(value)]
        case list():
            return [entry for item in value for entry in _entries(item, text)]
        case dict():
            for name in (*_LISTS, *_NUMBERS):
                if (name in _LISTS and name in value) or isinstance(value.get(name), list | dict):
                    return _entries(value[name], text)
            with suppress(ValidationError):
                entry = _Entry.model_validate(value)
                numbers = [None] if entry.number is None else _numbers(entry.number)
                return [entry.model_copy(update={"number": number}) for number in numbers]
    raise ModelReplyError(f"the reply names no bibs in any known way: {quoted(text)}")


def _trouble(values: Sequence[Any]) -> str:
    """Return what a reply says went wrong; "" if it says nothing of the kind."""
    said = [value[name] for value in values if isinstance(value, dict) for name in _TROUBLES if name in value]
    return " ".join(text for text in said if isinstance(text, str)).strip()


def _contradicts_itself(found: Json) -> bool:
    """Return whether a reply has several answers: drafts and corrections, not one bib a line."""
    one_each = all(isinstance(value, dict) and not value.keys() & set(_LISTS) for value in found.values)
    several = any(value != found.values[0] for value in found.values)
    return several and (found.scattered or not one_each)


def _numbers(text: str) -> list[str]:
    return _SEVERAL.split(" ".join(text.split()))


def _number_in(candidate: Candidate) -> str | None:
    """Return the number that a candidate is, a bib or not (`7`, `14:32`, `A1B2`); None for words."""
    texts = (candidate.text, *candidate.alternatives)
    numbers = (text for text in texts if _NUMBER.fullmatch(normalized(text)) or _WORD.fullmatch(text.strip()))
    return next(map(normalized, numbers), None)


def _says_none(text: str) -> bool:
    return text.strip(" \n.!\"'").lower() in _NONE


def _words(prompt: str) -> set[str]:
    return {normalized(word) for word in re.findall(r"\w+", prompt)}


def _box(written: Any, coordinates: CoordinateSpace | None) -> Box | None:
    """Return a box as models write it; None where it is none, or nothing is known of the model's boxes."""
    if isinstance(written, dict):
        written = next(([written[side] for side in sides] for sides in _CORNERS if written.keys() >= set(sides)), None)
    if isinstance(written, str):
        written = re.findall(r"-?\d+(?:\.\d+)?", written)
    if coordinates is None or not isinstance(written, list):
        return None
    numbers = [_number(side) for side in written]
    return coordinates.box(side for side in numbers if side is not None) if None not in numbers else None


def _number(written: Any) -> float | None:
    try:
        return float(written)
    except (TypeError, ValueError):
        return None


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
