"""The interpreter contract: from one prediction to the values a stage works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from bibwatch.runtimes.base import Box, Prediction


class InterpreterOptions(BaseModel):
    """How to understand a prediction; `kind` chooses the interpreter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    """Turns predictions into values of one type."""

    options_type: ClassVar[type[InterpreterOptions]]

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def interpret(self, prediction: Prediction) -> ValueT:
        """Return the values of a prediction without `error`. Raises ModelReplyError if it makes no sense."""
