"""The runtime contract: the interface between models and the rest of bibwatch.

Knows images, prompts and predictions. Does not know what the images show or how predictions are used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Self, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Glyphs, Look
from bibwatch.errors import ModelError

_BOX_LENGTH = 4  # numbers in a box


class OutputKind(StrEnum):
    """What a model returns; an interpreter accepts one or the other."""

    LINES = "lines"  # lines of text, with boxes and scores; the model takes no prompt
    TEXT = "text"  # a reply to the prompt


class BoxConvention(StrEnum):
    """How a model was trained to write boxes: the order and unit of the four numbers."""

    NONE = "none"  # not trained to write boxes; any it writes are ignored
    PIXELS = "pixels"  # x1, y1, x2, y2 in pixels of the image sent to the model
    MODEL_PIXELS = "model_pixels"  # the same, after its processor has resized the image (Qwen2.5-VL)
    REL1 = "rel1"  # x1, y1, x2, y2 from 0 to 1
    REL1000 = "rel1000"  # x1, y1, x2, y2 from 0 to 1000 (Qwen2-VL, Qwen3-VL, Florence-2)
    YX1000 = "yx1000"  # y1, x1, y2, x2 from 0 to 1000 (Gemini, PaliGemma)


class Markup(StrEnum):
    """How a model writes a document, and therefore how to prompt for one."""

    MARKDOWN = "markdown"  # as the prompt requests; any general model
    DOCTAGS = "doctags"  # SmolDocling and similar models, trained on a few fixed prompts


class ModelOptions(BaseModel):
    """Everything a runtime needs to run one model. `kind` selects the runtime, `name` is the preset's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_kind: ClassVar[OutputKind] = OutputKind.TEXT
    # Whether the model is behind a server, local or remote, which may be temporarily unavailable.
    is_remote: ClassVar[bool] = False
    # Increment when the same options give different predictions than before: photos are then read again.
    code_revision: ClassVar[int] = 1
    # Fields that do not affect predictions: hardware settings, and information for people.
    hardware_fields: ClassVar[frozenset[str]] = frozenset({"name", "batch_size", "threads"})
    about_fields: ClassVar[frozenset[str]] = frozenset(
        {"stages", "licence", "download_gb", "memory_gb", "refused", "note"}
    )

    kind: str
    name: str = "unnamed"
    batch_size: int = Field(default=8, ge=1, description="Images per batch.")
    longest_side: int | None = Field(
        default=None, ge=32, description="Longest useful side of an image in pixels; larger images are reduced."
    )
    boxes: BoxConvention = Field(default=BoxConvention.NONE, description="How the model writes boxes.")
    markup: Markup = Field(default=Markup.MARKDOWN, description="How the model writes a document.")
    stages: tuple[str, ...] = Field(
        default=(), description="Kinds of stage the model was made for; empty: all that accept its output."
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="Prompts that suit this model, by kind of stage; a prompt set for the stage takes precedence.",
    )
    licence: str | None = Field(default=None, description="Licence of the weights.")
    download_gb: float | None = Field(default=None, ge=0, description="Download size in gigabytes.")
    memory_gb: float | None = Field(default=None, ge=0, description="Approximate memory use in gigabytes.")
    refused: str | None = Field(default=None, description="Why this model cannot be run at all.")
    note: str | None = Field(default=None, description="Further remarks.")

    def identity(self) -> dict[str, Any]:
        """Return the fields that can affect predictions, for the fingerprint of a result.

        Fields at their default are left out, so that adding a field does not invalidate existing results.
        """
        # The fingerprint already has the prompt that is used; those for other stages have no effect.
        excluded = {*self.hardware_fields, *self.about_fields, "prompts", "kind"}
        fields = self.model_dump(mode="json", exclude=excluded, exclude_defaults=True)
        return {"kind": self.kind, "code_revision": self.code_revision, **fields}

    @property
    def model(self) -> str:
        """The model's own name, recorded with each result."""
        return self.name

    @property
    def decode_side(self) -> int | None:
        """Pixels of the longest side at which photos are decoded for the model; None: full size."""
        return self.longest_side

    @property
    def place(self) -> str:
        """Where the model runs, as far as is known in advance: `cpu`, `cuda`, `auto`, a host."""
        return "cpu"

    @property
    def is_on_another_machine(self) -> bool:
        """Whether photos leave this machine. Such a server is not contacted until there is something to read."""
        return False

    def each_server(self) -> Iterable[Self]:
        """Yield a copy of these options for each server, with only that server; without servers, yield self."""
        yield self

    def obstacle(self) -> str | None:
        """Return why the model cannot run here, or None. Fast: imports nothing heavy, downloads nothing."""
        return self.refused


