"""The interpreter contract: from one prediction to the values a stage works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from bibwatch.domain.box import Box
from bibwatch.runtimes.base import Constraint, OutputKind, Prediction


class InterpreterOptions(BaseModel):
    """How to understand a prediction; `kind` chooses the interpreter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepts: ClassVar[OutputKind] = OutputKind.TEXT
    # What kind of value comes of it, such as "bibs"; a stage takes interpreters of the kinds it knows.
    produces: ClassVar[str] = ""

    kind: str


@dataclass(frozen=True)
class Bib:
    """A bib number as printed (a string: `0042`, `M10151`), how sure it is (0 to 1), and where."""

    text: str
    confidence: float
    box: Box | None


OptionsT = TypeVar("OptionsT", bound=InterpreterOptions)
ValueT = TypeVar("ValueT")


class Interpreter(ABC, Generic[OptionsT, ValueT]):
    """Turns predictions into values of one type.

    `bibwatch.testing.InterpreterConformance` states the contract as tests.
    """

    options_type: ClassVar[type[InterpreterOptions]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @property
    def constraint(self) -> Constraint | None:
        """What a reply has to look like to be understood; None if any text may be."""
        return None

    @abstractmethod
    def interpret(self, prediction: Prediction, prompt: str = "") -> ValueT:
        """Return the values of a prediction without `error`; boxes are in pixels of the picture it is about.

        `prompt` is what the model was asked: words of it that come back are no answer.
        Raises ModelReplyError if the reply makes no sense, and nothing else, whatever the reply.
        """
