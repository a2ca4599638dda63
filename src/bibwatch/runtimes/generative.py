"""What the runtimes that answer a prompt have in common: pictures in, batches to the model, one answer for each.

Knows how pictures are made ready and how one bad image is kept from costing its neighbours theirs.
Does not know any engine.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from PIL import Image
from pydantic import Field

from bibwatch import images as pictures
from bibwatch.errors import ModelError, one_line
from bibwatch.runtimes.base import Constraint, CoordinateSpace, FinishReason, ModelOptions, Prediction, Runtime
from bibwatch.runtimes.tokens import tokens_of

_ERROR_LENGTH = 300  # characters of an engine's message that are kept
_PREPARING = os.cpu_count() or 1  # threads; Pillow leaves Python to others while it decodes and resizes
FEW = 4  # tokens that show a model can answer
_MOST_LOPSIDED = 100  # times as long as wide; Qwen's processor refuses 200, others cut it into endless tiles


class GenerativeOptions(ModelOptions):
    """A model that writes an answer to a prompt."""

    max_new_tokens: int = Field(
        default=1024, ge=1, description="Tokens an answer may have; one that is cut off counts as an error."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="0 takes the likeliest token always: the same photo, the same answer."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="With a temperature: draw only from the likeliest tokens up to this sum."
    )
    seed: int | None = Field(
        default=None, ge=0, description="With a temperature: draw the same each time; none: differently."
    )
    stop: tuple[str, ...] = Field(default=(), description="Texts at which the answer ends; they are left out of it.")
    skip_special_tokens: bool = Field(
        default=True,
        description="Leave control tokens out of the answer. DocTags are such tokens: false for SmolDocling.",
    )


OptionsT = TypeVar("OptionsT", bound=GenerativeOptions)


class BatchRuntime(Runtime[OptionsT]):
    """A runtime that is given up to `batch_size` RGB pictures at once."""

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        self.load()
        waiting = iter(images)
        while batch := list(islice(waiting, self.options.batch_size)):
            yield from self._predict(batch, prompt, constraint)

    @contextmanager
    def short_answers(self) -> Iterator[None]:
        options = self.options
        self.options = options.model_copy(update={"max_new_tokens": min(FEW, options.max_new_tokens)})
        try:
            yield
        finally:
            self.options = options

    @abstractmethod
    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        """Return one prediction for each RGB picture, in order, frames and seconds left out.

        Raises what the engine raises: for several pictures each is then tried alone, unless it is a
        ModelError that `is_outage`.
        """

    def model_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size in pixels to which the model's processor resizes such a picture, if that is known."""
        del size
        return None

    def _predict(self, batch: list[Image.Image], prompt: str, constraint: Constraint | None) -> list[Prediction]:
        start = time.perf_counter()
        ready = self._all_ready(batch)
        good = [picture for picture in ready if not isinstance(picture, ModelError)]
        answers = iter(self._answers(good, prompt, constraint) if good else ())
        predictions = [
            Prediction(error=picture)
            if isinstance(picture, ModelError)
            else replace(self._stopped(next(answers)), coordinates=self._coordinates(image.size, picture.size))
            for image, picture in zip(batch, ready, strict=True)
        ]
        seconds = (time.perf_counter() - start) / len(batch)
        return [replace(prediction, seconds=seconds) for prediction in predictions]

    def _answers(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        try:
            answers = self.generate(images, prompt, constraint)
        except ModelError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  # whatever an engine raises is these images' error, not the daemon's
            error = ModelError(f"{self.options.name}: {one_line(exc, _ERROR_LENGTH)}")
        else:
            if len(answers) == len(images):
                return answers
            error = ModelError(f"{self.options.name}: {len(answers)} answers to {len(images)} images")
        if len(images) == 1 or error.is_outage:
            return [Prediction(error=error) for _ in images]
        return [answer for image in images for answer in self._answers([image], prompt, constraint)]

    def _stopped(self, answer: Prediction) -> Prediction:
        """Cut an answer off at the first of the texts it is to end at; not every engine does, or takes it out."""
        ends = [place for stop in self.options.stop if (place := answer.text.find(stop)) >= 0]
        if not ends:
            return answer
        text = answer.text[: min(ends)]
        return replace(answer, text=text, tokens=tokens_of(text, answer.tokens), finish_reason=FinishReason.STOP)

    def _all_ready(self, batch: list[Image.Image]) -> list[Image.Image | ModelError]:
        distinct = {id(image): image for image in batch}  # no two threads may open the same file
        with ThreadPoolExecutor(_PREPARING) as threads:
            ready = dict(zip(distinct, threads.map(self._ready, distinct.values()), strict=True))
        return [ready[id(image)] for image in batch]

    def _ready(self, image: Image.Image) -> Image.Image | ModelError:
        """Return the picture as RGB, no longer than the model has use for."""
        try:
            image.load()  # a broken file shows itself here, not when its neighbours are with the engine
            image = pictures.to_rgb(image)
            image = pictures.widen(image, -(-max(image.size) // _MOST_LOPSIDED))
            side = self.options.longest_side
            return pictures.shrink(image, side) if side else image
        except Exception as exc:  # noqa: BLE001  # a picture that cannot be converted is its own error
            return ModelError(f"the picture cannot be made ready: {one_line(exc, _ERROR_LENGTH)}")

    def _coordinates(self, given: tuple[int, int], sent: tuple[int, int]) -> CoordinateSpace:
        return CoordinateSpace(self.options.boxes, *given, sent=sent, model_size=self.model_size(sent))
