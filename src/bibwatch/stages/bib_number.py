"""`bib_number`: which bibs are in a photo, and which of them to trust.

A reading is `accepted` only when nothing speaks against it; everything else is `review`, shown as unsure.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny

from bibwatch.images import Photo
from bibwatch.interpreters.base import Bib, InterpreterOptions
from bibwatch.interpreters.bib_lines import BibLinesOptions
from bibwatch.runtimes.base import Box, Prediction
from bibwatch.stages.base import Outcome, Reading, Stage, StageOptions, Verdict


class BibNumberOptions(StageOptions):
    """Which readings of a bib are accepted."""

    kind: Literal["bib_number"] = "bib_number"
    model_interpreter_options: SerializeAsAny[InterpreterOptions] = BibLinesOptions()
    prompt: str = Field(
        default="List every bib number that is printed on a runner in this photo, exactly as printed.",
        description="What the model is asked; an OCR ignores it.",
    )
    accept_confidence: float = Field(
        default=0.95, ge=0, le=1, description="Readings less sure than this are for review."
    )
    doubtful: re.Pattern[str] = Field(
        default=re.compile(r"(19|20)\d\d"),
        description="Numbers of this form are for review: they are years on banners too.",
    )
    edge: float = Field(
        default=0.005,
        ge=0,
        le=0.5,
        description="A box this near the frame's edge (share of the photo's side) may be cut: for review.",
    )


class BibNumber(Stage[BibNumberOptions]):
    """The product."""

    options_type: ClassVar[type[StageOptions]] = BibNumberOptions

    def judge(self, photo: Photo, prediction: Prediction) -> Outcome:
        bibs: tuple[Bib, ...] = self.interpreter.interpret(prediction)
        readings = tuple(self._reading(photo, bib) for bib in bibs)
        return Outcome(readings, device=prediction.device, seconds=prediction.seconds)

    def _reading(self, photo: Photo, bib: Bib) -> Reading:
        box = bib.box.scaled(photo.scale) if bib.box else None
        doubts = (
            bib.confidence < self.options.accept_confidence,
            bool(self.options.doubtful.fullmatch(bib.text)),
            box is not None and self._at_edge(photo, box),
        )
        return Reading(bib.text, bib.confidence, Verdict.REVIEW if any(doubts) else Verdict.ACCEPTED, box)

    def _at_edge(self, photo: Photo, box: Box) -> bool:
        across, down = photo.width * self.options.edge, photo.height * self.options.edge
        return box.x1 <= across or box.y1 <= down or box.x2 >= photo.width - across or box.y2 >= photo.height - down
