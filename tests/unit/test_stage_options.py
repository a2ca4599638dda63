"""`--stage`, `--preset` and `--stage-NAME-OPTION`: built from the registry, validated, and put into the settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from bibwatch import cli
from bibwatch.cli.stage_options import StageCommand, StageOption
from bibwatch.errors import ConfigurationError
from bibwatch.registry import Registry

Invoke = Callable[..., Result]
READING = ("read", "run", "config", "compare", "eval")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Return a function that calls bibwatch in an empty folder and raises what it raises."""
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str) -> Result:
        result = CliRunner().invoke(cli.cli, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def stages(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["stages"]
    return found


@pytest.mark.parametrize("name", READING)
def test_every_command_that_reads_photos_has_an_option_for_every_option_of_every_stage(name: str) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert isinstance(command, StageCommand)
    flags = {option.opts[0] for option in command.get_params(click.Context(command)) if isinstance(option, StageOption)}
    registry = Registry()
    for stage in registry.stages:
        assert f"--stage-{stage}-model".replace("_", "-") in flags
        assert f"--stage-{stage}-interpreter".replace("_", "-") in flags
        options_type = registry.stage_class(stage).options_type
        for field in options_type.model_fields:
            if field in options_type.submodels:
                assert f"--stage-{stage}-{field}".removesuffix("_options").replace("_", "-") in flags
            elif field not in ("kind", "model_options", "model_interpreter_options"):
                assert f"--stage-{stage}-{field}".replace("_", "-") in flags


@pytest.mark.parametrize("name", READING)
def test_the_generated_options_have_help(name: str) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command
    options = [option for option in command.get_params(click.Context(command)) if isinstance(option, click.Option)]
    assert sum(isinstance(option, StageOption) for option in options) > 30
    for option in options:
        assert option.help, option.opts


@pytest.mark.parametrize("name", READING)
def test_help_fits_two_screens_and_refers_to_the_rest(invoke: Invoke, name: str) -> None:
    text = invoke(name, "--help").output
    assert len(text.splitlines()) <= 90
    assert "--stage-bib-number" not in text
    for command in ("`bibwatch stages NAME`", "`bibwatch presets`"):
        assert command in " ".join(text.split())


def test_stages_name_shows_the_options_of_a_stage_with_types_and_defaults(invoke: Invoke) -> None:
    text = " ".join(invoke("stages", "bib_number").output.split())
    assert "--stage-bib-number-ask-below NUMBER" in text
    assert "[default: 0.95]" in text
    assert "--stage-table" not in text
    assert "--stage-table-labels JSON" in invoke("stages", "table").output
    (row,) = map(json.loads, invoke("stages", "table", "--json").stdout.splitlines())
    assert row["stage"] == "table"


def test_stages_name_of_an_unknown_stage_names_the_nearest(invoke: Invoke) -> None:
    result = invoke("stages", "bib_numbr")
    assert result.exit_code == 2
    assert "unknown stage 'bib_numbr'; did you mean 'bib_number'?" in result.output


def test_presets_lists_the_default_then_those_that_run_here_then_the_rest(invoke: Invoke) -> None:
    Path("config.toml").write_text('preset = "qwen_vllm"\n')
    rows = [json.loads(line) for line in invoke("presets", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows if row["default"]] == [rows[0]["name"]] == ["qwen-vllm"]
    runs = [row["runs_here"] for row in rows[1:]]
    assert runs == sorted(runs, key=[True, None, False].index)
    assert runs[0] is True
    assert invoke("presets").output.splitlines()[3].split()[:2] == ["qwen-vllm", "(default)"]


def test_a_value_goes_into_the_configuration(invoke: Invoke) -> None:
    result = invoke("config", "--stage-bib-number-ask-below", "0.5", "--stage-bib-number-crops", "tiles")
    assert stages(result)["bib_number"] == {"ask_below": "0.5", "crops": "tiles"}


def test_it_overrides_config_toml_and_leaves_the_rest(invoke: Invoke) -> None:
    Path("config.toml").write_text("[stages.bib_number]\nask_below = 0.1\ncrops = 'none'\n")
    result = invoke("config", "--stage-bib-number-ask-below=0.2")
    assert stages(result)["bib_number"] == {"ask_below": "0.2", "crops": "none"}


def test_help_shows_what_is_configured_as_the_default(invoke: Invoke) -> None:
    Path("mine.toml").write_text('[stages.sheet]\nkind = "table"\nimage_scale = 3.5\n')
    for words in (("--config", "mine.toml"), ("--config=mine.toml",)):
        text = " ".join(invoke("stages", "sheet", *words).output.split())
        assert (
            "--stage-sheet-image-scale NUMBER "
            "Scale factor for regions before they are sent to the model. [default: 3.5]" in text
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--stage-bib-number-ask-below", "all"),
            "number-ask-below': 'all': Input should be a valid number",
        ),
        (("--stage-bib-number-ask-below", "1.7"), "less than or equal to 1"),
        (("--stage-bib-number-crops", "near"), "Input should be 'auto', 'none', 'boxes', 'detector' or 'tiles'"),
        (("--stage-bib-nummer-crops", "none"), "No such option '--stage-bib-nummer-crops'"),
        (("--stage", "bibnumber"), "unknown stage 'bibnumber'; did you mean 'bib_number'?"),
        (("--preset", "rapidorc"), "unknown preset 'rapidorc'; did you mean 'rapidocr'?"),
        (("--stage-bib-number-model", "rapidorc"), "unknown preset 'rapidorc'; did you mean 'rapidocr'?"),
        (("--stage-bib-number-interpreter", "bib_line"), "unknown kind of interpreter 'bib_line'"),
        (("--stage", "table", "--stage-table-labels", "clock"), "'clock': Input should be a valid tuple"),
        (
            ("--stage-table-image-scale", "2"),
            "options of stage table are given, but the stage is bib_number; add --stage table",
        ),
    ],
)
def test_mistakes_are_usage_errors(invoke: Invoke, words: tuple[str, ...], message: str) -> None:
    result = invoke("config", *words)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_lists_and_tables_are_json(invoke: Invoke) -> None:
    regions = '[{"label":"clock","box":[0,0,0.5,0.5]}]'
    result = invoke("config", "--stage", "table", "--stage-table-regions", regions, "--stage-table-labels", '["clock"]')
    assert stages(result)["table"]["regions"] == [{"label": "clock", "box": [0, 0, 0.5, 0.5]}]


def test_the_command_lines_preset_overrides_the_stages_own(invoke: Invoke) -> None:
    Path("config.toml").write_text('stage = "sheet"\n[stages.sheet]\nkind = "table"\nmodel_options = "qwen-vllm"\n')
    assert stages(invoke("config"))["sheet"]["model_options"] == "qwen-vllm"
    assert stages(invoke("config", "--preset", "rapidocr"))["sheet"]["model_options"] == "rapidocr"
    assert stages(invoke("config", "--stage-sheet-model", "qwen_vllm"))["sheet"]["model_options"] == "qwen-vllm"


def test_an_interpreter_is_chosen_by_its_kind(invoke: Invoke) -> None:
    words = ("--stage", "vision_convert", "--preset", "smoldocling", "--stage-vision-convert-interpreter", "plain_text")
    assert stages(invoke("config", *words))["vision_convert"]["model_interpreter_options"] == {"kind": "plain_text"}


def test_an_option_of_the_interpreter_is_one_of_the_stage(invoke: Invoke) -> None:
    """And naming the interpreter keeps its options in config.toml."""
    Path("config.toml").write_text("[stages.table.model_interpreter_options]\nsure = 0.777\n")
    words = ("--stage", "table", "--stage-table-interpreter", "table_lines", "--stage-table-min-score", "0.6")
    found = stages(invoke("config", *words))["table"]["model_interpreter_options"]
    assert found == {"kind": "table_lines", "min_score": "0.6", "sure": 0.777}
    text = " ".join(invoke("stages", "table").output.split())
    assert "[default: 0.777]" in text


def test_only_interpreters_that_fit_a_stage_are_choices(invoke: Invoke) -> None:
    result = invoke("config", "--stage-bib-number-interpreter", "table_lines")
    assert result.exit_code == 2
    assert "unknown kind of interpreter 'table_lines'; did you mean 'bib_lines'?" in result.output


def test_a_preset_and_another_model_for_the_stage_are_refused(invoke: Invoke) -> None:
    result = invoke("config", "--preset", "qwen-vllm", "--stage-bib-number-model", "rapidocr")
    assert result.exit_code == 2
    assert "--preset and --stage-bib-number-model set the same option" in result.output


def test_a_preset_that_does_not_fit_the_stage_is_refused_before_reading(invoke: Invoke) -> None:
    with pytest.raises(ConfigurationError, match="preset rapidocr returns lines of text, but this stage needs"):
        invoke("read", "--stage", "picture_description", "no-such-file.jpg")


def test_configured_presets_and_stages_are_choices(invoke: Invoke) -> None:
    Path("config.toml").write_text(
        '[presets.quick]\nbase = "rapidocr"\nlongest_side = 640\n[stages.sheet]\nkind = "table"\n'
    )
    assert "--stage-sheet-labels JSON" in invoke("stages", "sheet").output
    assert stages(invoke("config", "--stage", "sheet", "--preset", "quick"))["sheet"]["model_options"] == "quick"


def test_help_works_with_a_broken_configuration(invoke: Invoke) -> None:
    Path("config.toml").write_text("what = 'is this'\n")
    assert invoke("read", "--help").exit_code == 0
    with pytest.raises(ConfigurationError, match="unknown key 'what'"):
        invoke("config")
