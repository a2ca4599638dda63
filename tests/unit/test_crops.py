"""Re-reading parts of a photo: selecting parts, and mapping candidates back to the photo."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Look, LookTaken
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.errors import ConfigurationError, ModelError, ModelUnavailableError
from bibwatch.images import Photo
from bibwatch.interpreters.bib_json import BibJson
from bibwatch.interpreters.bib_lines import BibLines
from bibwatch.judging import judge
from bibwatch.registry import Registry
from bibwatch.runtimes.base import BoxConvention, CoordinateSpace, FinishReason, OutputKind, Prediction, TextLine, Token
from bibwatch.stages import bib_number, crops
from bibwatch.stages.base import Outcome, Stage
from bibwatch.stages.bib_number import BibNumber
from bibwatch.testing.stages import ScriptedRuntime, photo, scripted


def line(text: str, score: float, *box: float) -> TextLine:
    return TextLine(text, score, Box(*box))


def lines(*found: TextLine) -> Prediction:
    return Prediction(lines=found, finish_reason=FinishReason.STOP)


def replied(*bibs: str, confidence: float = 1.0) -> Prediction:
    """Return a reply with bibs, all with the same confidence."""
    text = '{"bibs":[' + ",".join(f'{{"number":"{bib}"}}' for bib in bibs) + "]}"
    return Prediction(text=text, tokens=(Token(text, math.log(confidence)),), finish_reason=FinishReason.STOP)


def readings(outcome: Outcome) -> tuple[Reading, ...]:
    """Judge an outcome without rules of a race."""
    return judge(outcome.candidates)


def bibs(outcome: Outcome) -> list[str]:
    return [reading.bib for reading in readings(outcome)]


# Boxes

sides = st.integers(200, 6000)


@given(sides, sides, st.integers(100, 1500))
def test_tiles_cover_a_large_photo_and_overlap(width: int, height: int, side: int) -> None:
    found = crops.tiles(photo(width, height, scale=8), side)
    if max(width, height) <= 2 * side:
        assert found == []
        return
    assert 1 < len(found) <= 16
    for x in (0, width // 2, width - 1):
        for y in (0, height // 2, height - 1):
            assert any(box.x1 <= x < box.x2 and box.y1 <= y < box.y2 for box in found)
    starts = sorted({(box.x1, box.x2) for box in found})
    for (_, end), (start, _) in pairwise(starts):
        assert start < end, "a bib between two tiles would be cut in both"


@given(st.floats(0, 600), st.floats(0, 400), st.floats(4, 200), st.floats(4, 100), st.sampled_from([1, 2, 4]))
def test_a_part_is_cropped_in_place(x: float, y: float, width: float, height: float, scale: int) -> None:
    whole = photo(800, 600, scale=scale)
    part = crops.around(Box(x, y, min(800, x + width), min(600, y + height)), whole, crops.MODEL_MARGIN)
    cut = crops.cut(whole, part)
    assert part.x1 <= x
    assert part.y2 >= min(600, y + height)
    assert abs(cut.width - (part.x2 - part.x1)) <= 2 * scale
    assert cut.scale == pytest.approx(whole.scale, rel=0.3)


def test_candidates_of_a_part_are_mapped_to_the_photo() -> None:
    part, whole = Box(100, 50, 300, 150), photo(800, 600)
    own = crops.placed(Candidate("1", 0.9, Box(10, 20, 30, 40)), whole, part=part)
    assert (own.box, own.edge_distance) == (Box(110, 70, 130, 90), pytest.approx(70 / 600))
    box = Box(0, 60, 200, 100)
    given = crops.placed(Candidate("1", 0.9), whole, part=part, box=box)
    assert (given.box, given.edge_distance) == (box, 0)
    lost = crops.placed(Candidate("1", 0.9), whole, part=part)
    assert (lost.box, lost.edge_distance) == (None, None)


def test_the_edge_is_that_of_the_photo_not_of_the_part() -> None:
    part = Box(100, 100, 200, 200)
    at_the_parts_edge = Candidate("1", 0.9, Box(0, 0, 50, 50), edge_distance=0.0)
    assert crops.placed(at_the_parts_edge, photo(400, 400), part=part).edge_distance == 0.25


def test_boxes_in_the_same_place_are_merged() -> None:
    near, far = Box(0, 0, 100, 50), Box(500, 0, 600, 50)
    assert crops.distinct([near, near.scaled(1.1), far, near]) == [near, far]


# A second model


def cascade(first: Prediction, *second: Prediction) -> Any:
    """Make a stage with OCR and a second model for uncertain readings."""
    better = scripted(
        BibNumber, BibJson, *(second or (replied(),)), output_kind=OutputKind.TEXT, model={"name": "better"}
    )
    return scripted(BibNumber, BibLines, first, output_kind=OutputKind.LINES, substages={"second_model": better})


UNCERTAIN = line("1O42".replace("O", "0"), 0.90, 100, 100, 200, 140)
CERTAIN = line("731", 0.99, 300, 100, 400, 140)


def test_the_second_model_reads_only_uncertain_parts() -> None:
    stage = cascade(lines(UNCERTAIN, CERTAIN), replied("1042"))
    (outcome,) = stage.read([photo()])
    second_runtime = stage.substages["second_model"].runtime
    assert isinstance(second_runtime, ScriptedRuntime)
    assert [image.size for image in second_runtime.images] == [(120, 60)]  # the bib and a margin
    found = {each.bib: each for each in readings(outcome)}
    assert (found["1042"].verdict, found["1042"].model) == (Verdict.ACCEPTED, "better")
    assert found["1042"].box == UNCERTAIN.box
    assert (found["731"].verdict, found["731"].model) == (Verdict.ACCEPTED, None)


def test_a_bib_at_the_edge_stays_in_review_even_if_models_agree() -> None:
    at_edge = line("1042", 0.90, 0, 100, 100, 140)
    (outcome,) = cascade(lines(at_edge), replied("1042")).read([photo()])
    assert [(each.bib, each.verdict, each.model) for each in readings(outcome)] == [("1042", Verdict.REVIEW, "better")]


def test_if_two_models_differ_both_readings_go_to_review() -> None:
    (outcome,) = cascade(lines(UNCERTAIN), replied("1047")).read([photo()])
    assert {(each.bib, each.verdict, each.model) for each in readings(outcome)} == {
        ("1042", Verdict.REVIEW, None),
        ("1047", Verdict.REVIEW, "better"),
    }


@pytest.mark.parametrize(
    "second",
    [
        replied(),
        replied("1042", confidence=0.3),
        Prediction(error=ModelError("fell over")),
        Prediction(error=ModelUnavailableError("away")),
        Prediction(text="no idea", finish_reason=FinishReason.STOP),
    ],
)
def test_an_unhelpful_second_model_changes_nothing(second: Prediction) -> None:
    (outcome,) = cascade(lines(UNCERTAIN), second).read([photo()])
    assert outcome.error is None
    assert [(each.bib, each.verdict, each.model) for each in readings(outcome)] == [("1042", Verdict.REVIEW, None)]


def test_a_second_model_may_agree_with_a_labelled_number() -> None:
    """The second model confirms the number, not the text as read."""
    box = {"number": "No. 1042", "box": [200, 200, 300, 250], "confidence": 0.4}
    own = Prediction(
        text=json.dumps({"bibs": [box]}),
        finish_reason=FinishReason.STOP,
        coordinates=CoordinateSpace(BoxConvention.PIXELS, 640, 480, sent=(640, 480)),
    )
    better = scripted(BibNumber, BibJson, replied("1042"), output_kind=OutputKind.TEXT, model={"name": "better"})
    (outcome,) = vlm(own, crops="none", second=better).read([photo()])
    (found,) = readings(outcome)
    assert (found.bib, found.verdict, list(map(str, found.reasons))) == ("1042", Verdict.ACCEPTED, ["two models agree"])


def test_the_threshold_for_the_second_model_is_configurable() -> None:
    """This determines what is re-read, independently of what is accepted."""
    for ask_below, parts in ((0.95, 1), (0.9, 0), (1.0, 2)):
        better = scripted(BibNumber, BibJson, replied(), output_kind=OutputKind.TEXT, model={"name": "better"})
        stage = scripted(
            BibNumber,
            BibLines,
            lines(UNCERTAIN, CERTAIN),
            output_kind=OutputKind.LINES,
            substages={"second_model": better},
            ask_below=ask_below,
        )
        list(stage.read([photo()]))
        assert len(better.runtime.images) == parts


def test_the_second_model_does_not_read_certain_numbers() -> None:
    stage = cascade(lines(CERTAIN))
    list(stage.read([photo(), photo()]))
    assert stage.substages["second_model"].runtime.images == []


def test_the_second_model_is_configured_by_name() -> None:
    stages = {"bib_number": {"second_model_options": "smol_vllm"}}
    stage = Registry(stages=stages).stage("bib_number", "rapidocr")
    second = stage.substages["second_model"].options
    assert (second.model_options.name, second.model_interpreter_options.kind) == ("smol-vllm", "bib_json")
    assert stage.options.fingerprint() != Registry().stage("bib_number", "rapidocr").options.fingerprint()
    assert stage.longest_side is None, "parts of a downscaled photo lack detail"


def test_a_broken_second_model_does_not_affect_the_outcome() -> None:
    stage = cascade(lines(UNCERTAIN, CERTAIN), replied("1042"))

    class Broken(ScriptedRuntime):
        def predict_batch(self, *_: Any, **__: Any) -> Iterator[Prediction]:
            raise ConfigurationError("preset better: out of order")

    stage.substages["second_model"].runtime = Broken(stage.substages["second_model"].runtime.options, ())
    with capture_logs() as logs:
        for _ in range(2):
            (outcome,) = stage.read([photo()])
    assert bibs(outcome) == [UNCERTAIN.text, CERTAIN.text]
    assert [entry["error"] for entry in logs] == ["preset better: out of order"], "logged once"


# Re-reading with the same model


def vlm(
    *predictions: Prediction, detected: Prediction | None = None, second: Stage[Any] | None = None, **options: Any
) -> Any:
    substages = {"second_model": second} if second else {}
    if detected:
        substages["detector"] = scripted(BibNumber, BibLines, detected, output_kind=OutputKind.LINES)
    return scripted(BibNumber, BibJson, *predictions, output_kind=OutputKind.TEXT, substages=substages, **options)


def test_parts_where_the_detector_finds_a_number_are_re_read() -> None:
    stage = vlm(replied(), replied("1042"), replied("731"), detected=lines(UNCERTAIN, CERTAIN))
    (outcome,) = stage.read([photo()])
    assert bibs(outcome) == ["1042", "731"]
    for each, place in zip(readings(outcome), (UNCERTAIN.box, CERTAIN.box), strict=True):
        assert each.box
        assert each.box.overlap(place) > 0.9


def test_a_large_photo_is_read_in_tiles_if_nothing_is_detected() -> None:
    stage = vlm(replied(), replied("1042"), replied(), detected=lines(), model={"longest_side": 512})
    (outcome,) = stage.read([photo(2000, 1000)])
    found = [(each.bib, each.box, each.verdict) for each in readings(outcome)]
    assert found == [("1042", None, Verdict.REVIEW)], "a tile may cut it off"
    assert len(stage.runtime.images) > 4
    assert stage.runtime.images[0].size == (2000, 1000)
    assert {image.size for image in stage.runtime.images[1:]} == {(512, 512)}


@pytest.mark.parametrize("whole", [replied(), replied("1042", confidence=0.99), replied("1042", confidence=0.97)])
def test_a_bib_at_the_edge_goes_to_review_after_re_reading(whole: Prediction) -> None:
    stage = vlm(whole, replied("1042", confidence=0.98), detected=lines(line("1042", 0.9, 590, 100, 640, 140)))
    (outcome,) = stage.read([photo()])
    assert [(each.bib, each.verdict) for each in readings(outcome)] == [("1042", Verdict.REVIEW)]


def test_outcomes_are_yielded_one_by_one() -> None:
    """The daemon shows progress between batches, even if photos are re-read."""
    stage = vlm(replied("1042"), detected=lines(CERTAIN), model={"batch_size": 1})
    outcomes = stage.read([photo(), photo()])
    next(outcomes)
    assert len(stage.runtime.images) == 2  # of the first photo: the whole photo and one part
    assert len(list(outcomes)) == 1


def test_parts_of_several_photos_fill_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most photos have one or two bibs, and a batch takes little longer than one part."""
    stage = vlm(replied("1042"), detected=lines(CERTAIN), model={"batch_size": 4})
    predict, batch_sizes = stage.runtime.predict_batch, []

    def counted(images: Iterable[Any], *args: Any, **kwargs: Any) -> Iterator[Prediction]:
        images = list(images)
        batch_sizes.append(len(images))
        return predict(images, *args, **kwargs)

    monkeypatch.setattr(stage.runtime, "predict_batch", counted)
    outcomes = list(stage.read([photo() for _ in range(6)]))
    assert [bibs(outcome) for outcome in outcomes] == [["1042"]] * 6
    assert batch_sizes == [6, 4, 2]


