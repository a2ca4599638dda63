"""The docs say what the code does: made parts are up to date, examples run, every name is explained."""

from __future__ import annotations

import inspect
import re
import sqlite3
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest
from _pytest.mark import ParameterSet

from bibwatch import cli, drawing, settings
from bibwatch.cli.demo import QUERY
from bibwatch.domain.states import MEANING, TRANSITIONS, State
from bibwatch.ingest.camera import Camera
from bibwatch.settings import CameraSettings, Settings
from bibwatch.stages.bib_number import BibNumberOptions
from bibwatch.store.database import Database
from bibwatch.store.schema import VIEWS
from public_api import CHAPTERS
from servers import Server, chat

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, name: str = "") -> list[ParameterSet]:
    """Return the code blocks of a language, in README and docs, or in one page of them."""
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        if name in ("", page.name)
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))
    ]


def test_the_made_parts_are_up_to_date() -> None:
    """`make docs` would change nothing: settings, options, commands, states, exit codes, views, metrics."""
    pages = [str(page) for page in PAGES]
    ran = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "-I", str(ROOT / "docs"), *pages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"run `make docs`\n{ran.stdout}{ran.stderr}"


@pytest.mark.parametrize("block", blocks("sql"))
def test_sql_runs(block: str, tmp_path: Path) -> None:
    """Each query of the docs is one that the database of a new installation answers."""
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate()
    database.close()
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute(block)
    connection.close()


@pytest.mark.parametrize("block", blocks("toml"))
def test_toml_is_a_configuration(block: str, tmp_path: Path) -> None:
    """Each configuration of the docs loads, and the stage and preset it names can be made."""
    (tmp_path / "config.toml").write_text(block)
    found = settings.load(tmp_path / "config.toml")
    found.registry().stage(found.stage, found.preset)


@pytest.mark.heavy
@pytest.mark.parametrize("block", blocks("python", "library.md"))
def test_the_library_works_as_the_docs_have_it(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: Server
) -> None:
    """Each piece of Python in docs/library.md is at most ten lines, runs, and prints something."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(drawing.jpeg(drawing.photo(("1042",))))
    assert len(block.strip().splitlines()) <= 10
    assert not re.search(r"^with .*\.runtime:", block, re.MULTILINE), "the stage: further models come and go with it"
    server.answer = lambda _: chat("A banner: CITY RUN.")
    exec(compile(block.replace("http://127.0.0.1:8000/v1", server.url), "library.md", "exec"), {})  # noqa: S102
    said = capsys.readouterr().out
    assert "1042" in said or "A banner: CITY RUN." in said or "Describe this picture" in said


def test_config_toml_is_complete_and_holds_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every setting is named in it; read as it is, it changes nothing."""
    text = (ROOT / "config.toml").read_text()
    monkeypatch.chdir(tmp_path)
    mine, default = settings.load(ROOT / "config.toml"), settings.load()
    assert mine.model_dump(exclude={"stages"}) == default.model_dump(exclude={"stages"})
    made, plain = (each.registry().stage("bib_number", "rapidocr").options for each in (mine, default))
    assert made == plain
    for model in (
        Settings,
        CameraSettings,
        *(type(getattr(default, name)) for name in ("ingest", "images", "pipeline")),
    ):
        for name in model.model_fields:
            assert re.search(rf"^(# )?(\[{name}[\].]|{name} = |\[{name}\])|^# \[{name}\.", text, re.MULTILINE), name
    stage = text.partition("[stages.bib_number]")[2]
    for name in BibNumberOptions.model_fields.keys() - {"kind", "model_options"}:  # a preset is named, not written out
        assert re.search(rf"^(# )?{name} = |^\[stages\.bib_number\.{name}\]", stage, re.MULTILINE), name


def test_the_commented_parts_of_config_toml_work() -> None:
    """What is commented out is configuration too."""
    text = re.sub(
        r"^# (\[|\w+ = [^.]*$|base|path|watch)", r"\1", (ROOT / "config.toml").read_text(), flags=re.MULTILINE
    )
    text = text.replace("\n[presets]\n", "\n").replace('prompt = "..."', 'prompt = "Read."')
    table = tomllib.loads(text)
    assert table["cameras"]["finish"]["path"] == "/srv/drop/finish"
    assert table["presets"]["rapidocr-quick"]["base"] == "rapidocr"


@pytest.mark.parametrize(
    ("module", "names"), [(module, names) for chapter in CHAPTERS.values() for module, names in chapter.items()]
)
def test_the_public_api_is_what_its_list_says(module: str, names: str) -> None:
    """A public name that comes or goes belongs in docs/public_api.py, docs/api.md and the changelog."""
    found = import_module(module)
    here = (
        name
        for name, thing in vars(found).items()
        if name[0] != "_" and inspect.isroutine(thing) | inspect.isclass(thing) and thing.__module__ == module
    )
    assert names.split() == sorted(getattr(found, "__all__", here))
    for name in names.split():
        assert inspect.getdoc(getattr(found, name)), name


def test_every_noun_of_the_domain_is_public() -> None:
    listed = {module for chapter in CHAPTERS.values() for module in chapter}
    assert {f"bibwatch.domain.{file.stem}" for file in (ROOT / "src/bibwatch/domain").glob("[a-z]*.py")} <= listed


def test_every_command_has_help_for_every_option() -> None:
    group = cli.cli
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert command.help, name
        for parameter in command.get_params(context):
            assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.name}"  # type: ignore[attr-defined]


def test_every_view_and_its_columns_are_explained() -> None:
    """docs/sql.md has a chapter for each view that names each of its columns."""
    text = (ROOT / "docs" / "sql.md").read_text().split("## The views, as they are")[0]
    chapters = dict(re.findall(r"^## (\w+):.*?$\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL))
    assert chapters.keys() == VIEWS.keys()
    for view, chapter in chapters.items():
        select = VIEWS[view].split("FROM")[0]
        names = {
            re.sub(r"(?s).*[ .]", "", part.strip())
            for part in re.sub(r"\(.*?\)", "", select.replace("SELECT", "")).split(",")
        }
        for name in names:
            assert f"`{name}`" in chapter, f"{view}.{name}"


def test_every_state_has_a_meaning_and_its_successors() -> None:
    assert MEANING.keys() == TRANSITIONS.keys() == set(State)


def test_every_state_of_a_camera_is_explained() -> None:
    text = (ROOT / "docs" / "states.md").read_text()
    assert Camera.__doc__
    for state in ("watching", "polling", "missing", "unreadable"):
        assert f"`{state}`" in text.split("## States of a camera folder")[1]


def test_the_demo_shows_the_first_query_of_the_docs() -> None:
    (first,) = re.findall(r"```sql\n(.*?)\n```", (ROOT / "docs" / "sql.md").read_text(), re.DOTALL)[:1]
    assert first == QUERY


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "benchmarks" / "README.md"]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_architecture_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "src" / "bibwatch").iterdir():
        if not path.name.startswith("_") and path.name != "py.typed":
            name = path.name.removesuffix(".py").removesuffix(".toml")
            assert f"`{name}/`" in text or f"`{name}`" in text, name
