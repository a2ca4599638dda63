"""`bib_number`: which bibs are in a photo, and which of them to trust.

A reading is `accepted` only when nothing speaks against it; everything else is `review`, shown as unsure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from bibwatch.images import Photo
from bibwatch.interpreters.base import Bib, InterpreterOptions
from bibwatch.interpreters.bib_json import BibJsonOptions
from bibwatch.interpreters.bib_lines import BibLinesOptions
from bibwatch.runtimes.base import Box, BoxConvention, Gives, Markup, Prediction
from bibwatch.stages.base import Outcome, Reading, Stage, StageOptions, Verdict


class BibNumberOptions(StageOptions):
    """Which readings of a bib are accepted."""

    interpreters: ClassVar[Mapping[Gives, InterpreterOptions]] = {
        Gives.LINES: BibLinesOptions(),
        Gives.TEXT: BibJsonOptions(),
    }
    # No number in it: a small model would copy it.
    questions: ClassVar[Mapping[Markup, str]] = {
        Markup.MARKDOWN: "Read the race bibs that runners wear in this photo. Answer with JSON only: an object with "
        'one key "bibs", a list with one object for each bib, with the key "number": a string, exactly as printed. '
        "Leave out what you cannot read. The list is empty if there is none."
    }
    box_question: ClassVar[str] = ' Give each object a key "box" too: the four numbers of its bounding box.'

    kind: Literal["bib_number"] = "bib_number"
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

    @property
    def question(self) -> str:
        asked = super().question
        draws = self.model_options.boxes is not BoxConvention.NONE
        return asked + self.box_question if draws and not self.prompt else asked


class BibNumber(Stage[BibNumberOptions]):
    """The product."""

    options_type: ClassVar[type[StageOptions]] = BibNumberOptions

    def judge(self, photo: Photo, prediction: Prediction) -> Outcome:
        bibs: tuple[Bib, ...] = self.interpreter.interpret(prediction, self.options.question)
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

    def text(self, outcome: Outcome) -> str:
        parts = [
            f"{reading.bib} ({reading.confidence:.0%}{', review' if reading.verdict is Verdict.REVIEW else ''})"
            for reading in sorted(outcome.readings, key=lambda reading: -reading.confidence)
        ]
        return ", ".join(parts) or "no bib"
