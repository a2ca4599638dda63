"""Small models, trained from scratch, that can read: with runtime, stage, daemon and cascade."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bibwatch import drawing
from bibwatch.images import Photo
from bibwatch.registry import Registry
from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions
from trained import BOTH, FORM, QWEN2VL, SMOLVLM, UNTAUGHT, bibs, pictures, readings, reply

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.local

NUMBERS = bibs(48)
PRESET = {
    "kind": "vision_hf_transformers",
    "repo_id": str(SMOLVLM),
    "device": "cpu",
    "dtype": "float32",
    "batch_size": 16,
    "max_new_tokens": 32,
}
STAGE = {"crops": "none"}


def predict(checkpoint: Path, numbers: list[str], **changes: Any) -> list[Prediction]:
    options = VisionHfTransformersOptions.model_validate(
        PRESET | {"name": "tiny", "repo_id": str(checkpoint)} | changes
    )
    with VisionHfTransformers(options) as runtime:
        return list(runtime.predict_batch(pictures(numbers), "Which bib?"))


@pytest.fixture(scope="module", params=BOTH, ids=lambda folder: folder.name)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture(scope="module")
def said(checkpoint: Path) -> list[str]:
    return [each.text for each in predict(checkpoint, NUMBERS + UNTAUGHT)]


def test_it_reads(said: list[str]) -> None:
    right = [text == reply(bib) for text, bib in zip(said, NUMBERS, strict=False)]
    assert sum(right) >= 44


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"use_kv_cache": False}, {"family": "generic"}], ids=str)
def test_replies_do_not_depend_on_batch_size_cache_or_family(
    checkpoint: Path, said: list[str], changes: dict[str, Any]
) -> None:
    assert [each.text for each in predict(checkpoint, NUMBERS + UNTAUGHT, **changes)] == said


def test_high_probabilities_are_mostly_correct() -> None:
    registry = Registry(presets={"tiny": PRESET}, stages={"bib_number": STAGE})
    with registry.stage("bib_number", "tiny") as stage:
        photos = [Photo(image, *image.size, "0" * 64, None) for image in pictures(NUMBERS)]
        outcomes = list(stage.read(photos))
    read = [
        (reading.bib == bib, reading.probability)
        for bib, each in zip(NUMBERS, outcomes, strict=True)
        for reading in readings(each)
    ]
    assert len(read) >= 44
    accepted = [right for right, confidence in read if confidence >= 0.95]
    assert len(accepted) >= 30
    assert sum(accepted) >= 0.97 * len(accepted)


def test_the_daemon_records_the_output_of_read(tmp_path: Path) -> None:
    """`run --once` over drawn bibs into SQLite, and `read` of the same files."""
    folder = tmp_path / "finish"
    folder.mkdir()
    for place, (bib, image) in enumerate(zip(NUMBERS[:12], pictures(NUMBERS[:12]), strict=True)):
        (folder / f"{place:02}-{bib}.jpg").write_bytes(drawing.jpeg(image, quality=95))
    environment = os.environ | {
        "BIBWATCH_PRESETS": json.dumps({"tiny": PRESET}),
        "BIBWATCH_STAGES": json.dumps({"bib_number": STAGE}),
        "BIBWATCH_PRESET": "tiny",
        "BIBWATCH_RACE__BIBS": FORM,
        "BIBWATCH_INGEST__SETTLE_SECONDS": "0.1",
    }

    def bibwatch(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bibwatch", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    bibwatch("run", "--once", "--camera", f"finish={folder}")
    rows = [json.loads(line) for line in bibwatch("read", "--json", *map(str, sorted(folder.iterdir()))).splitlines()]
    said = {(row["path"], each["bib"], each["verdict"]) for row in rows for each in row["bibs"]}
    connection = sqlite3.connect(tmp_path / "bibwatch.db")
    recorded = set(connection.execute("SELECT path, bib, verdict FROM bib_results"))
    models = set(connection.execute("SELECT DISTINCT model, device, preset FROM bib_results"))
    connection.close()
    assert recorded == said
    assert models == {(str(SMOLVLM), "cpu", "tiny")}
    assert sum(f"-{bib}.jpg" in path for path, bib, _ in recorded) >= 10


def whole(bibs: tuple[str, ...], seed: int) -> Photo:
    image = drawing.photo(bibs, seed=seed)
    return Photo(image, *image.size, "0" * 64, None)


def test_several_bibs_in_one_photo_are_cropped_and_re_read(checkpoint: Path) -> None:
    """The model sees only a few pixels of the whole photo, but can read the places where the OCR found numbers."""
    preset = PRESET | {"repo_id": str(checkpoint)}
    registry = Registry(presets={"tiny": preset}, stages={"bib_number": STAGE | {"crops": "auto"}})
    shown = [("731",), ("204", "918"), ("117", "305", "660"), ("042",), ("529", "486"), ("873", "190", "254")]
    with registry.stage("bib_number", "tiny") as stage:
        outcomes = list(stage.read(whole(some, seed) for seed, some in enumerate(shown)))
    read = [{reading.bib: reading for reading in readings(outcome)} for outcome in outcomes]
    right = sum(bib in found for some, found in zip(shown, read, strict=True) for bib in some)
    assert right >= 9  # of 12
    for found in read:
        boxes = [reading.box for reading in found.values() if reading.box]
        assert len(boxes) == len(found), "each is where it was seen"
        assert len({round(box.x1) for box in boxes}) == len(boxes), "one bib beside the other"


def test_a_doubtful_bib_is_decided_by_the_second_model() -> None:
    presets = {folder.name: PRESET | {"repo_id": str(folder)} for folder in BOTH}
    stage_table = STAGE | {"crops": "auto", "second_model_options": QWEN2VL.name}
    registry = Registry(presets=presets, stages={"bib_number": stage_table})
    shown = {9: ("160", "115"), 12: ("587",), 36: ("339",), 39: ("610", "694", "724", "346")}
    with registry.stage("bib_number", SMOLVLM.name) as stage:
        outcomes = list(stage.read(whole(some, seed) for seed, some in shown.items()))
    assert [outcome.error for outcome in outcomes] == [None] * 4
    read = [reading for outcome in outcomes for reading in readings(outcome)]
    decided = {reading.bib for reading in read if reading.model == str(QWEN2VL) and reading.verdict == "accepted"}
    assert decided & {"160", "587", "339", "346"}, "where they agree, and it is surer"
    assert any(reading.model is None and reading.verdict == "accepted" for reading in read), "the first was sure"
