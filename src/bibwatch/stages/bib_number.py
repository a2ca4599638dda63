"""`bib_number`: bib candidates in a photo.

Records how each candidate was seen; the judge decides which are bibs. A model that replies in text reads the whole
photo first, then parts of it; an optional second model reads the parts where the first was uncertain.
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
from bibwatch.judging import Judge, Race, Rules, judge
from bibwatch.runtimes.base import BoxConvention, Markup, ModelOptions, OutputKind, Prediction
from bibwatch.runtimes.ocr import VisionOcrOptions
from bibwatch.stages import crops
from bibwatch.stages.base import Outcome, Stage, StageOptions

log = structlog.get_logger()

# The bibs of any race: reading does not depend on the race, only judging does.
_UNLIKELY = 0.05  # probability of a number that a second model is not asked about
_ANY_BIB = re.compile(r"[A-Z]{0,3}\d{2,6}[A-Z]?")
_MIN_DETECTOR_SCORE = 0.3  # of a detected number, for its part of the photo to be re-read
_MAX_PARTS = 16  # re-read per photo
_MAX_BATCH_WAIT = 60  # seconds a photo waits for a batch to fill; the watchdog times the gap between photos
_DEFAULT_TILE_SIDE = 1024  # pixels, for models without `longest_side`


class BibNumberOptions(StageOptions):
    """How to read bibs in photos."""

    interpreters: ClassVar[Mapping[OutputKind, InterpreterOptions]] = {
        OutputKind.LINES: BibLinesOptions(),
        OutputKind.TEXT: BibJsonOptions(),
    }
    # Contains no number: a small model would copy it.
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
        description="Which parts of a photo a model that replies in text re-reads: its own boxes, numbers found by the "
        "detector, or overlapping tiles of a photo much larger than its input; auto: both kinds of box, else tiles.",
    )
    detector_options: SerializeAsAny[ModelOptions] = Field(
        default=VisionOcrOptions(), description="OCR model that finds the parts to re-read: a preset or a table."
    )
    second_model_options: SerializeAsAny[ModelOptions] | None = Field(
        default=None, description="Second model, for numbers below `ask_below`: a preset or a table."
    )
    ask_below: float = Field(
        default=0.95, ge=0, le=1, description="Ask the second model about numbers with a lower probability."
    )

    @property
    def question(self) -> str:
        question = super().question
        return question + self.box_question if self.returns_boxes and not self.prompt else question

    def substages(self) -> dict[str, StageOptions]:
        found: dict[str, StageOptions] = {}
        if self.second_model_options:
            found["second_model"] = self._with(self.second_model_options)
        if self.model_options.output_kind is OutputKind.TEXT and self.crops in {"auto", "detector"}:
            # The detector also reads the text: a box without a number is not re-read.
            found["detector"] = self._with(self.detector_options)
        return found

    @property
    def returns_boxes(self) -> bool:
        """Whether the model returns boxes."""
        return self.model_options.boxes is not BoxConvention.NONE

    def _with(self, model: ModelOptions) -> BibNumberOptions:
        """Return the options of the same stage with another model, without re-reading."""
        return BibNumberOptions(
            model_options=model,
            model_interpreter_options=self.default_interpreter(model) or self.model_interpreter_options,
            constrained=self.constrained and model.output_kind is OutputKind.TEXT,
            crops="none",
        )


@dataclass(frozen=True)
class _Part:
    """A part of a photo to re-read, with the box of the number it was chosen for and the number as read."""

    area: Box
    box: Box | None = None
    about: str | None = None


Seen = tuple[Photo, Outcome]
Plan = tuple[Photo, Outcome, list[_Part]]  # with the parts to re-read


class BibNumber(Stage[BibNumberOptions]):
    """Finds bib candidates in photos."""

    options_type: ClassVar[type[StageOptions]] = BibNumberOptions
    _last_error = ""  # of the second model, logged when it changes

    @property
    def longest_side(self) -> int | None:
        # Parts of a downscaled photo would lack detail.
        return None if self._rereads or "second_model" in self.substages else super().longest_side

    def read(self, photos: Iterable[Photo]) -> Iterator[Outcome]:
        photos = list(photos)
        seen: Iterator[Seen] = zip(photos, super().read(photos), strict=True)
        if self._rereads:
            seen = self._reread_parts(seen)
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
    def _rereads(self) -> bool:
        return self.options.model_options.output_kind is OutputKind.TEXT and self.options.crops != "none"

    def _reread_parts(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        """Re-read parts of the photos with the same model and merge the outcomes."""
        plans = ((photo, *self._parts(photo, outcome)) for photo, outcome in seen)
        for photo, outcome, answers in _read_in_batches(super().read, plans, self.options.model_options.batch_size):
            merged = outcome
            for part, answer in answers:
                merged = _with_look(merged, photo, part, answer, Look.CROP if part.box else Look.TILE)
            errors = [answer.error for _, answer in answers if answer.error]
            outages = [error for error in errors if error.is_outage]
            read = any(each.look is not Look.DETECTOR and _is_any_bib(each) for each in merged.candidates)
            nothing = not read and len(errors) == len(answers)  # tolerate a few failed parts
            if fatal := outages or (errors if nothing else []):
                yield photo, replace(outcome, candidates=(), error=fatal[0])
                continue
            if errors:
                log.warning(
                    "crops.failed", parts=len(errors), of=len(answers), sha256=photo.sha256, error=str(errors[0])
                )
            yield photo, merged

    def _parts(self, photo: Photo, outcome: Outcome) -> tuple[Outcome, list[_Part]]:
        """Add the detector's candidates to the outcome; return it with the parts that hold likely bibs, else tiles."""
        if outcome.error:
            return outcome, []
        own = outcome.candidates if self.options.crops in {"auto", "boxes"} else ()
        detected: tuple[Candidate, ...] = ()
        if "detector" in self.substages:
            found = next(self.substages["detector"].read([photo]))
            detected = found.candidates
            outcome = _with_look(outcome, photo, None, found, Look.DETECTOR, model=self._model("detector"))
        likely = [each for each in detected if each.score >= _MIN_DETECTOR_SCORE]
        boxes = crops.distinct(each.box for each in (*own, *likely) if each.box and _is_any_bib(each))
        parts = [_Part(self._around(box, photo), box) for box in boxes[:_MAX_PARTS]]
        return outcome, parts or [_Part(tile) for tile in self._tiles(photo)]

    def _around(self, box: Box, photo: Photo) -> Box:
        return crops.around(box, photo, crops.MODEL_MARGIN if self.options.returns_boxes else crops.DETECTOR_MARGIN)

    def _tiles(self, photo: Photo) -> list[Box]:
        view = self.options.model_options.longest_side or _DEFAULT_TILE_SIDE
        return crops.tiles(photo, view) if self.options.crops in {"auto", "tiles"} else []

    def _ask_second_model(self, seen: Iterable[Seen]) -> Iterator[Seen]:
        """Ask the second model about the numbers the first was uncertain about, and nothing else."""
        plans = ((photo, outcome, self._uncertain_parts(photo, outcome)) for photo, outcome in seen)
        batch_size = self.substages["second_model"].options.model_options.batch_size
        for photo, outcome, answers in _read_in_batches(self._read_with_second_model, plans, batch_size):
            merged = outcome
            for part, answer in answers:
                merged = _with_look(merged, photo, part, answer, Look.SECOND_MODEL, model=self._model("second_model"))
            yield photo, merged

    def _read_with_second_model(self, parts: Iterable[Photo]) -> Iterator[Outcome]:
        """Read with the second model; if it fails, the first model's candidates stand."""
        parts = list(parts)
        second = self.substages["second_model"]
        outcomes: list[Outcome] = []
        try:
            outcomes.extend(second.read(parts))
        except BibwatchError as exc:
            outcomes += [Outcome(error=ModelError(str(exc)))] * (len(parts) - len(outcomes))
        error = next((str(outcome.error) for outcome in outcomes if outcome.error), "")
        if error and error != self._last_error:  # log a persistent error once
            log.warning("second_model.failed", preset=second.options.model_options.name, error=error)
        self._last_error = error
        yield from outcomes

    def _model(self, substage: str) -> str:
        name: str = self.substages[substage].options.model_options.model
        return name

    def _uncertain_parts(self, photo: Photo, outcome: Outcome) -> list[_Part]:
        """Return the parts with numbers the first model is uncertain about, judged without rules of a race."""
        race, rules = Race(forms=(_ANY_BIB,), accept_at=self.options.ask_below), Rules(min_probability=_UNLIKELY)
        return [
            _Part(self._around(reading.box, photo), reading.box, reading.bib)
            for reading in Judge(race, rules).judge(outcome.candidates).readings
            if reading.box and reading.probability < self.options.ask_below
        ]


