"""Plugins: which are allowed, what is wrong with them, and that a broken one does not affect the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bibwatch import cli
from bibwatch.errors import ConfigurationError
from bibwatch.plugins import Plugins
from bibwatch.registry import Registry

Install = Callable[..., Path]


@pytest.fixture
def allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Change to an empty folder; return a function that allows a plugin there."""
    monkeypatch.chdir(tmp_path)
    return lambda name: monkeypatch.setenv("BIBWATCH_PLUGINS", json.dumps([name]))


_STAGE = """
    from typing import ClassVar, Literal
    from bibwatch.interpreters.plain_text import PlainTextOptions
    from bibwatch.runtimes.base import OutputKind
    from bibwatch.stages.base import Outcome, Stage, StageOptions
    from pydantic import Field

    class Options(StageOptions):
        interpreters = {OutputKind.TEXT: PlainTextOptions()}
        kind: Literal["{kind}"] = "{kind}"
        FIELD

    class Plugin(Stage[Options]):
        options_type = Options
        def interpret(self, photo, prediction):
            return Outcome(output={"said": prediction.text})
"""


@pytest.mark.parametrize(
    ("group", "source", "message"),
    [
        ("runtimes", "1 / 0", "cannot be used: ZeroDivisionError: division by zero"),
        ("stages", "raise SystemExit('no licence')", "cannot be used: SystemExit: no licence"),
        ("stages", "class Plugin: pass", "is not a subclass of Stage"),
        ("interpreters", "Plugin = 7", "is not a subclass of Interpreter"),
        (
            "runtimes",
            "from bibwatch.runtimes.base import Runtime as Plugin",
            "does not define close, load, predict_batch",
        ),
        (
            "stages",
            _STAGE.replace("options_type = Options", ""),
            "has no options_type that is a subclass of StageOptions",
        ),
        ("stages", _STAGE.replace("options_type = Options", "options_type = dict"), "has no options_type that is a"),
        ("stages", _STAGE.replace('"{kind}"', '"other"'), "has options of kind 'other'; entry point and kind must be"),
        ("stages", _STAGE.replace("FIELD", "x: int = Field(default_factory=lambda: 1 // 0)"), "ZeroDivisionError"),
        ("presets", "Plugin = [1]", "is not a table of presets"),
        ("presets", "from pathlib import Path\nPlugin = Path('no.toml')", "FileNotFoundError"),
        ("presets", "from pathlib import Path\nPlugin = Path(__file__)", "TOMLDecodeError"),
        ("presets", "Plugin = {'mine': 3}", "has a preset 'mine' that is not a table: 3"),
        ("presets", "Plugin = {5: {'kind': 'vision_ocr'}}", "has a preset 5 that is not a table"),
        (
            "presets",
            "class T(dict):\n    def items(self): raise OSError('gone')\nPlugin = T()",
            "OSError: gone",
        ),
    ],
)
def test_a_problem_is_reported_in_one_line_and_the_rest_works(
    install: Install, allow: Callable[[str], None], group: str, source: str, message: str
) -> None:
    allow("bibwatch-broken")
    install("bibwatch-broken", "odd", source.replace("FIELD", "pass"), group=group)
    for words in (["presets"], ["stages"], ["config"], ["read", "--help"]):
        done = CliRunner().invoke(cli.cli, words)
        assert (done.exit_code, done.exception) == (0, None), words
    (row,) = map(json.loads, CliRunner().invoke(cli.cli, ["plugins", "--json"]).stdout.splitlines())
    assert message in row["problem"]
    assert "\n" not in row["problem"]
    assert "bibwatch-broken (plugin_bibwatch_broken:Plugin)" in row["problem"]


def test_a_good_one_is_in_use(install: Install, allow: Callable[[str], None]) -> None:
    allow("bibwatch-good")
    install("bibwatch-good", "odd", _STAGE.replace("FIELD", "dark: float = 0.5"), group="stages")
    (row,) = map(json.loads, CliRunner().invoke(cli.cli, ["plugins", "--json"]).stdout.splitlines())
    assert row["problem"] is None
    assert "--stage-odd-dark NUMBER" in CliRunner().invoke(cli.cli, ["stages", "odd"]).stdout
    Registry(["bibwatch-good"]).stage("odd", "qwen-vllm")


@pytest.mark.parametrize(
    ("group", "name", "source"),
    [
        ("stages", "table", _STAGE),
        ("presets", "rapidocr", "Plugin = {'rapidocr': {'kind': 'vision_ocr'}}"),
    ],
)
def test_a_duplicate_name_is_an_error_that_names_both(install: Install, group: str, name: str, source: str) -> None:
    install("bibwatch-twice", name, source.replace("FIELD", "pass"), group=group)
    registry = Registry(["bibwatch-twice"])
    problems = registry.plugins.problems()
    assert {plugin.distribution for plugin in problems} == {"bibwatch", "bibwatch-twice"}
    for said in problems.values():
        assert re.search(rf"{name} is defined 2 times: by bibwatch \(.*and by bibwatch-twice \(", said)
    with pytest.raises(ConfigurationError, match="is defined 2 times"):
        registry.stage("table", "rapidocr")
    registry.stage("picture_description", "qwen-vllm")


def test_two_plugins_may_not_provide_the_same_preset(install: Install) -> None:
    for plugin in ("bibwatch-one", "bibwatch-two"):
        install(plugin, "set", "Plugin = {'new': {'kind': 'vision_ocr'}}", group="presets")
    registry = Registry(["bibwatch-one", "bibwatch-two"])
    with pytest.raises(ConfigurationError, match=r"preset new is defined 2 times: .*bibwatch-one .*bibwatch-two"):
        registry.model_options("new")
    assert registry.model_options("rapidocr")


def test_presets_may_be_a_toml_file(install: Install, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[presets.mine]\nbase = "rapidocr"\nlongest_side = 640\n')
    source = "from pathlib import Path\nPlugin = Path(__file__).with_name('mine.toml')"
    install("bibwatch-file", "set", source, group="presets")
    assert Registry(["bibwatch-file"]).model_options("mine").longest_side == 640


def test_a_preset_may_be_made_in_code(install: Install) -> None:
    source = """
        from bibwatch.runtimes.openai import VisionOpenAILikeApiOptions
        Plugin = {"made": VisionOpenAILikeApiOptions(api_url="http://127.0.0.1:1/v1", model_name="m", batch_size=3)}
    """
    install("bibwatch-made", "set", source, group="presets")
    options = Registry(["bibwatch-made"]).model_options("made")
    assert (options.kind, options.batch_size, options.name) == ("vision_openailike_api", 3, "made")


def test_one_that_is_allowed_and_not_installed_is_listed(allow: Callable[[str], None]) -> None:
    """`plugins` must not fail because of it; `run` does."""
    allow("bibwatch-absent")
    done = CliRunner().invoke(cli.cli, ["plugins"])
    assert "bibwatch-absent: is not installed" in done.stdout
    with pytest.raises(ConfigurationError, match="plugins: bibwatch-absent is not installed"):
        Plugins(["bibwatch-absent"]).check()


def test_one_that_is_not_allowed_is_never_imported(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = install("bibwatch-closed", "vision_closed")
    for words in (["plugins"], ["presets"], ["stages"], ["read", "--help"], ["config"]):
        assert CliRunner().invoke(cli.cli, words).exit_code == 0
    assert not mark.exists()
    assert "bibwatch-closed is not allowed and was not imported; to allow it" in (
        CliRunner().invoke(cli.cli, ["plugins"]).stdout
    )
