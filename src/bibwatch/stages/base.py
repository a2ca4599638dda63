"""The stage contract: photos in, one outcome per photo out.

Knows how a runtime and an interpreter combine in a use case. Does not know where photos come from.
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

_OUTPUTS = {OutputKind.LINES: "lines of text", OutputKind.TEXT: "replies to a prompt"}


class StageOptions(BaseModel):
    """A use case with its model and interpreter; `kind` selects the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The default interpreter by model output; a stage without one for LINES, say, cannot use an OCR model.
    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {}
    # The default prompt by model markup; every stage has one for MARKDOWN.
    questions: ClassVar[Mapping[Markup, str]] = {Markup.MARKDOWN: ""}

    # The fields that hold the models of substages, with their default presets. In settings, each is a preset name or
    # a table.
    submodels: ClassVar[Mapping[str, str | None]] = {}
    # Increment when the same model and options produce different outcomes than before; photos are then read again.
    code_revision: ClassVar[int] = 1
    # Former options, and the settings that replace them.
    moved: ClassVar[Mapping[str, str]] = {}

    kind: str
    model_options: SerializeAsAny[ModelOptions]
    model_interpreter_options: SerializeAsAny[InterpreterOptions]
    prompt: str = Field(default="", description="Prompt for the model; empty: the stage's default.")
    constrained: bool = Field(
        default=False,
        description="Constrain the reply to the format the interpreter expects, if the engine supports it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_interpreter(cls, data: dict[str, Any]) -> dict[str, Any]:
        model = data.get("model_options")
        if not isinstance(model, ModelOptions) or data.get("model_interpreter_options") is not None:
            return data
        chosen = cls.default_interpreter(model)
        if chosen is None:
            needed = " or ".join(_OUTPUTS[kind] for kind in cls.interpreters)
            raise ValueError(
                f"preset {model.name} returns {_OUTPUTS[model.output_kind]}, but this stage needs {needed}; "
                "choose another with --preset (see `bibwatch presets`)"
            )
        return {**data, "model_interpreter_options": chosen}

    @classmethod
    def value_kinds(cls) -> set[str]:
        """Return the kinds of values the stage can use: what its interpreters produce."""
        return {interpreter.produces for interpreter in cls.interpreters.values()}

    @classmethod
    def default_interpreter(cls, model: ModelOptions) -> InterpreterOptions | None:
        """Return the default interpreter for a model; None if the stage cannot use its output."""
        return cls.interpreters.get(model.output_kind)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        model, interpreter = self.model_options, self.model_interpreter_options
        if model.stages and self.kind not in model.stages:
            raise ValueError(f"preset {model.name} was made for {', '.join(model.stages)} and cannot do {self.kind}")
        if interpreter.produces not in self.value_kinds():
            raise ValueError(f"interpreter {interpreter.kind} does not produce {' or '.join(self.value_kinds())}")
        if interpreter.accepts is not model.output_kind:
            raise ValueError(
                f"interpreter {interpreter.kind} needs {_OUTPUTS[interpreter.accepts]}, "
                f"but preset {model.name} returns {_OUTPUTS[model.output_kind]}; omit its kind to use the default"
            )
        return self

    def substages(self) -> dict[str, StageOptions]:
        """Return the options of the substages, by name."""
        return {}

    @property
    def question(self) -> str:
        """The prompt for the model."""
        model = self.model_options
        default = self.questions.get(model.markup, self.questions[Markup.MARKDOWN])
        return self.prompt or model.prompts.get(self.kind) or default

    def recogniser(self, stage: str) -> Recogniser:
        """Return the recogniser for a stage named `stage` with these options."""
        return Recogniser(stage, self.model_options.name, self.fingerprint())

    def fingerprint(self) -> str:
        """Return a hash of everything that can change the outcome (12 hex digits).

        Options at their defaults are excluded, so that adding one keeps existing results valid. A change that no
        option reflects requires a new `code_revision`.
        """
        excluded = {"model_options", "model_interpreter_options", "prompt", *self.submodels}
        interpreter = self.model_interpreter_options
        identity = {
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
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Outcome:
    """What a stage found in one photo; if `error` is set, there is no result."""

    candidates: tuple[Candidate, ...] = ()  # possible bibs, for the judge
    looks: tuple[LookTaken, ...] = ()  # every look at the photo or a part of it
    cut: int = 0  # candidates dropped because there were too many
    output: dict[str, Any] | None = None  # result of a stage that does not read bibs
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
        """`substages` are built from `options.substages()`, under the same names."""
        self.options = options
        self.runtime = runtime
        self.interpreter = interpreter
        self.substages: Mapping[str, Stage[Any]] = substages or {}
        # Serialize calls if the runtime cannot use concurrent ones.
        self._call_lock = nullcontext() if runtime.concurrent_calls > 1 else threading.RLock()

    @property
    def concurrent_calls(self) -> int:
        """How many concurrent calls of `read`, each in its own thread, the model can use."""
        return self.runtime.concurrent_calls

    @property
    def longest_side(self) -> int | None:
        """The longest side in pixels that this stage can use; photos may be decoded smaller than full size."""
        return self.options.model_options.decode_side

    def load(self) -> None:
        """Load the model and those of the substages. Raise ConfigurationError if this machine cannot run them."""
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
        """Unload the models."""
        for stage in self.substages.values():
            stage.close()
        self.runtime.close()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Load the model and run it once, so that the first photo does not wait; then warm up the substages.

        Raise the model's errors. A substage with an outage is skipped: until it recovers, the readings it would have
        checked go to review.
        """
        self.load()
        with self._call_lock, self.runtime.short_answers():
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
        """Yield one outcome per photo, in order, as the model produces them."""
        photos = list(photos)
        predictions = self.predict((photo.image for photo in photos), len(photos))
        for photo, prediction in zip(photos, predictions, strict=True):
            yield self._outcome(photo, prediction)

    def predict(self, images: Iterable[Image.Image], number: int) -> Iterator[Prediction]:
        """Yield exactly `number` predictions, one per image, even if a plugin's runtime misbehaves."""
        with self._call_lock:
            yield from self._predict(images, number)

    def _predict(self, images: Iterable[Image.Image], number: int) -> Iterator[Prediction]:
        constraint = self.interpreter.constraint if self.options.constrained else None
        problem, yielded = "returned fewer predictions than images", 0
        try:
            predictions = iter(self.runtime.predict_batch(images, self.options.question, constraint=constraint))
            for prediction in islice(predictions, number):
                if not isinstance(prediction, Prediction):
                    raise TypeError(f"returned {type(prediction).__name__} instead of Prediction")
                if yielded == number - 1 and next(predictions, None) is not None:
                    raise ValueError("returned more predictions than images")
                yielded += 1
                yield prediction
        except BibwatchError:
            raise
        except Exception as exc:  # noqa: BLE001  # a faulty runtime must not stop the daemon
            problem = one_line(exc)
        for _ in range(number - yielded):
            yield Prediction(error=ModelError(f"runtime {self.options.model_options.kind}: {problem}"))

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
        """Interpret the prediction for a photo. Raise ModelReplyError."""

    def text(self, outcome: Outcome) -> str:
        """Format a successful outcome for display."""
        return json.dumps(outcome.output, ensure_ascii=False)