def _is_any_bib(candidate: Candidate) -> bool:
    return any(_ANY_BIB.fullmatch(normalized(text)) for text in (candidate.text, *candidate.alternatives))


def _with_look(
    outcome: Outcome, photo: Photo, part: _Part | None, answer: Outcome, look: Look, *, model: str | None = None
) -> Outcome:
    """Add the candidates from another look at the photo or a part of it; `model` is set if another model took it."""
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


def _read_in_batches(
    read: Callable[[Iterable[Photo]], Iterator[Outcome]],
    plans: Iterable[Plan],
    batch_size: int,
) -> Iterator[tuple[Photo, Outcome, list[tuple[_Part, Outcome]]]]:
    """Read the parts of several photos together to fill batches, as most have few. Yield them by photo."""
    for batch in _batches(plans, batch_size):
        cuts = [crops.cut(photo, part.area) for photo, _, parts in batch for part in parts]
        answers = iter(read(cuts) if cuts else ())
        for photo, outcome, parts in batch:
            yield photo, outcome, [(part, next(answers)) for part in parts]


def _batches(plans: Iterable[Plan], batch_size: int) -> Iterator[list[Plan]]:
    batch: list[Plan] = []
    since = time.monotonic()
    for plan in plans:
        batch.append(plan)
        parts = sum(len(parts) for _, _, parts in batch)
        if parts == 0 or parts >= batch_size or time.monotonic() - since > _MAX_BATCH_WAIT:
            yield batch
            batch, since = [], time.monotonic()
    yield batch
