"""`bib_number`: which bibs are in a photo, and which of them to trust.

A reading is `accepted` only when nothing speaks against it; everything else is `review`, shown as unsure. A model that
replies in text looks at the whole photo first, then at parts of it; a second model may be asked about what the first
was unsure of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from bibwatch.errors import ModelUnavailableError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Bib, InterpreterOptions
from bibwatch.interpreters.bib_json import BibJsonOptions
from bibwatch.interpreters.bib_lines import BibLinesOptions
from bibwatch.runtimes.base import Box, BoxConvention, Gives, Markup, ModelOptions, Prediction
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages import rereading
from bibwatch.stages.base import Outcome, Reading, Stage, StageOptions, Verdict

_DETECTED = 0.3  # how sure the bundled OCR must be of a number for a better model to look there
_MOST_PARTS = 16  # of one photo that are looked at again
_VIEW = 1024  # pixels, of a model that does not say what it has use for


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

    crops: Literal["auto", "none", "boxes", "detector", "tiles"] = Field(
        default="auto",
        description="Where a model that replies in text looks again: at its own boxes, where the bundled OCR sees a "
        "number, at overlapping tiles of a photo much larger than its view; auto takes the first that finds anything.",
    )
    second_model_options: SerializeAsAny[ModelOptions] | None = Field(
        default=None, description="A second model, a preset or a table; it is asked where the first was unsure."
    )

    further_models: ClassVar[tuple[str, ...]] = ("second_model_options",)

    @property
    def question(self) -> str:
        asked = super().question
        return asked + self.box_question if self._draws and not self.prompt else asked

    def further(self) -> dict[str, StageOptions]:
        found: dict[str, StageOptions] = {}
        if self.second_model_options:
            found["second"] = self._with(self.second_model_options)
        if self.model_options.gives is Gives.TEXT and self.crops in {"auto", "detector"}:
            # It reads as well as it can, too: where it reads no number there is no bib.
            found["detector"] = self._with(VisionOcrOptions(), min_confidence=_DETECTED)
        return found

    @property
    def _draws(self) -> bool:
        return self.model_options.boxes is not BoxConvention.NONE

    def _with(self, model: ModelOptions, **interpreter: Any) -> BibNumberOptions:
        """Return the options of the same stage with another model, which looks once."""
        chosen = self.default_interpreter(model) or self.model_interpreter_options
        pattern = getattr(self.model_interpreter_options, "pattern", None)
        if pattern:
            chosen = chosen.model_copy(update={"pattern": pattern, **interpreter})
        return BibNumberOptions(
            model_options=model,
            model_interpreter_options=chosen,
            accept_confidence=self.accept_confidence,
            doubtful=self.doubtful,
            edge=self.edge,
            constrained=self.constrained and model.gives is Gives.TEXT,
            crops="none",
        )


class BibNumber(Stage[BibNumberOptions]):
    """The product."""

    options_type: ClassVar[type[StageOptions]] = BibNumberOptions

    @property
    def longest_side(self) -> int | None:
        # A small part of a photo that was made small first would have no detail left.
        return None if self._looks_near or "second" in self.further else super().longest_side

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        photos = list(photos)
        for photo, seen in zip(photos, super().read(photos), strict=True):
            outcome = seen
            if outcome.error is None and self._looks_near:
                outcome = self._seen_from_near(photo, outcome)
            if outcome.error is None and "second" in self.further:
                outcome = self._asked_of_another(photo, outcome)
            yield outcome

    def judge(self, photo: Photo, prediction: Prediction) -> Outcome:
        bibs: tuple[Bib, ...] = self.interpreter.interpret(prediction, self.options.question)
        readings = tuple(self._reading(photo, bib) for bib in bibs)
        return Outcome(readings, device=prediction.device, seconds=prediction.seconds)

    @property
    def _looks_near(self) -> bool:
        return self.options.model_options.gives is Gives.TEXT and self.options.crops != "none"

    def _seen_from_near(self, photo: Photo, outcome: Outcome) -> Outcome:
        """Read parts of a photo again with the same model, and put the readings together."""
        detected = next(self.further["detector"].read([photo])) if "detector" in self.further else Outcome()
        boxes = self._boxes(outcome, detected)
        parts = [rereading.around(box, photo) for box in boxes] or self._tiles(photo)  # tiles come without boxes
        near = list(super().read([rereading.cut(photo, part) for part in parts]))
        gone = next((each.error for each in near if isinstance(each.error, ModelUnavailableError)), None)
        if gone:
            return replace(outcome, readings=(), error=gone)
        readings = [
            self._placed(photo, reading, part, box)
            for part, box, each in zip_longest(parts, boxes, near)
            for reading in each.readings
        ]
        seconds = outcome.seconds + detected.seconds + sum(each.seconds for each in near)
        return replace(outcome, readings=rereading.merged([*outcome.readings, *readings]), seconds=seconds)

    def _boxes(self, outcome: Outcome, detected: Outcome) -> list[Box]:
        """Return where bibs seem to be: by the model itself, else by the detector."""
        crops = self.options.crops
        own = outcome.readings if crops in {"auto", "boxes"} else ()
        found = detected.readings if crops in {"auto", "detector"} else ()
        for readings in (own, found):
            if boxes := [reading.box for reading in readings if reading.box]:
                return boxes[:_MOST_PARTS]
        return []

    def _tiles(self, photo: Photo) -> list[Box]:
        view = self.options.model_options.longest_side or _VIEW
        return rereading.tiles(photo, view) if self.options.crops in {"auto", "tiles"} else []

    def _asked_of_another(self, photo: Photo, outcome: Outcome) -> Outcome:
        """Ask the second model about each reading that the first was unsure of, and nothing else."""
        second = self.further["second"]
        model = second.options.model_options.model
        unsure = {
            reading: rereading.around(reading.box, photo)
            for reading in outcome.readings
            if reading.box and reading.confidence < self.options.accept_confidence
        }
        cuts = [rereading.cut(photo, part) for part in unsure.values()]
        decided = {}
        seconds = outcome.seconds
        for (first, part), answer in zip(unsure.items(), second.read(cuts) if cuts else (), strict=True):
            again = [replace(self._placed(photo, each, part, None), model=model) for each in answer.readings]
            decided[first] = rereading.decided(first, again)
            seconds += answer.seconds
        readings = [each for first in outcome.readings for each in decided.get(first, (first,))]
        return replace(outcome, readings=tuple(self._judged(photo, each) for each in readings), seconds=seconds)

    def _placed(self, photo: Photo, reading: Reading, part: Box, box: Box | None) -> Reading:
        """Return a reading of a part as one of the whole photo; without a box of its own it is in `box`."""
        return self._judged(photo, rereading.placed(reading, part, box))

    def _judged(self, photo: Photo, reading: Reading) -> Reading:
        """Return a reading for review if something speaks against it in the photo as a whole."""
        return replace(reading, verdict=Verdict.REVIEW) if self._is_doubtful(photo, reading) else reading

    def _reading(self, photo: Photo, bib: Bib) -> Reading:
        box = bib.box.scaled(photo.scale) if bib.box else None
        return self._judged(photo, Reading(bib.text, bib.confidence, Verdict.ACCEPTED, box))

    def _is_doubtful(self, photo: Photo, reading: Reading) -> bool:
        return (
            reading.confidence < self.options.accept_confidence
            or bool(self.options.doubtful.fullmatch(reading.bib))
            or (reading.box is not None and self._at_edge(photo, reading.box))
        )

    def _at_edge(self, photo: Photo, box: Box) -> bool:
        across, down = photo.width * self.options.edge, photo.height * self.options.edge
        return box.x1 <= across or box.y1 <= down or box.x2 >= photo.width - across or box.y2 >= photo.height - down

    def text(self, outcome: Outcome) -> str:
        parts = [
            f"{reading.bib} ({reading.confidence:.0%}{', review' if reading.verdict is Verdict.REVIEW else ''})"
            for reading in sorted(outcome.readings, key=lambda reading: -reading.confidence)
        ]
        return ", ".join(parts) or "no bib"
