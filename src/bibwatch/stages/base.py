"""The stage contract: photos in, one outcome per photo out.

Knows how runtime and interpreter are put together for a use case. Does not know where photos come from.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Self, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from bibwatch.errors import ModelError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.runtimes.base import Box, Gives, Markup, ModelOptions, Prediction, Runtime

_ANSWERS = {Gives.LINES: "lines of text", Gives.TEXT: "a reply to a prompt"}


class StageOptions(BaseModel):
    """A use case with its model and its interpreter. `kind` chooses the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The interpreter to use when none is named, by what the model gives. A stage that has none for lines of
    # text, say, cannot work with an OCR.
    interpreters: ClassVar[Mapping[Gives, InterpreterOptions]] = {}
    # The stage's own question, by how the model writes; each stage has one for MARKDOWN.
    questions: ClassVar[Mapping[Markup, str]] = {Markup.MARKDOWN: ""}

    kind: str
    model_options: SerializeAsAny[ModelOptions]
    model_interpreter_options: SerializeAsAny[InterpreterOptions]
    prompt: str = Field(default="", description="What the model is asked; empty: the stage's own question.")

    @model_validator(mode="before")
    @classmethod
    def _default_interpreter(cls, data: dict[str, Any]) -> dict[str, Any]:
        model = data.get("model_options")
        if not isinstance(model, ModelOptions) or data.get("model_interpreter_options") is not None:
            return data
        chosen = cls.default_interpreter(model)
        if chosen is None:
            needed = " or ".join(_ANSWERS[gives] for gives in cls.interpreters)
            raise ValueError(
                f"preset {model.name} answers with {_ANSWERS[model.gives]}, this stage needs {needed}; "
                "choose another with --preset (see `bibwatch presets`)"
            )
        return {**data, "model_interpreter_options": chosen}

    @classmethod
    def default_interpreter(cls, model: ModelOptions) -> InterpreterOptions | None:
        """Return the interpreter for a model if none is named; None if the stage can do nothing with its answers."""
        return cls.interpreters.get(model.gives)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        model, interpreter = self.model_options, self.model_interpreter_options
        if model.stages and self.kind not in model.stages:
            raise ValueError(f"preset {model.name} was made for {', '.join(model.stages)} and cannot do {self.kind}")
        if interpreter.needs is not model.gives:
            raise ValueError(
                f"interpreter {interpreter.kind} needs {_ANSWERS[interpreter.needs]}, "
                f"preset {model.name} answers with {_ANSWERS[model.gives]}"
            )
        return self

    @property
    def question(self) -> str:
        """What the model is asked."""
        return self.prompt or self.questions.get(self.model_options.markup, self.questions[Markup.MARKDOWN])

    def fingerprint(self) -> str:
        """Hash every option that can change an answer (12 hex digits)."""
        own = self.model_dump(mode="json", exclude={"model_options"})
        text = json.dumps(
            own | {"model_options": self.model_options.identity(), "prompt": self.question}, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Verdict(StrEnum):
    """What a reading is worth."""

    ACCEPTED = "accepted"
    REVIEW = "review"


@dataclass(frozen=True)
class Reading:
    """One bib in one photo; the box is in pixels of the upright photo at full size."""

    bib: str
    confidence: float
    verdict: Verdict
    box: Box | None


@dataclass(frozen=True)
class Outcome:
    """What a stage made of one photo. With `error` set, nothing else is an answer."""

    readings: tuple[Reading, ...] = field(default=())
    output: dict[str, Any] | None = None  # what a stage other than bib_number has to say
    device: str = ""
    seconds: float = 0.0
    error: ModelError | None = None


OptionsT = TypeVar("OptionsT", bound=StageOptions)


class Stage(ABC, Generic[OptionsT]):
    """One use case, bound to a runtime and an interpreter.

    `bibwatch.testing.StageConformance` states the contract as tests.
    """

    options_type: ClassVar[type[StageOptions]]

    def __init__(self, options: OptionsT, runtime: Runtime[Any], interpreter: Interpreter[Any, Any]) -> None:
        self.options = options
        self.runtime = runtime
        self.interpreter = interpreter

    @property
    def longest_side(self) -> int | None:
        """Pixels of the longest side that this stage has any use for; photos may come smaller than full size."""
        return self.options.model_options.longest_side

    def warm_up(self) -> None:
        """Load the model and make it answer once, so that the first photo does not wait. Raises its errors."""
        self.runtime.load()
        for prediction in self.runtime.predict_batch([Image.new("RGB", (64, 64), "white")], self.options.question):
            if prediction.error:
                raise prediction.error

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        """Yield one outcome per photo, in order, as the model gives them."""
        photos = list(photos)
        predictions = self.runtime.predict_batch((photo.image for photo in photos), self.options.question)
        for photo, prediction in zip(photos, predictions, strict=True):
            yield self._outcome(photo, prediction)

    def _outcome(self, photo: Photo, prediction: Prediction) -> Outcome:
        if prediction.error:
            return Outcome(device=prediction.device, seconds=prediction.seconds, error=prediction.error)
        try:
            return self.judge(photo, prediction)
        except ModelError as exc:
            return Outcome(device=prediction.device, seconds=prediction.seconds, error=exc)

    @abstractmethod
    def judge(self, photo: Photo, prediction: Prediction) -> Outcome:
        """Interpret one prediction for one photo. Raises ModelReplyError."""

    def text(self, outcome: Outcome) -> str:
        """Write an outcome without error for a person to read."""
        return json.dumps(outcome.output, ensure_ascii=False)
