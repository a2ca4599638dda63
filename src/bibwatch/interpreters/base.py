"""The interpreter contract: from one prediction to the values a stage works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from bibwatch.runtimes.base import Constraint, OutputKind, Prediction


class InterpreterOptions(BaseModel):
    """How to understand a prediction; `kind` chooses the interpreter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepts: ClassVar[OutputKind] = OutputKind.TEXT
    # What kind of value comes of it, such as "candidates"; a stage takes interpreters of the kinds it knows.
    produces: ClassVar[str] = ""
    # Raise when the same prediction gives other values than before: results are then no longer current.
    code_revision: ClassVar[int] = 1
    # Options that are set elsewhere today, and where.
    moved: ClassVar[Mapping[str, str]] = {}

    kind: str


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
