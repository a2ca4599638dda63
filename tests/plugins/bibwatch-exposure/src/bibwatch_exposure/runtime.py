"""`light_meter`: how bright a picture is. The smallest thing that is a runtime: it answers, but not with a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from PIL import Image, ImageStat
from pydantic import Field

from bibwatch.errors import ModelError
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, Prediction
from bibwatch.runtimes.generative import BatchRuntime, GenerativeOptions


class LightMeterOptions(GenerativeOptions):
    """What the light meter needs."""

    kind: Literal["light_meter"] = "light_meter"
    white: int = Field(default=255, ge=1, le=255, description="The grey value that counts as 100 %.")


class LightMeter(BatchRuntime[LightMeterOptions]):
    """Answers every prompt with the mean brightness, such as `41.5 %`."""

    options_type: ClassVar[type[ModelOptions]] = LightMeterOptions

    def load(self) -> None:
        """There is nothing to load."""

    def close(self) -> None:
        """There is nothing to close."""

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        if constraint:
            raise ModelError("a light meter answers with a percentage, whatever it is asked for")
        return [
            Prediction(
                text=f"{100 * self._grey(image) / self.options.white:.1f} %",
                finish_reason=FinishReason.STOP,
                device="cpu",
            )
            for image in images
        ]

    def _grey(self, image: Image.Image) -> float:
        return min(float(ImageStat.Stat(image.convert("L")).mean[0]), float(self.options.white))
