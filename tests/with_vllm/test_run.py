"""`bibwatch run` with a real vLLM server: the replies are recorded in SQL."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture
def run(server: Any, tmp_path: Path, draw: Callable[..., bytes]) -> Callable[..., list[tuple[Any, ...]]]:
    """Describe three photos with `bibwatch run --once` and a custom preset; return the rows in the database."""
    camera = tmp_path / "finish"
    camera.mkdir()
    for number in range(3):
        (camera / f"{number}.jpg").write_bytes(draw(str(number), seed=number))

    def run(**preset: Any) -> list[tuple[Any, ...]]:
        tiny = {"kind": "vision_openailike_api", "api_url": server.url, "model_name": "tiny", "max_new_tokens": 32}
        environment = os.environ | {
            "BIBWATCH_CAMERAS": json.dumps({"finish": {"path": str(camera)}}),
            "BIBWATCH_INGEST__SETTLE_SECONDS": "0.1",
            "BIBWATCH_PRESETS": json.dumps({"tiny": tiny | preset}),
            "BIBWATCH_PRESET": "tiny",
            "BIBWATCH_STAGE": "picture_description",
        }
        done = subprocess.run(
            [sys.executable, "-m", "bibwatch", "run", "--once"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert (tmp_path / "bibwatch.db").exists(), done.stderr
        with sqlite3.connect(tmp_path / "bibwatch.db") as database:
            return database.execute(
                "SELECT s.path, s.state, s.error, o.model, o.device, o.output_json "
                "FROM image_status s LEFT JOIN stage_outputs o USING (image_id) ORDER BY s.path"
            ).fetchall()

    return run


def test_descriptions_are_recorded(server: Any, run: Callable[..., list[tuple[Any, ...]]], tmp_path: Path) -> None:
    """Constrained, because a model with random weights does not stop."""
    rows = run(extra_body={"structured_outputs": {"regex": "[a-z]{6}"}})
    assert [row[:5] for row in rows] == [
        (str(tmp_path / "finish" / f"{number}.jpg"), "done", None, "tiny", server.url[7:-3]) for number in range(3)
    ]
    for row in rows:
        assert '"description": "' in row[5]


def test_replies_that_were_cut_off_are_not_recorded(run: Callable[..., list[tuple[Any, ...]]]) -> None:
    rows = run(max_new_tokens=4)
    assert [row[1] for row in rows] == ["failed"] * 3
    for row in rows:
        assert "max_new_tokens" in row[2]
        assert row[5] is None
