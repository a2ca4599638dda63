"""The interpreter contract: convert one prediction to the values a stage uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from bibwatch.runtimes.base import Constraint, OutputKind, Prediction


class InterpreterOptions(BaseModel):
    """How to interpret a prediction; `kind` selects the interpreter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accepts: ClassVar[OutputKind] = OutputKind.TEXT
    # The kind of value produced, such as "candidates"; a stage accepts interpreters of the kinds it supports.
    produces: ClassVar[str] = ""
    # Increment when a prediction yields different values than before; existing results then become stale.
    code_revision: ClassVar[int] = 1
    # Former options, and the settings that replace them.
    moved: ClassVar[Mapping[str, str]] = {}

    kind: str


OptionsT = TypeVar("OptionsT", bound=InterpreterOptions)
ValueT = TypeVar("ValueT")


class Interpreter(ABC, Generic[OptionsT, ValueT]):
    """Converts predictions to values of one type.

    `bibwatch.testing.InterpreterConformance` states the contract as tests.
    """

    options_type: ClassVar[type[InterpreterOptions]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @property
    def constraint(self) -> Constraint | None:
        """The format a reply must have to be interpreted; None for free text."""
        return None

    @abstractmethod
    def interpret(self, prediction: Prediction, prompt: str = "") -> ValueT:
        """Return the values of a prediction that has no `error`; boxes are in pixels of the image.

        `prompt` is the prompt sent to the model; a reply that only repeats it is not an answer.
        Raise ModelReplyError, and no other exception, if the reply cannot be interpreted.
        """
