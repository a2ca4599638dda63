"""What the runtimes that take a prompt share: prepared images, batches, and one prediction per image.

Knows how to prepare images, and how to keep one bad image from failing its batch. Does not know any engine.
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

from bibwatch.errors import ModelError, one_line
from bibwatch.images import shrink, to_rgb, widen
from bibwatch.runtimes.base import Constraint, CoordinateSpace, FinishReason, ModelOptions, Prediction, Runtime
from bibwatch.runtimes.tokens import tokens_of

_ERROR_LENGTH = 300  # characters kept of an engine's message
_PREPARE_THREADS = os.cpu_count() or 1  # Pillow releases the GIL while it decodes and resizes
SHORT_ANSWER_TOKENS = 4  # enough to show that a model replies
_MAX_ASPECT_RATIO = 100  # Qwen's processor rejects more than 200, others create a huge number of tiles


class GenerativeOptions(ModelOptions):
    """A model that writes a reply to a prompt."""

    max_new_tokens: int = Field(
        default=1024, ge=1, description="Maximum tokens of a reply; a reply that is cut off counts as an error."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="0 always takes the likeliest token: the same photo gets the same reply."
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="With a temperature: sample only from the likeliest tokens whose probabilities add up to this.",
    )
    seed: int | None = Field(default=None, ge=0, description="With a temperature: seed for repeatable sampling.")
    stop: tuple[str, ...] = Field(default=(), description="Texts at which the reply ends; they are left out of it.")
    skip_special_tokens: bool = Field(
        default=True,
        description="Leave special tokens out of the reply. DocTags are such tokens: set false for SmolDocling.",
    )


OptionsT = TypeVar("OptionsT", bound=GenerativeOptions)


class BatchRuntime(Runtime[OptionsT]):
    """A runtime that takes up to `batch_size` RGB images at once."""

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: Constraint | None = None
    ) -> Iterator[Prediction]:
        self.load()
        remaining = iter(images)
        while batch := list(islice(remaining, self.options.batch_size)):
            yield from self._predict(batch, prompt, constraint)

    @contextmanager
    def short_answers(self) -> Iterator[None]:
        options = self.options
        self.options = options.model_copy(update={"max_new_tokens": min(SHORT_ANSWER_TOKENS, options.max_new_tokens)})
        try:
            yield
        finally:
            self.options = options

    @abstractmethod
    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        """Return one prediction for each RGB image, in order, without `coordinates` and `seconds`.

        May raise any exception. The images are then retried one by one, unless it is a ModelError that `is_outage`.
        """

    def model_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size in pixels to which the model's processor resizes an image; None if that is unknown."""
        del size
        return None

    def _predict(self, batch: list[Image.Image], prompt: str, constraint: Constraint | None) -> list[Prediction]:
        start = time.perf_counter()
        prepared = self._prepare_all(batch)
        usable = [image for image in prepared if not isinstance(image, ModelError)]
        replies = iter(self._generate_each(usable, prompt, constraint) if usable else ())
        predictions = [
            Prediction(error=sent)
            if isinstance(sent, ModelError)
            else replace(self._cut_at_stop(next(replies)), coordinates=self._coordinates(image.size, sent.size))
            for image, sent in zip(batch, prepared, strict=True)
        ]
        seconds = (time.perf_counter() - start) / len(batch)
        return [replace(prediction, seconds=seconds) for prediction in predictions]

    def _generate_each(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        try:
            predictions = self.generate(images, prompt, constraint)
        except ModelError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001  # an engine may raise anything
            error = ModelError(f"{self.options.name}: {one_line(exc, _ERROR_LENGTH)}")
        else:
            if len(predictions) == len(images):
                return predictions
            error = ModelError(f"{self.options.name}: {len(predictions)} predictions for {len(images)} images")
        if len(images) == 1 or error.is_outage:
            return [Prediction(error=error) for _ in images]
        return [each for image in images for each in self._generate_each([image], prompt, constraint)]

    def _cut_at_stop(self, prediction: Prediction) -> Prediction:
        """End the reply before the first stop text; not every engine does."""
        ends = [index for stop in self.options.stop if (index := prediction.text.find(stop)) >= 0]
        if not ends:
            return prediction
        text = prediction.text[: min(ends)]
        tokens = tokens_of(text, prediction.tokens)
        return replace(prediction, text=text, tokens=tokens, finish_reason=FinishReason.STOP)

    def _prepare_all(self, batch: list[Image.Image]) -> list[Image.Image | ModelError]:
        distinct = {id(image): image for image in batch}  # two threads must not load the same image
        with ThreadPoolExecutor(_PREPARE_THREADS) as threads:
            prepared = dict(zip(distinct, threads.map(self._prepare, distinct.values()), strict=True))
        return [prepared[id(image)] for image in batch]

    def _prepare(self, image: Image.Image) -> Image.Image | ModelError:
        """Return the image as RGB, padded and reduced to what the model can use."""
        try:
            image.load()  # decode here, so that a broken file does not fail its batch
            image = to_rgb(image)
            image = widen(image, -(-max(image.size) // _MAX_ASPECT_RATIO))
            side = self.options.longest_side
            return shrink(image, side) if side else image
        except Exception as exc:  # noqa: BLE001  # Pillow may raise anything
            return ModelError(f"the image cannot be prepared: {one_line(exc, _ERROR_LENGTH)}")

    def _coordinates(self, given: tuple[int, int], sent: tuple[int, int]) -> CoordinateSpace:
        return CoordinateSpace(self.options.boxes, *given, sent=sent, model_size=self.model_size(sent))
