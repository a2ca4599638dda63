"""The stage contract: photos in, one outcome per photo out.

Knows how runtime and interpreter are put together for a use case. Does not know where photos come from.
"""

from __future__ import annotations

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Generic, Self, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from bibwatch.domain.candidates import Candidate, LookTaken
from bibwatch.domain.recogniser import Recogniser
from bibwatch.errors import BibwatchError, ConfigurationError, ModelError, one_line
from bibwatch.images import Photo
from bibwatch.interpreters.base import Interpreter, InterpreterOptions
from bibwatch.runtimes.base import Markup, ModelOptions, OutputKind, Prediction, Runtime

_ANSWERS = {OutputKind.LINES: "lines of text", OutputKind.TEXT: "a reply to a prompt"}


class StageOptions(BaseModel):
    """A use case with its model and its interpreter. `kind` chooses the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The interpreter to use when none is named, by what the model gives. A stage that has none for lines of
    # text, say, cannot work with an OCR.
    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {}
    # The stage's own question, by how the model writes; each stage has one for MARKDOWN.
    questions: ClassVar[Mapping[Markup, str]] = {Markup.MARKDOWN: ""}

    # Fields with the models of substages, and the preset that each takes if none is given. A preset's name, or a
    # table, may stand for a model there too.
    submodels: ClassVar[Mapping[str, str | None]] = {}
    # Raise when the same model and options give other outcomes than before: photos are then read again.
    code_revision: ClassVar[int] = 1
    # Options that are set elsewhere today, and where.
    moved: ClassVar[Mapping[str, str]] = {}

    kind: str
    model_options: SerializeAsAny[ModelOptions]
    model_interpreter_options: SerializeAsAny[InterpreterOptions]
    prompt: str = Field(default="", description="What the model is asked; empty: the stage's own question.")
    constrained: bool = Field(
        default=False, description="Hold the model to the form the interpreter reads, where its engine can do that."
    )

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
                f"preset {model.name} answers with {_ANSWERS[model.output_kind]}, this stage needs {needed}; "
                "choose another with --preset (see `bibwatch presets`)"
            )
        return {**data, "model_interpreter_options": chosen}

    @classmethod
    def value_kinds(cls) -> set[str]:
        """Return which kinds of values the stage can use: what `yields` of its interpreters says."""
        return {interpreter.produces for interpreter in cls.interpreters.values()}

    @classmethod
    def default_interpreter(cls, model: ModelOptions) -> InterpreterOptions | None:
        """Return the interpreter for a model if none is named; None if the stage can do nothing with its answers."""
        return cls.interpreters.get(model.output_kind)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        model, interpreter = self.model_options, self.model_interpreter_options
        if model.stages and self.kind not in model.stages:
            raise ValueError(f"preset {model.name} was made for {', '.join(model.stages)} and cannot do {self.kind}")
        if interpreter.produces not in self.value_kinds():
            raise ValueError(f"interpreter {interpreter.kind} makes no {' or '.join(self.value_kinds())} of an answer")
        if interpreter.accepts is not model.output_kind:
            raise ValueError(
                f"interpreter {interpreter.kind} needs {_ANSWERS[interpreter.accepts]}, "
                f"preset {model.name} answers with {_ANSWERS[model.output_kind]}; leave its kind out for one that fits"
            )
        return self

    def substages(self) -> dict[str, StageOptions]:
        """Return the options of the stages that this one asks in its turn, by name."""
        return {}

    @property
    def question(self) -> str:
        """What the model is asked."""
        model = self.model_options
        own = self.questions.get(model.markup, self.questions[Markup.MARKDOWN])
        return self.prompt or model.prompts.get(self.kind) or own

    def recogniser(self, stage: str) -> Recogniser:
        """Return who recognises when the stage called `stage` has these options."""
        return Recogniser(stage, self.model_options.name, self.fingerprint())

    def fingerprint(self) -> str:
        """Hash everything that can change what the model says (12 hex digits).

        Options at their default are left out, so that a new one leaves the results of old photos valid; what changes
        for all photos without an option raises a `code_revision`.
        """
        excluded = {"model_options", "model_interpreter_options", "prompt", *self.submodels}
        interpreter = self.model_interpreter_options
        seen = {
            "stage": [
                self.kind,
                self.code_revision,
                self.model_dump(mode="json", exclude=excluded, exclude_defaults=True),
            ],
            "interpreter": [
                interpreter.kind,
                interpreter.code_revision,
                interpreter.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True),
            ],
            "model": self.model_options.identity(),
            "question": self.question if self.model_options.output_kind is OutputKind.TEXT else "",
            "substages": {name: options.fingerprint() for name, options in self.substages().items()},
        }
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    """What a stage saw in one photo. With `error` set, nothing else is an answer."""

    candidates: tuple[Candidate, ...] = ()  # what may be bibs, for the judge
    looks: tuple[LookTaken, ...] = ()  # the looks that were taken
    cut: int = 0  # candidates left out because there were too many
    output: dict[str, Any] | None = None  # what a stage that reads no bibs has to say
    device: str = ""
    seconds: float = 0.0
    error: ModelError | None = None


OptionsT = TypeVar("OptionsT", bound=StageOptions)


class Stage(ABC, Generic[OptionsT]):
    """One use case, bound to a runtime and an interpreter.

    `bibwatch.testing.StageConformance` states the contract as tests.
    """

    options_type: ClassVar[type[StageOptions]]

    def __init__(
        self,
        options: OptionsT,
        runtime: Runtime[Any],
        interpreter: Interpreter[Any, Any],
        substages: Mapping[str, Stage[Any]] | None = None,
    ) -> None:
        """`substages` are those that `options.substages()` describes, by the same names."""
        self.options = options
        self.runtime = runtime
        self.interpreter = interpreter
        self.substages: Mapping[str, Stage[Any]] = substages or {}
        # A model that has use for one call at a time gets one, however many threads ask.
        self._turn = nullcontext() if runtime.concurrent_calls > 1 else threading.RLock()

    @property
    def concurrent_calls(self) -> int:
        """How many calls of `read`, each from a thread of its own, the model has use for at a time."""
        return self.runtime.concurrent_calls

    @property
    def longest_side(self) -> int | None:
        """Pixels of the longest side that this stage has any use for; photos may come smaller than full size."""
        return self.options.model_options.decode_side

    def load(self) -> None:
        """Load the model, and those of the substages. Raises ConfigurationError if this machine cannot run them."""
        for stage in self.substages.values():
            stage.load()
        try:
            self.runtime.load()
        except BibwatchError:
            raise
        except Exception as exc:
            model = self.options.model_options
            raise ConfigurationError(f"preset {model.name}: {model.kind} cannot be loaded: {one_line(exc)}") from exc

    def close(self) -> None:
        """Let the models go."""
        for stage in self.substages.values():
            stage.close()
        self.runtime.close()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Load the model and make it answer once, so that the first photo does not wait; then those of the substages.

        Raises its errors. A substage whose model cannot be asked yet is no reason to wait: what it would have been
        asked about goes to review until then.
        """
        self.load()
        with self._turn, self.runtime.short_answers():
            for prediction in self.predict([Image.new("RGB", (64, 64), "white")], 1):
                if prediction.error:
                    raise prediction.error
        for stage in self.substages.values():
            try:
                stage.warm_up()
            except ModelError as exc:
                if not exc.is_outage:
                    raise

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        """Yield one outcome per photo, in order, as the model gives them."""
        photos = list(photos)
        predictions = self.predict((photo.image for photo in photos), len(photos))
        for photo, prediction in zip(photos, predictions, strict=True):
            yield self._outcome(photo, prediction)

    def predict(self, images: Iterable[Image.Image], number: int) -> Iterator[Prediction]:
        """Yield one prediction for each of so many images, whatever the runtime does: it may be a plugin's."""
        with self._turn:
            yield from self._predict(images, number)

    def _predict(self, images: Iterable[Image.Image], number: int) -> Iterator[Prediction]:
        constraint = self.interpreter.constraint if self.options.constrained else None
        trouble, given = "gave fewer predictions than there were images", 0
        try:
            predictions = iter(self.runtime.predict_batch(images, self.options.question, constraint=constraint))
            for prediction in islice(predictions, number):
                if not isinstance(prediction, Prediction):
                    raise TypeError(f"gave no Prediction but {type(prediction).__name__}")
                if given == number - 1 and next(predictions, None) is not None:
                    raise ValueError("gave more predictions than there were images")
                given += 1
                yield prediction
        except BibwatchError:
            raise
        except Exception as exc:  # noqa: BLE001  # a fault in a runtime costs images an attempt, not the daemon its life
            trouble = one_line(exc)
        for _ in range(number - given):
            yield Prediction(error=ModelError(f"runtime {self.options.model_options.kind}: {trouble}"))

    def _outcome(self, photo: Photo, prediction: Prediction) -> Outcome:
        error = prediction.error
        try:
            if error is None:
                return self.interpret(photo, prediction)
        except ModelError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  # as above
            error = ModelError(f"stage {self.options.kind}: {type(exc).__name__}: {one_line(exc)}")
        return Outcome(device=prediction.device, seconds=prediction.seconds, error=error)

    @abstractmethod
    def interpret(self, photo: Photo, prediction: Prediction) -> Outcome:
        """Interpret one prediction for one photo. Raises ModelReplyError."""

    def text(self, outcome: Outcome) -> str:
        """Write an outcome without error for a person to read."""
        return json.dumps(outcome.output, ensure_ascii=False)
