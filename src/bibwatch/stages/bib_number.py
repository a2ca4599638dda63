"""`bib_number`: which bibs are in a photo, and which of them to trust.

A reading is `accepted` only when nothing speaks against it; everything else is `review`, shown as unsure. A model that
replies in text looks at the whole photo first, then at parts of it; a second model may be asked about what the first
was unsure of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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
        return None if self._looks_again else super().longest_side

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        if not self._looks_again:
            yield from super().read(photos)
            return
        photos = list(photos)
        outcomes = list(super().read(photos))
        if "second" in self.further:
            yield from self._asked_of_another(photos, outcomes)
        else:
            yield from self._seen_from_near(photos, outcomes)

    def judge(self, photo: Photo, prediction: Prediction) -> Outcome:
        bibs: tuple[Bib, ...] = self.interpreter.interpret(prediction, self.options.question)
        readings = tuple(self._reading(photo, bib) for bib in bibs)
        return Outcome(readings, device=prediction.device, seconds=prediction.seconds)

    @property
    def _looks_again(self) -> bool:
        asks = self.options.model_options.gives is Gives.TEXT
        return "second" in self.further or (asks and self.options.crops != "none")

    def _asked_of_another(self, photos: Sequence[Photo], outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
        """Ask the second model about each reading that the first was unsure of, and nothing else."""
        second = self.further["second"]
        unsure = [
            (number, reading)
            for number, outcome in enumerate(outcomes)
            for reading in outcome.readings
            if reading.box and reading.confidence < self.options.accept_confidence
        ]
        parts = [rereading.around(reading.box, photos[number]) for number, reading in unsure if reading.box]
        cuts = [rereading.cut(photos[number], part) for (number, _), part in zip(unsure, parts, strict=True)]
        answers = list(second.read(cuts)) if cuts else []
        replaced: dict[tuple[int, Reading], tuple[Reading, ...]] = {}
        seconds = [outcome.seconds for outcome in outcomes]
        for (number, first), part, answer in zip(unsure, parts, answers, strict=True):
            model = second.options.model_options.model
            again = [replace(rereading.placed(each, part, tight=False), model=model) for each in answer.readings]
            replaced[number, first] = rereading.decided(first, again)
            seconds[number] += answer.seconds
        for number, outcome in enumerate(outcomes):
            readings = [each for first in outcome.readings for each in replaced.get((number, first), (first,))]
            yield replace(outcome, readings=tuple(readings), seconds=seconds[number])

    def _seen_from_near(self, photos: Sequence[Photo], outcomes: Sequence[Outcome]) -> Iterator[Outcome]:
        """Read parts of each photo again with the same model, and put the readings together."""
        detector = self.further.get("detector")
        detected = list(detector.read(photos)) if detector else [Outcome()] * len(photos)
        for photo, outcome, seen in zip(photos, outcomes, detected, strict=True):
            if outcome.error:
                yield outcome
                continue
            parts, tight = self._parts(photo, outcome, seen)
            near = list(super().read([rereading.cut(photo, part) for part in parts]))
            gone = next((each.error for each in near if isinstance(each.error, ModelUnavailableError)), None)
            readings = [
                rereading.placed(reading, part, tight=tight)
                for part, each in zip(parts, near, strict=True)
                for reading in each.readings
            ]
            seconds = outcome.seconds + seen.seconds + sum(each.seconds for each in near)
            merged = rereading.merged([*outcome.readings, *readings])
            yield replace(outcome, readings=() if gone else merged, seconds=seconds, error=gone)

    def _parts(self, photo: Photo, outcome: Outcome, seen: Outcome) -> tuple[list[Box], bool]:
        """Return the parts of a photo to look at again, and whether each is about as large as a bib."""
        crops = self.options.crops
        own = [reading.box for reading in outcome.readings if reading.box] if crops in {"auto", "boxes"} else []
        found = [reading.box for reading in seen.readings if reading.box] if crops in {"auto", "detector"} else []
        near = [rereading.around(box, photo) for box in (own or found)[:_MOST_PARTS]]
        if near or crops not in {"auto", "tiles"}:
            return near, True
        return rereading.tiles(photo, self.options.model_options.longest_side or _VIEW), False

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
