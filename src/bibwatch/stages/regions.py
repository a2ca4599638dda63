"""Shared by stages that process regions of a photo: selects and crops regions, with one prediction for each.

Does not know what a stage does with a region.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bibwatch.domain.box import Box
from bibwatch.images import Photo, resize, scaled_size
from bibwatch.runtimes.base import Prediction
from bibwatch.stages.base import Outcome, Stage, StageOptions

WHOLE = "photo"  # label of the region that is the whole photo
_MAX_PIXELS = 50_000_000  # limit for enlarging a region

Share = Annotated[float, Field(ge=0, le=1)]


class RegionOptions(BaseModel):
    """A part of every photo from a fixed camera: the race clock, the finish arch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str = Field(min_length=1, description="Name of the region.")
    box: tuple[Share, Share, Share, Share] = Field(description="Left, top, right, bottom, as fractions of the photo.")

    @model_validator(mode="after")
    def _has_area(self) -> Self:
        x1, y1, x2, y2 = self.box
        if x1 >= x2 or y1 >= y2:
            raise ValueError(f"box {list(self.box)} is empty; expected left, top, right, bottom")
        return self


class RegionStageOptions(StageOptions):
    """Which regions of a photo to process; without `regions`, the whole photo."""

    regions: tuple[RegionOptions, ...] = Field(
        default=(), description="Regions of the photo to process: `label` and `box` (left, top, right, bottom, 0 to 1)."
    )
    labels: tuple[str, ...] = Field(default=(), description="Process only regions with these labels; empty: all.")
    image_scale: float = Field(
        default=1.0, gt=0, le=8, description="Scale factor for regions before they are sent to the model."
    )
    expansion_factor: float = Field(
        default=0.0, ge=0, le=2, description="Expand regions on each side by this fraction of their size."
    )

    # Whether the stage detects regions itself, with labels not known in advance.
    finds_regions: ClassVar[bool] = False

    @model_validator(mode="after")
    def _labels_exist(self) -> Self:
        if self.finds_regions:
            return self
        known = {region.label for region in self.regions} or {WHOLE}
        for label in self.labels:
            if label not in known:
                raise ValueError(f"labels: no region named {label!r}; available: {', '.join(sorted(known))}")
        return self


@dataclass(frozen=True)
class Region:
    """A part of a photo; the box is in pixels of the photo as decoded."""

    label: str
    box: Box


OptionsT = TypeVar("OptionsT", bound=RegionStageOptions)


class RegionStage(Stage[OptionsT]):
    """Runs the model on each region of a photo; each result is an entry of `regions` in the output."""

    @property
    def longest_side(self) -> int | None:
        # Regions of a downscaled photo would lack detail.
        return None if self.options.regions else super().longest_side

    def regions(self, photo: Photo) -> Sequence[Region]:
        """Return the regions of a photo; override in a stage that detects them."""
        width, height = photo.image.size
        return [
            Region(region.label, Box(x1 * width, y1 * height, x2 * width, y2 * height))
            for region in self.options.regions
            for x1, y1, x2, y2 in [region.box]
        ] or [Region(WHOLE, Box(0, 0, width, height))]

    def is_selected(self, region: Region) -> bool:
        """Return whether to process a region; a stage may filter by more than the label."""
        return not self.options.labels or region.label in self.options.labels

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        photos = list(photos)
        selected = [[region for region in self.regions(photo) if self.is_selected(region)] for photo in photos]
        crops = (
            self._crop(photo, region) for photo, regions in zip(photos, selected, strict=True) for region in regions
        )
        predictions = self.predict(crops, sum(map(len, selected)))
        for photo, regions in zip(photos, selected, strict=True):
            yield self._combine(photo, regions, [next(predictions) for _ in regions])

    def interpret(self, photo: Photo, prediction: Prediction) -> Outcome:
        """Return the outcome of a single region; `read` combines the regions of a photo."""
        return Outcome(output=self.value(prediction), device=prediction.device, seconds=prediction.seconds)

    @abstractmethod
    def value(self, prediction: Prediction) -> dict[str, Any]:
        """Interpret the prediction for a region as JSON data. Raise ModelReplyError."""

    @abstractmethod
    def show(self, value: dict[str, Any]) -> str:
        """Format what `value` returned for display."""

    def text(self, outcome: Outcome) -> str:
        found = (outcome.output or {}).get("regions", [])
        titles = len(found) > 1
        return "\n\n".join(f"{each['label']}:\n{self.show(each)}" if titles else self.show(each) for each in found) or (
            "nothing found"
        )

    def _combine(self, photo: Photo, regions: Sequence[Region], predictions: Sequence[Prediction]) -> Outcome:
        device = predictions[0].device if predictions else ""
        seconds = sum(prediction.seconds for prediction in predictions)
        found = []
        for region, prediction in zip(regions, predictions, strict=True):
            part = self._outcome(photo, prediction)
            if part.error:
                return Outcome(device=device, seconds=seconds, error=part.error)
            box = region.box.scaled(photo.scale).rounded()
            found.append({"label": region.label, "box": box, **(part.output or {})})
        return Outcome(output={"regions": found}, device=device, seconds=seconds)

    def _crop(self, photo: Photo, region: Region) -> Image.Image:
        width, height = photo.image.size
        across = (region.box.x2 - region.box.x1) * self.options.expansion_factor
        down = (region.box.y2 - region.box.y1) * self.options.expansion_factor
        left, top = max(0, int(region.box.x1 - across)), max(0, int(region.box.y1 - down))
        right = max(left + 1, min(width, round(region.box.x2 + across)))
        bottom = max(top + 1, min(height, round(region.box.y2 + down)))
        image = photo.image.crop((left, top, right, bottom))
        factor = min(self.options.image_scale, (_MAX_PIXELS / (image.width * image.height)) ** 0.5)
        return resize(image, scaled_size(image.size, factor))
