"""The stage contract: photos in, one outcome per photo out.

Knows how runtime and interpreter are put together for a use case. Does not know where photos come from.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from bibwatch.errors import ModelError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.runtimes.base import Box, ModelOptions, Prediction, Runtime


class StageOptions(BaseModel):
    """A use case with its model and its interpreter. `kind` chooses the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    model_options: SerializeAsAny[ModelOptions]
    model_interpreter_options: SerializeAsAny[InterpreterOptions]
    prompt: str = Field(default="", description="What the model is asked; a model that takes no prompt ignores it.")

    def fingerprint(self) -> str:
        """Hash every option that can change an answer (12 hex digits)."""
        own = self.model_dump(mode="json", exclude={"model_options"})
        text = json.dumps(own | {"model_options": self.model_options.identity()}, sort_keys=True)
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
    """One use case, bound to a runtime and an interpreter."""

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
        for prediction in self.runtime.predict_batch([Image.new("RGB", (64, 64), "white")], self.options.prompt):
            if prediction.error:
                raise prediction.error

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        """Yield one outcome per photo, in order, as the model gives them."""
        photos = list(photos)
        predictions = self.runtime.predict_batch((photo.image for photo in photos), self.options.prompt)
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
