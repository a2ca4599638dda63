"""`bib_number`: which bibs are in a photo, and which of them to trust.

A reading is `accepted` only when nothing speaks against it; everything else is `review`, shown as unsure. A model that
replies in text looks at the whole photo first, then at parts of it; a second model may be asked about what the first
was unsure of.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import structlog
from pydantic import Field, SerializeAsAny

from bibwatch.domain.box import Box
from bibwatch.errors import BibwatchError, ModelError, ModelUnavailableError
from bibwatch.images import Photo
from bibwatch.interpreters.base import Bib, InterpreterOptions
from bibwatch.interpreters.bib_json import BibJsonOptions
from bibwatch.interpreters.bib_lines import BibLinesOptions
from bibwatch.runtimes.base import BoxConvention, Markup, ModelOptions, OutputKind, Prediction
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages import crops
from bibwatch.stages.base import Outcome, Reading, Stage, StageOptions, Verdict

log = structlog.get_logger()

_DETECTED = 0.3  # how sure the bundled OCR must be of a number for a better model to look there
_MOST_PARTS = 16  # of one photo that are looked at again
_PATIENCE = 60  # seconds that a photo waits for others to fill a batch; a watchdog counts those between two photos
_VIEW = 1024  # pixels, of a model that does not say what it has use for


SubjectT = TypeVar("SubjectT")
Seen = tuple[Photo, Outcome]
Look = tuple[Photo, Outcome, list[tuple[SubjectT, Box]]]  # parts to read again, each with what it is read for


class BibNumberOptions(StageOptions):
    """Which readings of a bib are accepted."""

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {
        OutputKind.LINES: BibLinesOptions(),
        OutputKind.TEXT: BibJsonOptions(),
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
        "number, at overlapping tiles of a photo much larger than its view; auto takes boxes of both, else tiles.",
    )
    second_model_options: SerializeAsAny[ModelOptions] | None = Field(
        default=None, description="A second model, a preset or a table; it is asked where the first was unsure."
    )

    submodels: ClassVar[tuple[str, ...]] = ("second_model_options",)

    @property
    def question(self) -> str:
        asked = super().question
        return asked + self.box_question if self.draws and not self.prompt else asked

    def substages(self) -> dict[str, StageOptions]:
        found: dict[str, StageOptions] = {}
        if self.second_model_options:
            found["second_model"] = self._with(self.second_model_options)
        if self.model_options.output_kind is OutputKind.TEXT and self.crops in {"auto", "detector"}:
            # It reads as well as it can, too: where it reads no number there is no bib.
            found["detector"] = self._with(VisionOcrOptions(), min_confidence=_DETECTED)
        return found

    @property
    def draws(self) -> bool:
        """Whether the model draws boxes itself."""
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
            constrained=self.constrained and model.output_kind is OutputKind.TEXT,
            crops="none",
        )


class BibNumber(Stage[BibNumberOptions]):
    """The product."""

    options_type: ClassVar[type[StageOptions]] = BibNumberOptions
    _trouble = ""  # what the second model last had

    @property
    def longest_side(self) -> int | None:
        # A small part of a photo that was made small first would have no detail left.
        return None if self._looks_near or "second_model" in self.substages else super().longest_side

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        photos = list(photos)
        seen: Iterator[Seen] = zip(photos, super().read(photos), strict=True)
        if self._looks_near:
            seen = self._seen_from_near(seen)
        if "second_model" in self.substages:
            seen = self._asked_of_another(seen)
        for _, outcome in seen:
            yield outcome

    def judge(self, photo: Photo, prediction: Prediction) -> Outcome:
        bibs: tuple[Bib, ...] = self.interpreter.interpret(prediction, self.options.question)
        readings = tuple(self._reading(photo, bib) for bib in bibs)
        return Outcome(readings, device=prediction.device, seconds=prediction.seconds)

    @property
    def _looks_near(self) -> bool:
        return self.options.model_options.output_kind is OutputKind.TEXT and self.options.crops != "none"

    def _seen_from_near(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        """Read parts of the photos again with the same model, and put the readings together."""
        looks = (self._near(photo, outcome) for photo, outcome in seen)
        for photo, outcome, near in _together(super().read, looks, self.options.model_options.batch_size):
            readings = [crops.placed(each, part, box) for box, part, answer in near for each in answer.readings]
            merged = crops.merged([*outcome.readings, *readings])
            judged = tuple(self._judged(photo, each) for each in merged)
            seconds = outcome.seconds + sum(answer.seconds for _, _, answer in near)
            errors = [answer.error for _, _, answer in near if answer.error]
            gone = [error for error in errors if isinstance(error, ModelUnavailableError)]
            nothing = not judged and len(errors) == len(near)  # of many tiles one may make no sense
            if lost := gone or (errors if nothing else []):
                yield photo, replace(outcome, readings=(), error=lost[0])
                continue
            if errors:
                log.warning("crops.failed", parts=len(errors), of=len(near), sha256=photo.sha256, error=str(errors[0]))
            yield photo, replace(outcome, readings=judged, seconds=seconds)

    def _near(self, photo: Photo, outcome: Outcome) -> Look[Box | None]:
        """Return the parts where bibs seem to be, each with its bib's box; else tiles, which have none."""
        if outcome.error:
            return photo, outcome, []
        detected = next(self.substages["detector"].read([photo])) if "detector" in self.substages else Outcome()
        outcome = replace(outcome, seconds=outcome.seconds + detected.seconds)
        boxes = self._boxes(outcome, detected)
        parts: list[tuple[Box | None, Box]] = [(box, self._around(box, photo)) for box in boxes]
        return photo, outcome, parts or [(None, tile) for tile in self._tiles(photo)]

    def _boxes(self, outcome: Outcome, detected: Outcome) -> list[Box]:
        """Return where bibs seem to be: by the model itself, and by the detector besides."""
        own = outcome.readings if self.options.crops in {"auto", "boxes"} else ()
        boxes = [reading.box for reading in own if reading.box]
        for reading in detected.readings:
            if reading.box and not any(crops.same_place(reading.box, box) for box in boxes):
                boxes.append(reading.box)
        return boxes[:_MOST_PARTS]

    def _around(self, box: Box, photo: Photo) -> Box:
        share = crops.OF_A_READER if self.options.draws else crops.OF_A_DETECTOR
        return crops.around(box, photo, share)

    def _tiles(self, photo: Photo) -> list[Box]:
        view = self.options.model_options.longest_side or _VIEW
        return crops.tiles(photo, view) if self.options.crops in {"auto", "tiles"} else []

    def _asked_of_another(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        """Ask the second model about each reading that the first was unsure of, and nothing else."""
        model = self.substages["second_model"].options.model_options
        looks = (self._doubts(photo, outcome) for photo, outcome in seen)
        for photo, outcome, answers in _together(self._asked, looks, model.batch_size):
            decided = {}
            for first, part, answer in answers:
                others = {reading.bib for reading in outcome.readings} - {first.bib}  # a neighbour is no news
                again = [
                    replace(crops.placed(each, part, None), model=model.model)
                    for each in answer.readings
                    if each.bib not in others
                ]
                decided[first] = crops.decided(first, again)
            readings = [each for first in outcome.readings for each in decided.get(first, (first,))]
            seconds = outcome.seconds + sum(answer.seconds for _, _, answer in answers)
            judged = tuple(self._judged(photo, each) for each in readings)
            yield photo, replace(outcome, readings=judged, seconds=seconds)

    def _asked(self, parts: Iterable[Photo]) -> Iterator[Outcome]:
        """Have the second model read; where it cannot be asked the first's readings stand."""
        parts = list(parts)
        answers: list[Outcome] = []
        try:
            answers.extend(self.substages["second_model"].read(parts))
        except BibwatchError as exc:
            answers += [Outcome(error=ModelError(str(exc)))] * (len(parts) - len(answers))
        trouble = next((str(answer.error) for answer in answers if answer.error), "")
        if trouble and trouble != self._trouble:  # once, not for hours
            log.warning(
                "second_model.failed", preset=self.substages["second_model"].options.model_options.name, error=trouble
            )
        self._trouble = trouble
        yield from answers

    def _doubts(self, photo: Photo, outcome: Outcome) -> Look[Reading]:
        unsure = {
            reading: self._around(reading.box, photo)
            for reading in outcome.readings
            if reading.box and reading.confidence < self.options.accept_confidence
        }
        return photo, outcome, list(unsure.items())

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


def _together(
    read: Callable[[Iterable[Photo]], Iterator[Outcome]], looks: Iterable[Look[SubjectT]], batch_size: int
) -> Iterator[tuple[Photo, Outcome, list[tuple[SubjectT, Box, Outcome]]]]:
    """Read the parts of so many photos together as fill a batch: most photos have but few. Yields them by photo."""
    for some in _batches(looks, batch_size):
        cuts = [crops.cut(photo, part) for photo, _, parts in some for _, part in parts]
        answers = iter(read(cuts) if cuts else ())
        for photo, outcome, parts in some:
            yield photo, outcome, [(subject, part, next(answers)) for subject, part in parts]


def _batches(looks: Iterable[Look[SubjectT]], batch_size: int) -> Iterator[list[Look[SubjectT]]]:
    some: list[Look[SubjectT]] = []
    since = time.monotonic()
    for look in looks:
        some.append(look)
        parts = sum(len(parts) for _, _, parts in some)
        if parts == 0 or parts >= batch_size or time.monotonic() - since > _PATIENCE:
            yield some
            some, since = [], time.monotonic()
    yield some
