"""The runtime contract: what every kind of model is to the rest of bibwatch.

Knows pictures, prompts and predictions. Does not know what the pictures are of or what becomes of the answers.
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

_SIDES = 4  # numbers that make a box


class OutputKind(StrEnum):
    """What a model answers with; an interpreter needs the one or the other."""

    LINES = "lines"  # of text, with boxes and scores; the model takes no prompt
    TEXT = "text"  # a reply to the prompt


class BoxConvention(StrEnum):
    """How a model writes boxes: four numbers, in an order and a unit. It is a habit of its training."""

    NONE = "none"  # it was not trained to; what it writes is not believed
    PIXELS = "pixels"  # x1, y1, x2, y2 in pixels of the picture that was sent
    MODEL_PIXELS = "model_pixels"  # the same, of the picture as its processor resized it (Qwen2.5-VL)
    REL1 = "rel1"  # x1, y1, x2, y2 from 0 to 1
    REL1000 = "rel1000"  # x1, y1, x2, y2 from 0 to 1000 (Qwen2-VL, Qwen3-VL, Florence-2)
    YX1000 = "yx1000"  # y1, x1, y2, x2 from 0 to 1000 (Gemini, PaliGemma)


class Markup(StrEnum):
    """How a model writes a document, and so how it wants to be asked for one."""

    MARKDOWN = "markdown"  # as it is told to; any general model
    DOCTAGS = "doctags"  # SmolDocling and its kin, which know a few fixed questions


class ModelOptions(BaseModel):
    """Everything a runtime needs to run one model. `kind` chooses the runtime, `name` is the preset's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output_kind: ClassVar[OutputKind] = OutputKind.TEXT
    # Whether the model is behind a server, on this machine or another, which may be unavailable for a while.
    is_remote: ClassVar[bool] = False
    # Raise when the runtime gives other predictions for the same options than before: photos are then read again.
    code_revision: ClassVar[int] = 1
    # Facts of the hardware, or for people: they change how fast an answer comes, not the answer.
    hardware_fields: ClassVar[frozenset[str]] = frozenset({"name", "batch_size", "threads"})
    about_fields: ClassVar[frozenset[str]] = frozenset(
        {"stages", "licence", "download_gb", "memory_gb", "refused", "note"}
    )

    kind: str
    name: str = "unnamed"
    batch_size: int = Field(default=8, ge=1, description="Images sent to the model together.")
    longest_side: int | None = Field(
        default=None, ge=32, description="Pixels of the longest side the model has any use for."
    )
    boxes: BoxConvention = Field(default=BoxConvention.NONE, description="How the model writes boxes.")
    markup: Markup = Field(default=Markup.MARKDOWN, description="How the model writes a document.")
    stages: tuple[str, ...] = Field(
        default=(), description="Kinds of stage the model was made for; empty: all that can use what it answers."
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="What this model is asked best, by kind of stage; a prompt of the stage's own comes first.",
    )
    licence: str | None = Field(default=None, description="Licence of the weights.")
    download_gb: float | None = Field(default=None, ge=0, description="Gigabytes that are downloaded once.")
    memory_gb: float | None = Field(default=None, ge=0, description="Gigabytes of memory it takes to run, about.")
    refused: str | None = Field(default=None, description="Why this model cannot be run at all.")
    note: str | None = Field(default=None, description="What else there is to say of it.")

    def identity(self) -> dict[str, Any]:
        """Return what can change what the model says; it goes into the fingerprint of a result.

        Fields at their default are left out: one that is new changes nothing for the results that are there.
        """
        # The question that was asked is in the fingerprint by itself; those for other stages change nothing.
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
        """Where the model runs, as far as can be said beforehand: `cpu`, `cuda`, `auto`, a host."""
        return "cpu"

    @property
    def is_on_another_machine(self) -> bool:
        """Whether photos leave this machine. Such a server is not contacted before there is something to read."""
        return False

    def each_server(self) -> Iterable[Self]:
        """Yield these options once for each server of the model, with that server alone; once where there is none."""
        yield self

    def obstacle(self) -> str | None:
        """Return why the model cannot run here, or None. Quick: imports nothing heavy, downloads nothing."""
        return self.refused


