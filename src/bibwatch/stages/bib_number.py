"""`bib_number`: what in a photo may be a bib.

Gives candidates, and evidence of how each was seen; which of them are bibs is for the judge. A model that replies in
text looks at the whole photo first, then at parts of it; a second model may be asked about what the first was unsure
of.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import structlog
from pydantic import Field, SerializeAsAny

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Look, LookTaken, best, normalized
from bibwatch.domain.readings import summary
from bibwatch.errors import BibwatchError, ModelError
from bibwatch.images import Photo
from bibwatch.interpreters.base import InterpreterOptions
from bibwatch.interpreters.bib_json import BibJsonOptions
from bibwatch.interpreters.bib_lines import BibLinesOptions
from bibwatch.judging import Judge, Race, judge
from bibwatch.runtimes.base import BoxConvention, Markup, ModelOptions, OutputKind, Prediction
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages import crops
from bibwatch.stages.base import Outcome, Stage, StageOptions

log = structlog.get_logger()

# What a bib of any race looks like. Reading does not depend on the race: its form is for the judge.
_ANY_BIB = re.compile(r"[A-Z]{0,3}\d{2,6}[A-Z]?")
_DETECTED = 0.3  # how sure the detector must be of a number for a better model to look there
_MOST_PARTS = 16  # of one photo that are looked at again
_PATIENCE = 60  # seconds a photo waits for others to fill a batch; a watchdog counts those between two photos
_VIEW = 1024  # pixels, of a model that does not say what it has use for


class BibNumberOptions(StageOptions):
    """How photos are read for bibs."""

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
    submodels: ClassVar[Mapping[str, str | None]] = {"second_model_options": None, "detector_options": "rapidocr"}
    moved: ClassVar[Mapping[str, str]] = {
        "accept_confidence": "race.accept_at",
        "doubtful": "judging.doubtful",
        "edge": "judging.edge",
    }

    kind: Literal["bib_number"] = "bib_number"
    crops: Literal["auto", "none", "boxes", "detector", "tiles"] = Field(
        default="auto",
        description="Where a model that replies in text looks again: at its own boxes, where the detector sees a "
        "number, or at overlapping tiles of a photo much larger than its view; auto: at both kinds of box, else tiles.",
    )
    detector_options: SerializeAsAny[ModelOptions] = Field(
        default=VisionOcrOptions(), description="The OCR that finds where to look again: a preset or a table."
    )
    second_model_options: SerializeAsAny[ModelOptions] | None = Field(
        default=None, description="A second model, a preset or a table; it is asked where the first was unsure."
    )
    ask_below: float = Field(
        default=0.95, ge=0, le=1, description="Ask the second model about numbers the first is less sure of than this."
    )

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
            found["detector"] = self._with(self.detector_options)
        return found

    @property
    def draws(self) -> bool:
        """Whether the model draws boxes itself."""
        return self.model_options.boxes is not BoxConvention.NONE

    def _with(self, model: ModelOptions) -> BibNumberOptions:
        """Return the options of the same stage with another model, which looks once."""
        return BibNumberOptions(
            model_options=model,
            model_interpreter_options=self.default_interpreter(model) or self.model_interpreter_options,
            constrained=self.constrained and model.output_kind is OutputKind.TEXT,
            crops="none",
        )


@dataclass(frozen=True)
class _Part:
    """A part of a photo to look at again, and what for: the box of a number, and the number as it was read."""

    area: Box
    box: Box | None = None
    about: str | None = None


Seen = tuple[Photo, Outcome]
Plan = tuple[Photo, Outcome, list[_Part]]  # what is to be looked at again


class BibNumber(Stage[BibNumberOptions]):
    """The product."""

    options_type: ClassVar[type[StageOptions]] = BibNumberOptions
    _trouble = ""  # what the second model last had

    @property
    def longest_side(self) -> int | None:
        # A small part of a photo that was made small first would have no detail left.
        return None if self._looks_again or "second_model" in self.substages else super().longest_side

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        photos = list(photos)
        seen: Iterator[Seen] = zip(photos, super().read(photos), strict=True)
        if self._looks_again:
            seen = self._look_again(seen)
        if "second_model" in self.substages:
            seen = self._ask_second_model(seen)
        for _, outcome in seen:
            kept, cut = best(outcome.candidates)
            yield replace(outcome, candidates=kept, cut=cut)

    def interpret(self, photo: Photo, prediction: Prediction) -> Outcome:
        found: tuple[Candidate, ...] = self.interpreter.interpret(prediction, self.options.question)
        scaled = (replace(each, box=each.box.scaled(photo.scale)) if each.box else each for each in found)
        candidates = tuple(crops.placed(each, photo) for each in scaled)
        return Outcome(
            candidates=candidates,
            looks=(LookTaken(Look.PHOTO, len(candidates)),),
            device=prediction.device,
            seconds=prediction.seconds,
        )

    def text(self, outcome: Outcome) -> str:
        return summary(judge(outcome.candidates))

    @property
    def _looks_again(self) -> bool:
        return self.options.model_options.output_kind is OutputKind.TEXT and self.options.crops != "none"

    def _look_again(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        """Read parts of the photos again with the same model, and put together what it saw."""
        plans = ((photo, *self._parts(photo, outcome)) for photo, outcome in seen)
        for photo, outcome, answers in _together(super().read, plans, self.options.model_options.batch_size):
            merged = outcome
            for part, answer in answers:
                merged = _with_look(merged, photo, part, answer, Look.CROP if part.box else Look.TILE)
            errors = [answer.error for _, answer in answers if answer.error]
            outages = [error for error in errors if error.is_outage]
            read = any(each.look is not Look.DETECTOR and _is_any_bib(each) for each in merged.candidates)
            nothing = not read and len(errors) == len(answers)  # of many tiles one may make no sense
            if lost := outages or (errors if nothing else []):
                yield photo, replace(outcome, candidates=(), error=lost[0])
                continue
            if errors:
                log.warning(
                    "crops.failed", parts=len(errors), of=len(answers), sha256=photo.sha256, error=str(errors[0])
                )
            yield photo, merged

    def _parts(self, photo: Photo, outcome: Outcome) -> tuple[Outcome, list[_Part]]:
        """Return where bibs seem to be, by the model itself and by the detector; where they are not known, tiles."""
        if outcome.error:
            return outcome, []
        own = outcome.candidates if self.options.crops in {"auto", "boxes"} else ()
        detected: tuple[Candidate, ...] = ()
        if "detector" in self.substages:
            found = next(self.substages["detector"].read([photo]))
            detected = found.candidates
            outcome = _with_look(outcome, photo, None, found, Look.DETECTOR, model=self._model("detector"))
        sure = [each for each in detected if each.score >= _DETECTED]
        boxes = crops.distinct(each.box for each in (*own, *sure) if each.box and _is_any_bib(each))
        parts = [_Part(self._around(box, photo), box) for box in boxes[:_MOST_PARTS]]
        return outcome, parts or [_Part(tile) for tile in self._tiles(photo)]

    def _around(self, box: Box, photo: Photo) -> Box:
        return crops.around(box, photo, crops.OF_A_READER if self.options.draws else crops.OF_A_DETECTOR)

    def _tiles(self, photo: Photo) -> list[Box]:
        view = self.options.model_options.longest_side or _VIEW
        return crops.tiles(photo, view) if self.options.crops in {"auto", "tiles"} else []

    def _ask_second_model(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        """Ask the second model about each number that the first was unsure of, and about nothing else."""
        plans = ((photo, outcome, self._doubts(photo, outcome)) for photo, outcome in seen)
        batch_size = self.substages["second_model"].options.model_options.batch_size
        for photo, outcome, answers in _together(self._second_read, plans, batch_size):
            merged = outcome
            for part, answer in answers:
                merged = _with_look(merged, photo, part, answer, Look.SECOND_MODEL, model=self._model("second_model"))
            yield photo, merged

    def _second_read(self, parts: Iterable[Photo]) -> Iterator[Outcome]:
        """Have the second model read; where it cannot be asked, what the first saw stands."""
        parts = list(parts)
        second = self.substages["second_model"]
        outcomes: list[Outcome] = []
        try:
            outcomes.extend(second.read(parts))
        except BibwatchError as exc:
            outcomes += [Outcome(error=ModelError(str(exc)))] * (len(parts) - len(outcomes))
        trouble = next((str(outcome.error) for outcome in outcomes if outcome.error), "")
        if trouble and trouble != self._trouble:  # once, not for hours
            log.warning("second_model.failed", preset=second.options.model_options.name, error=trouble)
        self._trouble = trouble
        yield from outcomes

    def _model(self, substage: str) -> str:
        name: str = self.substages[substage].options.model_options.model
        return name

    def _doubts(self, photo: Photo, outcome: Outcome) -> list[_Part]:
        """Return the places of numbers that the first model is unsure of, as any race would judge them."""
        race = Race(forms=(_ANY_BIB,), accept_at=self.options.ask_below)
        return [
            _Part(self._around(reading.box, photo), reading.box, reading.bib)
            for reading in Judge(race).judge(outcome.candidates).readings
            if reading.box and reading.probability < self.options.ask_below
        ]


def _is_any_bib(candidate: Candidate) -> bool:
    return any(_ANY_BIB.fullmatch(normalized(text)) for text in (candidate.text, *candidate.alternatives))


def _with_look(
    outcome: Outcome, photo: Photo, part: _Part | None, answer: Outcome, look: Look, *, model: str | None = None
) -> Outcome:
    """Return an outcome with what one more look at the photo, or a part of it, has seen; `model`: by another model."""
    area, box, about = (part.area, part.box, part.about) if part else (None, None, None)
    found = tuple(
        replace(crops.placed(each, photo, part=area, box=box), look=look, model=model, about=about)
        for each in answer.candidates
    )
    taken = LookTaken(look, len(found), area, model, str(answer.error) if answer.error else None)
    return replace(
        outcome,
        candidates=(*outcome.candidates, *found),
        looks=(*outcome.looks, taken),
        seconds=outcome.seconds + answer.seconds,
    )


def _together(
    read: Callable[[Iterable[Photo]], Iterator[Outcome]],
    plans: Iterable[Plan],
    batch_size: int,
) -> Iterator[tuple[Photo, Outcome, list[tuple[_Part, Outcome]]]]:
    """Read the parts of as many photos together as fill a batch: most photos have but few. Yield them by photo."""
    for some in _batches(plans, batch_size):
        cuts = [crops.cut(photo, part.area) for photo, _, parts in some for part in parts]
        answers = iter(read(cuts) if cuts else ())
        for photo, outcome, parts in some:
            yield photo, outcome, [(part, next(answers)) for part in parts]


def _batches(plans: Iterable[Plan], batch_size: int) -> Iterator[list[Plan]]:
    some: list[Plan] = []
    since = time.monotonic()
    for plan in plans:
        some.append(plan)
        parts = sum(len(parts) for _, _, parts in some)
        if parts == 0 or parts >= batch_size or time.monotonic() - since > _PATIENCE:
            yield some
            some, since = [], time.monotonic()
    yield some
