"""Nothing heavy is imported before a model is really wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_HEAVY = {"torch", "torchvision", "transformers", "vllm", "mlx", "mlx_vlm", "onnxruntime", "openvino"}
_HEAVY |= {"rapidocr", "cv2", "numpy"}

_CODE = """
import json, sys
try:
    {statement}
except SystemExit as exc:
    assert not exc.code, exc.code
finally:
    print(json.dumps(sorted(name.partition(".")[0] for name in sys.modules)), file=sys.stderr)
"""


def command(*words: str) -> str:
    return f"sys.argv[:] = {['bibwatch', *words]}; from bibwatch.cli import main; main()"


def imported(statement: str, folder: Path) -> set[str]:
    """Run a statement in a fresh Python; return the packages it imported."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(statement=statement)],
        cwd=folder,
        env=outside,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import bibwatch",
        "import bibwatch.settings, bibwatch.registry, bibwatch.presets",
        "import bibwatch.runtimes.ocr, bibwatch.stages.bib_number",
        "import bibwatch.runtimes.transformers.runtime, bibwatch.runtimes.mlx, bibwatch.runtimes.vllm",
        "import bibwatch.runtimes.openai.runtime, bibwatch.stages.table, bibwatch.plugins",
        "import bibwatch.daemon",
        "import image_rec_mod.main",
        "import bibwatch.comparison, bibwatch.judging, bibwatch.evaluation_report",
        command("--help"),
        command("run", "--help"),
        command("read", "--help"),
        command("eval", "--help"),
        command("presets"),
        command("presets", "--json"),
        command("stages"),
        command("plugins"),
        command("config"),
    ],
)
def test_nothing_heavy_is_imported(statement: str, tmp_path: Path) -> None:
    assert imported(statement, tmp_path) & _HEAVY == set()


def test_importing_bibwatch_imports_next_to_nothing(tmp_path: Path) -> None:
    """Not even what the command line needs."""
    assert imported("import bibwatch", tmp_path) & {"click", "pydantic", "sqlalchemy", "PIL", "rich"} == set()


def test_judging_needs_no_picture_and_no_database(tmp_path: Path) -> None:
    assert imported("import bibwatch.judging", tmp_path) & {"PIL", "sqlalchemy", "structlog"} == set()


def test_help_needs_neither_database_nor_settings(tmp_path: Path) -> None:
    assert imported(command("--help"), tmp_path) & {"sqlalchemy", "alembic", "pydantic_settings", "PIL"} == set()


def test_a_heavy_import_would_be_seen(tmp_path: Path) -> None:
    """The test above can fail."""
    assert "numpy" in imported("import numpy", tmp_path)