@dataclass(frozen=True)
class CoordinateSpace:
    """What the numbers of a model's boxes mean for the picture they are about."""

    convention: BoxConvention
    width: int  # pixels of the picture that was given to the runtime
    height: int
    sent: tuple[int, int]  # pixels of the picture that went to the model: made smaller, or widened with white
    model_size: tuple[int, int] | None = None  # pixels to which the model's processor resized that, where known

    def box(self, numbers: Iterable[float]) -> Box | None:
        """Return four numbers as a box in pixels of the picture, clamped to it; None if they are no box in it."""
        unit = self._unit()
        four = tuple(numbers)
        if unit is None or len(four) != _SIDES or not all(map(math.isfinite, four)):
            return None
        if self.convention is BoxConvention.YX1000:
            four = (four[1], four[0], four[3], four[2])
        scale = max(self.width, self.height) / max(self.sent)
        across, down = (scale * sent / whole for sent, whole in zip(self.sent, unit, strict=True))
        x1, x2 = (min(max(four[side] * across, 0.0), float(self.width)) for side in (0, 2))
        y1, y2 = (min(max(four[side] * down, 0.0), float(self.height)) for side in (1, 3))
        return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None

    def _unit(self) -> tuple[float, float] | None:
        """Return what the model calls the whole width and the whole height."""
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
    """One line of text a model saw: the text, how sure it is (0 to 1), and where."""

    text: str
    score: float
    box: Box
    slope: float | None = None  # pixels it goes down for one to the right, where known
    look: Look = Look.PHOTO  # a line may be read more than once
    glyphs: Glyphs | None = None
    alternatives: tuple[tuple[str, float], ...] = ()  # other texts, with their odds against this one


@dataclass(frozen=True)
class Token:
    """One token of a reply, as text, and the logarithm of its probability."""

    text: str
    logprob: float


class FinishReason(StrEnum):
    """Why a model stopped writing."""

    STOP = "stop"  # it had said all
    LENGTH = "length"  # it was cut off at max_new_tokens
    UNKNOWN = "unknown"  # the engine does not tell


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, picture included, and of the answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Prediction:
    """What a model said about one image. With `error` set, nothing else is an answer."""

    text: str = ""
    lines: tuple[TextLine, ...] = field(default=())
    finish_reason: FinishReason = FinishReason.UNKNOWN
    tokens: tuple[Token, ...] = field(default=())  # of `text`, where the engine tells their probabilities
    usage: Usage | None = None  # where the engine tells
    coordinates: CoordinateSpace | None = None
    device: str = ""
    seconds: float = 0.0
    error: ModelError | None = None


@dataclass(frozen=True)
class Constraint:
    """What a reply may look like at all: JSON of a schema, or text that a regular expression matches wholly."""

    json_schema: dict[str, Any] | None = None
    regex: str | None = None


OptionsT = TypeVar("OptionsT", bound=ModelOptions)


class Runtime(ABC, Generic[OptionsT]):
    """Runs one model. Cheap to create; `load()` brings the model in, once however often it is called.

    `bibwatch.testing.RuntimeConformance` states the contract as tests.
    """

    options_type: ClassVar[type[ModelOptions]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @classmethod
    def get_options_type(cls) -> type[ModelOptions]:
        """Return the type of the options this runtime takes."""
        return cls.options_type

    @abstractmethod
    def load(self) -> None:
        """Load the model. Raises ConfigurationError if this machine cannot run it."""

    @abstractmethod
    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        """Yield one prediction per image, in order; a failure is the `error` of its own prediction.

        Images may have any mode and size. Predictions are yielded as they come, so that a caller may stop
        between two; `batch_size` images are asked for ahead, no more.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the model go; calling it twice does no harm, and `load()` brings it back."""

    def served_models(self) -> list[str] | None:
        """Return the names of the models that the server lists; None where there is no server. Raises ModelError."""
        return None

    @property
    def concurrent_calls(self) -> int:
        """How many calls of `predict_batch`, each from a thread of its own, the model has use for at a time."""
        return 1

    def short_answers(self) -> AbstractContextManager[None]:
        """Within this, answers may be cut off early: for a warm-up, where only that there is one matters."""
        return nullcontext()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
