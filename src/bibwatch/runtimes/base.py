"""The runtime contract: what every kind of model is to the rest of bibwatch.

Knows pictures, prompts and predictions. Does not know what the pictures are of or what becomes of the answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bibwatch.errors import ModelError


class ModelOptions(BaseModel):
    """Everything a runtime needs to run one model. `kind` chooses the runtime, `name` is the preset's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Facts of the hardware: they change how fast an answer comes, not the answer.
    hardware_fields: ClassVar[frozenset[str]] = frozenset({"name", "batch_size", "threads"})

    kind: str
    name: str
    batch_size: int = Field(default=8, ge=1, description="Images sent to the model together.")
    longest_side: int | None = Field(
        default=None, ge=32, description="Pixels of the longest side the model has any use for."
    )

    def identity(self) -> dict[str, Any]:
        """Return the fields that can change an answer; they go into the options hash of a result."""
        return self.model_dump(mode="json", exclude=set(self.hardware_fields))

    @property
    def model(self) -> str:
        """The model's own name, recorded with each result."""
        return self.name


@dataclass(frozen=True)
class Box:
    """A box in pixels of the picture it belongs to: left, top, right, bottom."""

    x1: float
    y1: float
    x2: float
    y2: float

    def scaled(self, factor: float) -> Box:
        """Return the same box in a picture `factor` times as large."""
        return Box(self.x1 * factor, self.y1 * factor, self.x2 * factor, self.y2 * factor)


@dataclass(frozen=True)
class TextLine:
    """One line of text a model saw: the text, how sure it is (0 to 1), and where."""

    text: str
    score: float
    box: Box


@dataclass(frozen=True)
class Prediction:
    """What a model said about one image. With `error` set, nothing else is an answer."""

    text: str = ""
    lines: tuple[TextLine, ...] = field(default=())
    device: str = ""
    seconds: float = 0.0
    error: ModelError | None = None


OptionsT = TypeVar("OptionsT", bound=ModelOptions)


class Runtime(ABC, Generic[OptionsT]):
    """Runs one model. Cheap to create; `load()` brings the model in, once however often it is called."""

    options_type: ClassVar[type[ModelOptions]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def load(self) -> None:
        """Load the model. Raises ConfigurationError if this machine cannot run it."""

    @abstractmethod
    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: object = None
    ) -> Iterator[Prediction]:
        """Yield one prediction per image, in order; a failure is the `error` of its own prediction.

        Predictions are yielded as they come, so that a caller may stop between two.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the model go; calling it twice does no harm."""