def test_the_wait_for_a_full_batch_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model may not fill a batch before the watchdog takes it for hung."""
    monkeypatch.setattr(bib_number, "_MAX_BATCH_WAIT", -1)
    stage = vlm(replied("1042"), detected=lines(CERTAIN), model={"batch_size": 8})
    outcomes = stage.read([photo(), photo()])
    next(outcomes)
    assert len(stage.runtime.images) == 2


def test_a_neighbour_in_an_uncertain_part_is_not_duplicated() -> None:
    stage = cascade(lines(UNCERTAIN, CERTAIN), replied(CERTAIN.text, "1042"))
    (outcome,) = stage.read([photo()])
    assert sorted(bibs(outcome)) == sorted([CERTAIN.text, "1042"])


def test_uncertain_parts_of_several_photos_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    second = scripted(
        BibNumber, BibJson, replied("1042"), replied("17"), output_kind=OutputKind.TEXT, model={"batch_size": 4}
    )
    first = scripted(
        BibNumber,
        BibLines,
        *(lines(UNCERTAIN), lines(), lines(CERTAIN, UNCERTAIN)),
        output_kind=OutputKind.LINES,
        substages={"second_model": second},
    )
    read, batch_sizes = second.read, []

    def counted(parts: list[Photo]) -> Iterator[Outcome]:
        batch_sizes.append(len(parts))
        return read(parts)

    monkeypatch.setattr(second, "read", counted)
    outcomes = list(first.read([photo() for _ in range(3)]))
    assert [set(bibs(outcome)) for outcome in outcomes] == [{"1042"}, set(), {"731", "1042", "17"}]
    assert batch_sizes == [2]


def test_re_reading_and_a_second_model_combine() -> None:
    better = scripted(BibNumber, BibJson, replied("1042"), output_kind=OutputKind.TEXT, model={"name": "better"})
    stage = vlm(replied(), replied("1042", confidence=0.6), detected=lines(UNCERTAIN), second=better)
    (outcome,) = stage.read([photo()])
    assert [(each.bib, each.verdict, each.model) for each in readings(outcome)] == [
        ("1042", Verdict.ACCEPTED, "better")
    ]


def test_every_look_is_evidence() -> None:
    """Records all looks and what each found, including empty and failed ones."""
    better = scripted(BibNumber, BibJson, replied("1047"), output_kind=OutputKind.TEXT, model={"name": "better"})
    fails = Prediction(error=ModelError("fell over"))
    stage = vlm(replied(), replied("1042", confidence=0.6), fails, detected=lines(UNCERTAIN, CERTAIN), second=better)
    with capture_logs():
        (outcome,) = stage.read([photo()])
    assert [(each.text, each.look, each.model, each.about) for each in outcome.candidates] == [
        ("1042", Look.DETECTOR, "scripted", None),
        ("731", Look.DETECTOR, "scripted", None),
        ("1042", Look.CROP, None, None),
        ("1047", Look.SECOND_MODEL, "better", "1042"),
    ]
    whole, detector, first, second, again = outcome.looks
    assert (whole, detector) == (LookTaken(Look.PHOTO, 0), LookTaken(Look.DETECTOR, 2, model="scripted"))
    assert (first.look, first.candidates, first.error) == (Look.CROP, 1, None)
    assert (second.look, second.candidates, second.error) == (Look.CROP, 0, "fell over")
    assert (again.look, again.candidates, again.model) == (Look.SECOND_MODEL, 1, "better")
    assert first.box
    assert first.box.overlap(UNCERTAIN.box) == pytest.approx(1)


def test_an_empty_look_of_a_second_model_is_recorded() -> None:
    (outcome,) = cascade(lines(UNCERTAIN), replied()).read([photo()])
    assert [(each.look, each.candidates, each.model) for each in outcome.looks] == [
        (Look.PHOTO, 1, None),
        (Look.SECOND_MODEL, 0, "better"),
    ]


def test_a_small_photo_without_detections_is_read_once() -> None:
    stage = vlm(replied("1042"), detected=lines())
    (outcome,) = stage.read([photo()])
    assert len(stage.runtime.images) == 1
    assert bibs(outcome) == ["1042"]


def test_crops_none_reads_once() -> None:
    stage = vlm(replied("1042"), replied("9999"), crops="none", detected=lines(UNCERTAIN))
    (outcome,) = stage.read([photo()])
    assert bibs(outcome) == ["1042"]


def test_an_outage_while_re_reading_is_the_error_of_the_photo() -> None:
    stage = vlm(replied("1042"), Prediction(error=ModelUnavailableError("away")), detected=lines(CERTAIN))
    (outcome,) = stage.read([photo()])
    assert isinstance(outcome.error, ModelUnavailableError)
    assert outcome.candidates == ()


@pytest.mark.parametrize("whole", [replied(), replied("7"), replied("finish", "14:32")])
def test_if_all_parts_fail_the_photo_fails(whole: Prediction) -> None:
    """Even if the whole photo shows numbers that are not bibs."""
    stage = vlm(whole, Prediction(error=ModelError("fell over")), detected=lines(UNCERTAIN))
    (outcome,) = stage.read([photo()])
    assert str(outcome.error) == "fell over"


def test_the_models_boxes_and_the_detectors_are_combined() -> None:
    box = {"number": "1042", "box": [200, 200, 300, 250]}
    own = Prediction(
        text=json.dumps({"bibs": [box]}),
        finish_reason=FinishReason.STOP,
        coordinates=CoordinateSpace(BoxConvention.PIXELS, 640, 480, sent=(640, 480)),
    )
    stage = vlm(own, replied("1042"), replied("731"), detected=lines(line("1042", 0.9, 205, 205, 295, 245), CERTAIN))
    (outcome,) = stage.read([photo()])
    assert len(stage.runtime.images) == 3, "the whole photo, its own box, and the detector's other box"
    assert set(bibs(outcome)) == {"1042", "731"}


def test_one_failed_part_does_not_affect_the_others() -> None:
    stage = vlm(
        replied("88"), Prediction(error=ModelError("fell over")), replied("731"), detected=lines(UNCERTAIN, CERTAIN)
    )
    with capture_logs() as logs:
        (outcome,) = stage.read([photo()])
    assert [(entry["event"], entry["parts"], entry["of"]) for entry in logs] == [("crops.failed", 1, 2)]
    assert set(bibs(outcome)) == {"88", "731"}
