"""Image preparation in batch runtimes, independent of the engine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, Prediction
from bibwatch.runtimes.generative import BatchRuntime, GenerativeOptions


class Options(GenerativeOptions):
    kind: str = "sizes"
    name: str = "sizes"
    model: ClassVar[str] = "sizes"


class Sizes(BatchRuntime[Options]):
    """Replies with the mode and size of each image."""

    options_type: ClassVar[type[ModelOptions]] = Options

    def load(self) -> None: ...

    def close(self) -> None: ...

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        return [Prediction(text=f"{image.mode} {image.size}", finish_reason=FinishReason.STOP) for image in images]


def file(width: int, height: int = 64, *, cut: bool = False) -> Image.Image:
    """Return an image that is not decoded yet."""
    whole = io.BytesIO()
    Image.effect_noise((width, height), 80).save(whole, "JPEG")
    data = whole.getvalue()
    return Image.open(io.BytesIO(data[: len(data) // 2] if cut else data))


def test_images_prepared_by_several_threads_stay_in_order() -> None:
    widths = [64 + 8 * number for number in range(40)]
    runtime = Sizes(Options(batch_size=16, longest_side=200))
    said = [each.text for each in runtime.predict_batch(map(file, widths), "")]
    assert said == [f"RGB {(min(width, 200), 64 if width <= 200 else round(64 * 200 / width))}" for width in widths]


def test_a_batch_may_repeat_an_image_and_a_broken_image_fails_alone() -> None:
    same, broken = file(2000, 2000), file(2000, 2000, cut=True)
    answers = list(Sizes(Options(batch_size=16)).predict_batch([same, same, broken, broken] * 3, ""))
    assert [each.text for each in answers if not each.error] == ["RGB (2000, 2000)"] * 6
    assert [bool(each.error) for each in answers] == [False, False, True, True] * 3