@dataclass(frozen=True)
class CoordinateSpace:
    """Maps the numbers of a model's boxes to pixels of the image."""

    convention: BoxConvention
    width: int  # of the image passed to the runtime, in pixels
    height: int
    sent: tuple[int, int]  # size of the image sent to the model: reduced, or padded with white
    model_size: tuple[int, int] | None = None  # size after resizing by the model's processor, if known

    def box(self, numbers: Iterable[float]) -> Box | None:
        """Return four numbers as a box in pixels of the image, clamped to it; None if they are not a box within it."""
        unit = self._unit()
        four = tuple(numbers)
        if unit is None or len(four) != _BOX_LENGTH or not all(map(math.isfinite, four)):
            return None
        if self.convention is BoxConvention.YX1000:
            four = (four[1], four[0], four[3], four[2])
        scale = max(self.width, self.height) / max(self.sent)
        scale_x, scale_y = (scale * sent / full for sent, full in zip(self.sent, unit, strict=True))
        x1, x2 = (min(max(four[side] * scale_x, 0.0), float(self.width)) for side in (0, 2))
        y1, y2 = (min(max(four[side] * scale_y, 0.0), float(self.height)) for side in (1, 3))
        return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None

    def _unit(self) -> tuple[float, float] | None:
        """Return the numbers that stand for the full width and height."""
        match self.convention:
            case BoxConvention.NONE:
                return None
            case BoxConvention.PIXELS:
                return self.sent
            case BoxConvention.MODEL_PIXELS:
                return self.model_size
            case BoxConvention.REL1:
                return 1, 1
            case _:
                return 1000, 1000


@dataclass(frozen=True)
class TextLine:
    """One line of text found by a model: the text, the confidence (0 to 1) and the location."""

    text: str
    score: float
    box: Box
    slope: float | None = None  # pixels down per pixel to the right; None if the model does not report it
    look: Look = Look.PHOTO  # a line may be read more than once
    glyphs: Glyphs | None = None
    alternatives: tuple[tuple[str, float], ...] = ()  # other texts, with their odds against this one


@dataclass(frozen=True)
class Token:
    """One token of a reply, as text, and its log-probability."""

    text: str
    logprob: float


class FinishReason(StrEnum):
    """Why a model stopped generating."""

    STOP = "stop"  # the reply is complete
    LENGTH = "length"  # the reply was cut off at max_new_tokens
    UNKNOWN = "unknown"  # not reported by the engine


@dataclass(frozen=True)
class Usage:
    """Token counts of one request, including its image, and of the reply."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Prediction:
    """What a model returned for one image. If `error` is set, there is no reply."""

    text: str = ""
    lines: tuple[TextLine, ...] = field(default=())
    finish_reason: FinishReason = FinishReason.UNKNOWN
    tokens: tuple[Token, ...] = field(default=())  # of `text`, if the engine reports log-probabilities
    usage: Usage | None = None  # if the engine reports it
    coordinates: CoordinateSpace | None = None
    device: str = ""
    seconds: float = 0.0
    error: ModelError | None = None


@dataclass(frozen=True)
class Constraint:
    """What a reply must match: a JSON schema, or a regular expression in full."""

    json_schema: dict[str, Any] | None = None
    regex: str | None = None


OptionsT = TypeVar("OptionsT", bound=ModelOptions)


class Runtime(ABC, Generic[OptionsT]):
    """Runs one model. Cheap to create; `load()` loads the model, and does nothing if it is loaded.

    `bibwatch.testing.RuntimeConformance` states the contract as tests.
    """

    options_type: ClassVar[type[ModelOptions]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @classmethod
    def get_options_type(cls) -> type[ModelOptions]:
        """Return the type of this runtime's options."""
        return cls.options_type

    @abstractmethod
    def load(self) -> None:
        """Load the model. Raises ConfigurationError if it cannot run on this machine."""

    @abstractmethod
    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        """Yield one prediction per image, in order; if an image fails, its prediction has `error` set.

        Images may have any mode and size. Predictions are yielded as they become available, so that a caller can
        stop between two; at most `batch_size` images are taken from `images` ahead.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the model; does nothing if there is none. `load()` loads it again."""

    def served_models(self) -> list[str] | None:
        """Return the names of the models that the server lists; None if there is no server. Raises ModelError."""
        return None

    @property
    def concurrent_calls(self) -> int:
        """Number of simultaneous `predict_batch` calls, each from its own thread, that make full use of the model."""
        return 1

    def short_answers(self) -> AbstractContextManager[None]:
        """Allow replies to be cut short within this context, for a warm-up."""
        return nullcontext()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
