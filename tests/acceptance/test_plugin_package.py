"""A real third-party package, built and installed by pip: it brings one of each, and they work everywhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

PACKAGE = Path(__file__).parents[1] / "plugins" / "bibwatch-exposure"
DOCS = Path(__file__).parents[2] / "docs" / "plugins.md"
ALLOWED = {"BIBWATCH_PLUGINS": '["bibwatch-exposure"]'}

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package beside the environment, not in it; return the folder it is in."""
    place = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, place / "source")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
    )
    subprocess.run([*pip, "--target", str(place / "site"), str(source)], check=True)
    return place / "site"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Iterator[Run]:
    """Run bibwatch in an empty folder where the package is installed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("BIBWATCH_")}

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bibwatch", *words],
            cwd=tmp_path,
            env={**plain, "PYTHONPATH": str(installed), "COLUMNS": "120", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    yield run
    assert not list(tmp_path.rglob("*_scaled*"))


def plugins(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return {row["group"]: row for row in map(json.loads, done.stdout.splitlines())}


def test_not_allowed_it_is_listed_but_not_imported(run: Run, installed: Path) -> None:
    done = run("plugins", "--json")
    found = plugins(done)
    assert found.keys() == {"runtimes", "interpreters", "stages", "presets"}
    for row in found.values():
        assert not row["allowed"]
        assert 'to allow it: plugins = ["bibwatch-exposure"] in config.toml' in str(row["problem"])
    mark = installed / "bibwatch_exposure" / "imported"
    module = installed / "bibwatch_exposure" / "__init__.py"
    module.write_text("from pathlib import Path\nPath(__file__).with_name('imported').touch()\n")
    run("presets")
    run("read", "--help")
    assert not mark.exists(), "it was imported"
    run("presets", **ALLOWED)
    assert mark.exists(), "this test cannot fail"


def test_not_allowed_none_of_it_can_be_chosen_and_one_line_says_how(run: Run) -> None:
    done = run("stages", BIBWATCH_STAGE="exposure")
    assert "exposure" not in done.stdout
    done = run("config", BIBWATCH_PRESET="light-meter")
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert 'does bibwatch-exposure provide it? to allow it: plugins = ["bibwatch-exposure"]' in line


def test_allowed_all_of_it_is_in_use(run: Run) -> None:
    found = plugins(run("plugins", "--json", **ALLOWED))
    assert [row["problem"] for row in found.values()] == [None] * 4
    assert "in use" in run("plugins", **ALLOWED).stdout


def test_it_is_among_presets_stages_and_choices(run: Run) -> None:
    assert "light-meter" in run("presets", **ALLOWED).stdout
    assert "exposure" in run("stages", **ALLOWED).stdout
    text = " ".join(run("stages", "exposure", **ALLOWED).stdout.split())
    assert "--stage-exposure-dark NUMBER Photos darker than this share of white are too dark. [default: 0.15]" in text


def test_it_reads(run: Run, tmp_path: Path) -> None:
    for name, grey in (("night.jpg", 10), ("noon.jpg", 128)):
        Image.new("L", (64, 64), grey).save(tmp_path / name)
    words = ("read", "--stage", "exposure", "--preset", "light-meter", "night.jpg", "noon.jpg")
    done = run(*words, **ALLOWED)
    assert done.stdout.splitlines() == ["night.jpg: dark (4%)", "noon.jpg: fine (50%)"], done.stderr
    done = run(*words, "--stage-exposure-dark", "0.01", "--json", **ALLOWED)
    assert [json.loads(line)["output"]["exposure"] for line in done.stdout.splitlines()] == ["fine", "fine"]


def test_the_daemon_runs_it_and_records_what_it_says(run: Run, tmp_path: Path) -> None:
    (tmp_path / "finish").mkdir()
    Image.new("L", (64, 64), 250).save(tmp_path / "finish" / "a.jpg")
    done = run(
        *("run", "--once", "--stage", "exposure", "--preset", "light-meter", "--camera", "finish=finish"),
        **ALLOWED,
    )
    assert done.returncode == 0, done.stderr
    connection = sqlite3.connect(tmp_path / "bibwatch.db")
    rows = connection.execute("SELECT stage, preset, json_extract(output_json, '$.exposure') FROM stage_outputs")
    assert rows.fetchall() == [("exposure", "light-meter", "bright")]
    connection.close()


def test_a_stage_it_was_not_made_for_is_refused(run: Run) -> None:
    done = run("read", "--preset", "light-meter", "no.jpg", **ALLOWED)
    assert done.returncode == 78
    assert done.stderr == (
        "bibwatch: stages.bib_number: preset light-meter was made for exposure and cannot do bib_number\n"
    )


def test_the_transcript_of_the_docs(run: Run, installed: Path, tmp_path: Path) -> None:
    """docs/plugins.md shows what really comes of each command."""
    (block,) = re.findall(r"```console\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for name, grey in (("night.jpg", 10), ("noon.jpg", 128)):
        Image.new("L", (64, 64), grey).save(tmp_path / name)
    commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    script = f'bibwatch() {{ "{sys.executable}" -m bibwatch "$@"; }}\n' + "".join(
        f"echo '$ '{shlex.quote(command)}\n{command} 2>&1\n" for command in commands
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    assert said == [line for line in block.splitlines() if line.strip()]


def test_its_own_tests_pass(run: Run, installed: Path, tmp_path: Path) -> None:
    """The conformance classes can be imported and subclassed by a package that is not bibwatch."""
    tests = PACKAGE / "tests" / "test_conformance.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tests)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
