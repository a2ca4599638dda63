"""Small models that were trained from scratch and really read: through runtime, stage, daemon, cascade."""

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
from bibwatch.runtimes.hf_transformers import VisionHfTransformers, VisionHfTransformersOptions
from trained import BOTH, SMOLVLM, UNTAUGHT, bibs, pictures, reply

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
STAGE = {"model_interpreter_options": {"pattern": r"\d{1,3}"}, "crops": "none"}


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
def test_it_says_the_same_however_it_is_asked(checkpoint: Path, said: list[str], changes: dict[str, Any]) -> None:
    assert [each.text for each in predict(checkpoint, NUMBERS + UNTAUGHT, **changes)] == said


def test_it_is_surer_of_what_it_reads_right() -> None:
    registry = Registry(presets={"tiny": PRESET}, stages={"bib_number": STAGE})
    with registry.stage("bib_number", "tiny") as stage:
        photos = [Photo(image, *image.size, "0" * 64, None) for image in pictures(NUMBERS)]
        outcomes = list(stage.read(photos))
    read = [
        (reading.bib == bib, reading.confidence)
        for bib, each in zip(NUMBERS, outcomes, strict=True)
        for reading in each.readings
    ]
    assert len(read) >= 44
    accepted = [right for right, confidence in read if confidence >= 0.95]
    assert len(accepted) >= 30
    assert sum(accepted) >= 0.97 * len(accepted)


def test_the_daemon_records_what_read_says(tmp_path: Path) -> None:
    """`run --once` over drawn bibs into SQLite, and `read` of the same files."""
    folder = tmp_path / "finish"
    folder.mkdir()
    for place, (bib, image) in enumerate(zip(NUMBERS[:12], pictures(NUMBERS[:12]), strict=True)):
        (folder / f"{place:02}-{bib}.jpg").write_bytes(drawing.jpeg(image, quality=95))
    environment = os.environ | {
        "BIBWATCH_PRESETS": json.dumps({"tiny": PRESET}),
        "BIBWATCH_STAGES": json.dumps({"bib_number": STAGE}),
        "BIBWATCH_PRESET": "tiny",
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


def test_a_doubtful_bib_of_the_ocr_is_decided_by_the_second_model() -> None:
    """Everything is doubtful here: the OCR has to be surer than it can be."""
    stage_table = STAGE | {"second_model_options": "tiny", "accept_confidence": 0.9999, "edge": 0.0}
    registry = Registry(presets={"tiny": PRESET}, stages={"bib_number": stage_table})
    image = drawing.photo(("731",), size=(1200, 800), seed=3)
    with registry.stage("bib_number", "rapidocr") as stage:
        (outcome,) = stage.read([Photo(image, *image.size, "0" * 64, None)])
    assert outcome.error is None
    assert "731" in {reading.bib for reading in outcome.readings}
    assert {reading.model for reading in outcome.readings if reading.bib == "731"} <= {None, str(SMOLVLM)}
