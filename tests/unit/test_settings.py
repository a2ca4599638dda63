"""The configuration: where a setting comes from, and the errors for wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bibwatch import settings
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.errors import ConfigurationError
from bibwatch.settings import Settings, check_outside
from bibwatch.store.database import sqlite_file


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: no config.toml but the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toml(folder: Path) -> Callable[[str], None]:
    """Write ./config.toml."""

    def write(content: str) -> None:
        (folder / "config.toml").write_text(content, "utf-8")

    return write


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set BIBWATCH_ variables."""

    def put(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"BIBWATCH_{name}", value)

    return put


def complaint(**overrides: Any) -> list[str]:
    """Load what must not load; return what is said, line by line."""
    with pytest.raises(ConfigurationError) as caught:
        settings.load(**overrides)
    assert caught.value.exit_code == 78
    return str(caught.value).splitlines()


# Where a setting comes from


def test_everything_has_a_default() -> None:
    found = settings.load()
    assert (found.stage, found.preset, found.cameras) == ("bib_number", "rapidocr", {})
    assert found.database_url == "sqlite:///bibwatch.db"


def test_precedence(toml: Callable[[str], None], env: Callable[..., None]) -> None:
    """The command line, then the environment, then config.toml, then the default."""
    toml('preset = "toml"\nstage = "toml"\nlog_level = "debug"\n')
    env(PRESET="env", STAGE="env")
    found = settings.load(preset="cli")
    assert (found.preset, found.stage, found.log_level, found.log_format) == ("cli", "env", "debug", "auto")


def test_precedence_inside_a_section(toml: Callable[[str], None], env: Callable[..., None]) -> None:
    """What one source leaves open, the next one fills."""
    toml("[ingest]\nscan_seconds = 11\npoll_seconds = 12\n[pipeline]\nmax_attempts = 3\n")
    env(INGEST__SCAN_SECONDS="21", PIPELINE='{"decode_threads": 7}')
    found = settings.load(ingest={"poll_seconds": 32})
    assert found.ingest == settings.IngestSettings(scan_seconds=21, poll_seconds=32)
    assert found.pipeline == settings.PipelineSettings(decode_threads=7, max_attempts=3)


def test_cameras_from_everywhere(toml: Callable[[str], None], env: Callable[..., None], folder: Path) -> None:
    """By JSON, by `__`, by config.toml and by the command line; one camera's settings may come from several."""
    toml('[cameras.start]\npath = "start"\nwatch = "poll"\n[cameras.finish]\npath = "toml"\nwatch = "poll"\n')
    env(CAMERAS='{"finish": {"path": "/srv/env"}, "km5": {"path": "/srv/km5"}}', CAMERAS__KM10__PATH="/srv/km10")
    found = settings.load(cameras={"finish": {"path": "/srv/cli"}}).cameras
    assert {name: str(camera.path) for name, camera in found.items()} == {
        "start": str(folder / "start"),
        "finish": "/srv/cli",
        "km5": "/srv/km5",
        "km10": "/srv/km10",
    }
    assert found["finish"].watch == "poll"


def test_every_setting_works_from_the_environment_alone(env: Callable[..., None]) -> None:
    """Every one there is: none may have kept its default."""
    default = Settings().model_dump()
    env(
        DATABASE_URL="sqlite:////race.db",
        CAMERAS__FINISH__PATH="/srv/finish",
        STAGE="strict",
        PRESET="mine",
        FALLBACK_PRESETS='["rapidocr"]',
        FALLBACK_AFTER="5",
        REREAD_FALLBACK="true",
        STAGES__STRICT__KIND="bib_number",
        PRESETS='{"mine": {"base": "rapidocr"}}',
        PLUGINS='["bibwatch-more"]',
        LOG_LEVEL="debug",
        LOG_FORMAT="json",
        METRICS_PORT="9100",
        METRICS_HOST="::1",
        RACE__BIBS=r"\d{3,4}",
        RACE__ACCEPT_AT="0.9",
        RACE__TIMEZONE="Europe/Berlin",
        RACE__START_LIST="entries.csv",
        JUDGING__MIN_CONFIDENCE="0.7",
        JUDGING__MIN_PROBABILITY="0.2",
        JUDGING__DOUBTFUL="13",
        JUDGING__EDGE="0.1",
    )
    for section in ("ingest", "images", "pipeline"):
        env(**{f"{section}__{name}".upper(): str(value + 1) for name, value in default[section].items()})
    found = settings.load().model_dump()
    assert [name for name in default if found[name] == default[name]] == []
    for section in ("race", "judging"):
        assert [name for name in default[section] if found[section][name] == default[section][name]] == []
    for section in ("ingest", "images", "pipeline"):
        assert found[section] == {name: value + 1 for name, value in default[section].items()}


def test_names_of_variables_may_be_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("bibwatch_ingest__scan_seconds", "9")
    assert settings.load().ingest.scan_seconds == 9


def test_a_named_file_is_read_instead(toml: Callable[[str], None], env: Callable[..., None], folder: Path) -> None:
    """`--config`, then BIBWATCH_CONFIG, then ./config.toml."""
    toml('preset = "here"')
    for name in ("named", "env"):
        (folder / f"{name}.toml").write_text(f'preset = "{name}"')
    assert settings.load().preset == "here"
    env(CONFIG=str(folder / "env.toml"))
    assert settings.load().preset == "env"
    assert settings.load(folder / "named.toml").preset == "named"


def test_one_load_knows_nothing_of_another(toml: Callable[[str], None], folder: Path) -> None:
    toml('preset = "here"')
    settings.load()
    (folder / "config.toml").unlink()
    assert settings.load().preset == "rapidocr"


def test_paths_are_absolute_and_links_stay_as_written(toml: Callable[[str], None], folder: Path) -> None:
    (folder / "card").mkdir()
    (folder / "link").symlink_to("card")
    toml('[cameras.a]\npath = "x/../link"\n[cameras.b]\npath = "~/drop"\n')
    cameras = settings.load().cameras
    assert cameras["a"].path == folder / "link"
    assert cameras["b"].path == Path.home() / "drop"


# Misspelt settings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('databse_url = "x"', "unknown key 'databse_url'; did you mean 'database_url'?"),
        ("[ingest]\nscan_second = 1", "unknown key 'ingest.scan_second'; did you mean 'scan_seconds'?"),
        ("[images]\nmaxpixels = 1", "unknown key 'images.maxpixels'; did you mean 'max_pixels'?"),
        ('[cameras.a]\npath = "a"\nwacth = "poll"', "unknown key 'cameras.a.wacth'; did you mean 'watch'?"),
        ("[pipelines]\nmax_attempts = 1", "unknown key 'pipelines'; did you mean 'pipeline'?"),
        ("[ingest]\nqqqq = 1", "unknown key 'ingest.qqqq'; known: poll_seconds, scan_seconds, settle_seconds"),
    ],
)
def test_an_unknown_key_in_the_file(toml: Callable[[str], None], content: str, message: str) -> None:
    toml(content)
    assert complaint() == [f"configuration (config.toml): {message}"]


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("DATABSE_URL", "DATABASE_URL"),
        ("SCAN_SECONDS", None),
        ("INGEST__SCAN_SECOND", "INGEST__SCAN_SECONDS"),
        pytest.param(
            "INGST__SCAN_SECONDS",
            "INGEST",
        ),
        ("CAMERAS__FINISH__PTH", "CAMERAS__FINISH__PATH"),
        ("INGEST_SCAN_SECONDS", None),
        ("", None),
    ],
)
def test_an_unknown_variable(env: Callable[..., None], variable: str, near: str | None) -> None:
    env(**{variable: "1"})
    (line,) = complaint()
    assert line.startswith(f"unknown environment variable 'BIBWATCH_{variable}'; ")
    assert near is None or line.endswith(f"did you mean 'BIBWATCH_{near}'?")


@pytest.mark.parametrize("variable", ["PRESET__NAME", "METRICS_PORT__X", "DATABASE_URL__PATH", "LOG_LEVEL__X"])
def test_a_variable_below_a_plain_setting_is_unknown_too(env: Callable[..., None], variable: str) -> None:
    env(**{variable: "1"})
    assert f"BIBWATCH_{variable}" in complaint()[0]


@pytest.mark.parametrize("variable", ["INGEST__SCAN_SECONDS__X", "PLUGINS__X", "CAMERAS__FINISH__PATH__X"])
def test_a_variable_below_another_setting_is_refused(env: Callable[..., None], variable: str) -> None:
    env(**{variable: "1"})
    assert len(complaint()) == 1


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CAMERAS", '{"a": {"path": "a", "wacth": "poll"}}', "unknown key 'cameras.a.wacth'; did you mean 'watch'?"),
        ("INGEST", '{"scan_second": 1}', "unknown key 'ingest.scan_second'; did you mean 'scan_seconds'?"),
        ("CAMERAS__A", '{"path": "a", "pth": 1}', "unknown key 'cameras.a.pth'; did you mean 'path'?"),
    ],
)
def test_an_unknown_key_in_json(env: Callable[..., None], variable: str, value: str, message: str) -> None:
    env(**{variable: value})
    assert complaint() == [f"configuration: {message}"]


def test_every_mistake_is_reported_at_once(toml: Callable[[str], None]) -> None:
    toml('preset = 5\nplugin = []\n[cameras.a]\npth = "x"\n[ingest]\nscan_seconds = 0\n')
    said = " | ".join(complaint())
    for part in (
        "preset: ",
        "unknown key 'plugin'",
        "cameras.a.path: Field required",
        "'cameras.a.pth'",
        "scan_seconds: ",
    ):
        assert part in said


# Values that cannot be


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("preset = 5", "preset"),
        ('ingest = "often"', "ingest"),
        ('[ingest]\nscan_seconds = "often"', "ingest.scan_seconds"),
        ("[ingest]\nscan_seconds = 0", "ingest.scan_seconds"),
        ("[ingest]\nsettle_seconds = -1", "ingest.settle_seconds"),
        ("[pipeline]\nmax_attempts = 0", "pipeline.max_attempts"),
        ("[pipeline]\ndecode_threads = 1.5", "pipeline.decode_threads"),
        ('log_level = "loud"', "log_level"),
        ("metrics_port = 70000", "metrics_port"),
        ('cameras = ["finish"]', "cameras"),
        ("[cameras.a]\npath = 1", "cameras.a.path"),
        ('[cameras.a]\nwatch = "poll"', "cameras.a.path"),
        ('[cameras.a]\npath = "a"\nwatch = "inotify"', "cameras.a.watch"),
        ("stages = { x = 1 }", "stages.x"),
        ('plugins = "mine"', "plugins"),
    ],
)
def test_a_bad_value_in_the_file(toml: Callable[[str], None], content: str, place: str) -> None:
    toml(content)
    (line,) = complaint()
    assert line.startswith(f"configuration (config.toml): {place}: ")


@pytest.mark.parametrize(
    ("variable", "value", "place"),
    [
        ("INGEST__SCAN_SECONDS", "often", "ingest.scan_seconds: "),
        ("INGEST__SCAN_SECONDS", "nan", "ingest.scan_seconds: "),
        ("CAMERAS", "{", '"cameras"'),
        ("CAMERAS", "[]", "cameras: "),
        ("CAMERAS", "/srv/drop", '"cameras"'),
        ("CAMERAS", '{"a": "/srv/drop"}', "cameras.a: "),
        ("PLUGINS", "mine", '"plugins"'),
    ],
)
def test_a_bad_value_in_the_environment(env: Callable[..., None], variable: str, value: str, place: str) -> None:
    env(**{variable: value})
    (line,) = complaint()
    assert place in line


def test_a_bad_value_on_the_command_line() -> None:
    assert complaint(cameras={"a": {}}) == ["configuration: cameras.a.path: Field required"]


@pytest.mark.parametrize(
    "content", [b"preset = = 1", b"[ingest", b'preset = "a"\npreset = "b"', b'preset = "\xff"', b"\0", b"<xml/>"]
)
def test_a_broken_file(folder: Path, content: bytes) -> None:
    (folder / "config.toml").write_bytes(content)
    (line,) = complaint()
    assert line.startswith("configuration (config.toml): ")


def test_a_named_file_that_is_not_there(env: Callable[..., None], folder: Path) -> None:
    assert complaint(config=Path("nowhere.toml")) == ["configuration file nowhere.toml does not exist"]
    env(CONFIG=str(folder))
    assert complaint() == [f"configuration file {folder} does not exist"]


# Cameras


@pytest.mark.parametrize("name", ["a", "finish", "Finish-2", "km.5", "0", "a_b"])
def test_camera_names(name: str) -> None:
    assert list(settings.load(cameras={name: {"path": "a"}}).cameras) == [name]


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", "-a", ".a", "_a", "a\n", "zürich", "a=b", "a:b"])
def test_bad_camera_names(name: str) -> None:
    (line,) = complaint(cameras={name: {"path": "a"}})
    assert line == f"configuration: cameras: {name!r} is no camera name; use letters, digits, '.', '_' and '-'"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("drop", "drop", "the same as"),
        ("drop", "drop/", "the same as"),
        ("drop", "x/../drop", "the same as"),
        ("drop", "link", "the same as"),
        ("drop", "drop/finish", "inside"),
        ("drop/deep/er", "drop", "inside"),
        ("drop", "link/finish", "inside"),
        (".", "nowhere/yet", "inside"),
    ],
)
def test_folders_that_overlap(folder: Path, first: str, second: str, said: str) -> None:
    """Each photo belongs to one camera; a link to a folder is that folder."""
    (folder / "drop").mkdir()
    (folder / "link").symlink_to("drop")
    (line,) = complaint(cameras={"a": {"path": first}, "b": {"path": second}})
    assert line.startswith("cameras ")
    assert "a and b overlap: " in line or "b and a overlap: " in line
    assert f" is {said} " in line


def test_folders_with_like_names_do_not_overlap() -> None:
    cameras = {name: {"path": name} for name in ("drop", "drop2", "drop-finish")}
    assert len(settings.load(cameras=cameras).cameras) == 3


def test_a_folder_need_not_be_there_yet(folder: Path) -> None:
    """R29: a card reader is plugged in later."""
    assert settings.load(cameras={"a": {"path": "later"}}).cameras["a"].path == folder / "later"


def test_a_file_is_no_folder(folder: Path) -> None:
    (folder / "a.jpg").touch()
    assert complaint(cameras={"a": {"path": "a.jpg"}}) == [f"cameras.a.path: {folder / 'a.jpg'} is not a folder"]


def test_an_empty_path_is_no_folder(env: Callable[..., None]) -> None:
    env(CAMERAS='{"finish": {"path": ""}}')
    assert "cameras.finish.path" in complaint()[0]


@pytest.mark.parametrize("path", ["loop", "x" * 300, "a\0b", "~nobody-of-this-name/drop"])
def test_a_path_the_system_refuses_is_a_clear_error(folder: Path, path: str) -> None:
    (folder / "loop").symlink_to("loop")
    assert "cameras.a.path" in complaint(cameras={"a": {"path": path}})[0]


@pytest.mark.parametrize(
    ("database", "inside"),
    [
        ("drop/bibwatch.db", True),
        ("drop/a/b/bibwatch.db", True),
        ("link/bibwatch.db", True),
        ("drop/../bibwatch.db", False),
        ("bibwatch.db", False),
        ("drop2/bibwatch.db", False),
    ],
)
def test_a_database_inside_a_watched_folder(folder: Path, database: str, inside: bool) -> None:  # noqa: FBT001
    (folder / "drop").mkdir()
    (folder / "link").symlink_to("drop")
    cameras = settings.load(cameras={"finish": {"path": "drop"}}).cameras
    file = sqlite_file(f"sqlite:///{database}")
    assert file is not None
    if not inside:
        check_outside(file, cameras)
        return
    with pytest.raises(ConfigurationError, match="inside the folder of camera finish"):
        check_outside(file, cameras)


def test_a_watched_folder_that_is_a_link_to_the_databases(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "drop").symlink_to("real")
    cameras = settings.load(cameras={"finish": {"path": "drop"}}).cameras
    with pytest.raises(ConfigurationError, match="inside the folder of camera finish"):
        check_outside(folder / "real" / "bibwatch.db", cameras)


# Configured presets and stages


def test_a_preset_with_a_base(toml: Callable[[str], None]) -> None:
    """It takes the base's options, and the base's base's; its own come first."""
    toml(
        '[presets.big]\nbase = "rapidocr"\nlongest_side = 3000\nmin_score = 0.25\n'
        '[presets.bigger]\nbase = "big"\nlongest_side = 4000\n'
    )
    registry = settings.load().registry()
    assert {"big", "bigger", "rapidocr"} <= set(registry.presets)
    options = registry.model_options("bigger").model_dump()
    assert (options["name"], options["kind"]) == ("bigger", "vision_ocr")
    assert (options["longest_side"], options["min_score"]) == (4000, 0.25)


def test_a_preset_with_a_kind(toml: Callable[[str], None]) -> None:
    toml('[presets.mine]\nkind = "vision_ocr"\nbatch_size = 3\n')
    assert settings.load().registry().model_options("mine").batch_size == 3


def test_a_preset_from_the_environment_alone(env: Callable[..., None]) -> None:
    env(PRESETS__MINE__BASE="rapidocr", PRESETS__MINE__LONGEST_SIDE="1000")
    assert settings.load().registry().model_options("mine").longest_side == 1000


def test_a_built_in_preset_can_be_changed(toml: Callable[[str], None]) -> None:
    """And what is based on it follows."""
    toml('[presets.rapidocr]\nbase = "rapidocr"\nlongest_side = 999\n[presets.mine]\nbase = "rapidocr"\n')
    registry = settings.load().registry()
    assert registry.model_options("rapidocr").longest_side == 999
    assert registry.model_options("mine").longest_side == 999


def test_a_built_in_preset_can_be_replaced(toml: Callable[[str], None]) -> None:
    toml('[presets.rapidocr]\nkind = "vision_ocr"\nbatch_size = 2\n')
    assert settings.load().registry().model_options("rapidocr").batch_size == 2


@pytest.mark.parametrize(
    ("content", "preset", "message"),
    [
        ('[presets.a]\nbase = "b"\n[presets.b]\nbase = "a"', "a", "base leads back to itself"),
        ('[presets.a]\nbase = "a"', "a", "base leads back to itself"),
        ('[presets.rapidocr]\nbase = "b"\n[presets.b]\nbase = "rapidocr"', "b", "base leads back to itself"),
        ('[presets.a]\nbase = "rapidorc"', "a", "unknown preset 'rapidorc'; did you mean 'rapidocr'?"),
        ('[presets.a]\nkind = "vision_orc"', "a", "'vision_orc'; did you mean 'vision_ocr'?"),
        ("[presets.a]\nbatch_size = 1", "a", "presets.a: neither `kind` nor `base` is given"),
        (
            '[presets.a]\nbase = "rapidocr"\nbatchsize = 1',
            "a",
            "unknown key 'presets.a.batchsize'; did you mean 'batch_size'?",
        ),
        ('[presets.a]\nbase = "rapidocr"\nbatch_size = 0', "a", "presets.a.batch_size: "),
    ],
)
def test_a_preset_that_cannot_be(toml: Callable[[str], None], content: str, preset: str, message: str) -> None:
    toml(content)
    registry = settings.load().registry()
    with pytest.raises(ConfigurationError) as caught:
        registry.model_options(preset)
    assert message in str(caught.value)


def test_options_of_a_stage(toml: Callable[[str], None]) -> None:
    """By the kind's own name, or under another name."""
    toml(
        "[stages.bib_number]\nask_below = 0.5\n"
        '[stages.strict]\nkind = "bib_number"\nask_below = 0.99\n'
        '[stages.strict.model_interpreter_options]\nkind = "bib_json"\nunknown_confidence = 0.1\n'
    )
    registry = settings.load().registry()
    assert {"bib_number", "strict"} <= set(registry.stages)
    assert registry.stage("bib_number", "qwen-vllm").options.ask_below == 0.5
    strict = registry.stage("strict", "qwen-vllm").options
    assert (strict.kind, strict.ask_below) == ("bib_number", 0.99)
    assert strict.model_interpreter_options.model_dump(mode="json")["unknown_confidence"] == 0.1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[stages.bib_number]\nask_belo = 1", "unknown key 'stages.bib_number.ask_belo'; did you mean 'ask_below'?"),
        ("[stages.bib_number]\nask_below = 2", "stages.bib_number.ask_below: "),
        ('[stages.bib_number]\nkind = "bib_numbers"', "'bib_numbers'; did you mean 'bib_number'?"),
        (
            '[stages.bib_number.model_interpreter_options]\nkind = "bib_line"',
            "unknown kind of interpreter 'bib_line'; did you mean 'bib_lines'?",
        ),
        (
            '[stages.bib_number.model_interpreter_options]\nkind = "bib_json"\nunknown_confidense = 0.1',
            "model_interpreter_options.unknown_confidense'; did you mean 'unknown_confidence'?",
        ),
        (
            '[stages.bib_number.model_interpreter_options]\nkind = "bib_json"\nunknown_confidence = 2',
            "stages.bib_number.model_interpreter_options.unknown_confidence: Input should be less than or equal to 1",
        ),
        pytest.param(
            '[stages.bib_number]\nmodel_options = "nosuch"',
            "stages.bib_number.model_options: unknown preset 'nosuch'",
        ),
    ],
)
def test_a_stage_that_cannot_be(toml: Callable[[str], None], content: str, message: str) -> None:
    toml(content)
    registry = settings.load().registry()
    with pytest.raises(ConfigurationError) as caught:
        registry.stage("bib_number", "rapidocr")
    assert message in str(caught.value)


# The race


def test_the_judge_uses_the_race_settings(toml: Callable[[str], None]) -> None:
    toml(
        "[race]\nbibs = '[1-9]\\d\\d'\naccept_at = 0.8\n[judging]\nmin_confidence = 0.5\ndoubtful = '13.'\nedge = 0.1\n"
    )
    judge = settings.load().judge()
    lines = [Candidate(text, score, source=Source.LINE) for text, score in (("101", 0.8), ("1000", 0.9), ("133", 0.9))]
    edge = Candidate("200", 0.9, edge_distance=0.1)
    found = {reading.bib: reading.verdict.value for reading in judge.judge([*lines, edge]).readings}
    assert found == {"101": "accepted", "133": "review", "200": "review"}


def test_a_race_may_have_bibs_of_several_forms(toml: Callable[[str], None], env: Callable[..., None]) -> None:
    toml("[race]\nbibs = ['\\d{3}', 'T-\\d']\n")
    assert [form.pattern for form in settings.load().race.context.forms] == [r"\d{3}", r"T-\d"]
    env(RACE__BIBS=r"\d{3,4}")
    assert [form.pattern for form in settings.load().race.context.forms] == [r"\d{3,4}"]
    env(RACE__BIBS=json.dumps([r"\d{3}", "[AB]1"]))
    assert [form.pattern for form in settings.load().race.context.forms] == [r"\d{3}", "[AB]1"]


def test_a_race_of_which_nothing_is_known() -> None:
    """Two to five digits, or a letter and three to five; cameras without an offset have no time in UTC."""
    race = settings.load().race
    assert (race.bibs, race.zone, race.start_list) == (None, None, None)
    assert [race.context.bib(text) for text in ("42", "m101", "7", "123456")] == ["42", "M101", None, None]


def test_a_start_list_is_beside_the_configuration(
    toml: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml('[race]\nstart_list = "lists/entries.csv"\n')
    there = settings.load().start_list_file
    assert there is not None
    monkeypatch.chdir("/")
    assert settings.load(tmp_path / "config.toml").start_list_file == there == tmp_path / "lists" / "entries.csv"
    assert settings.load(race={"start_list": "entries.csv"}).start_list_file == Path("/entries.csv")
    assert settings.load().start_list_file is None
    with pytest.raises(ConfigurationError, match=r"start list .*lists/entries\.csv: cannot be read"):
        settings.load(tmp_path / "config.toml").judge()


def test_bibs_of_the_start_list_are_of_the_races_form(toml: Callable[[str], None], tmp_path: Path) -> None:
    """What was of its form without a list still is; a configured form counts alone."""
    (tmp_path / "entries.csv").write_text("bib\nAB12\n0007\n7-X\n")
    toml('[race]\nstart_list = "entries.csv"\n')
    race = settings.load().judge().race
    found = [race.bib(text) for text in ("ab12", "CD34", "0007", "7", "8-X", "12345", "M101", "8", "ABC12", "123456")]
    assert found == ["AB12", "CD34", "0007", "7", "8-X", "12345", "M101", None, None, None]
    strict = settings.load(race={"bibs": r"\d{3}", "start_list": "entries.csv"}).judge().race
    assert [strict.bib(text) for text in ("AB12", "123")] == [None, "123"]
    padded = settings.load(race={"bibs": r"\d{4}", "start_list": "entries.csv"}).judge().race
    assert [padded.bib(text) for text in ("0007", "7", "8")] == ["0007", "7", None]


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"\d{3,4}", r"[A-Z]\d+", r"\w{3}", r"(19|20)\d\d", "[0-9]{3}", "7", ".*", r"[^A-Z]+", "[1-5]00", r"\S+"),
        *(r"(?:M|F)-?\d{1,4}", r"(?P<wave>[A-D])\d\d", r"(?i)a\d", r"[\]\d]", r"\D\d", "[A-F0-9]{4}"),
        *(r"\x31", r"\u0031", r"([A-Z])\d\1", r"(?P<a>[A-Z])\d(?P=a)"),
    ],
)
def test_a_form_that_bibs_can_have(pattern: str) -> None:
    assert settings.load(race={"bibs": pattern}).race.bibs == pattern


@pytest.mark.parametrize(
    "pattern", ["d{3,4}", "[A-Z]+", r"\D+", "[^0-9]+", "", "FINISH", r"[A-Z]{1,3}", "(d{3}|Md{2})", r"\s*", r"[^\d]"]
)
def test_a_form_that_no_digit_fits_is_refused(env: Callable[..., None], pattern: str) -> None:
    """Such as what systemd makes of `\\d{3,4}` in an EnvironmentFile, without quotes: no bib would ever be read."""
    (line,) = complaint(race={"bibs": pattern})
    assert line.startswith(f"configuration: race.bibs: {pattern!r} matches no digit; write \\d for one")
    assert "in single quotes" in line
    (line,) = complaint(race={"bibs": [r"\d{3}", pattern]})
    assert f"{pattern!r} matches no digit" in line
    if pattern:  # an empty variable is none
        env(RACE__BIBS=pattern)
        (line,) = complaint()
        assert f"race.bibs: {pattern!r} matches no digit" in line


@pytest.mark.parametrize("pattern", ["(", "*", r"[\d", r"\d{3})"])
def test_a_form_that_is_no_regular_expression_is_refused(pattern: str) -> None:
    (line,) = complaint(race={"bibs": pattern})
    assert line.startswith(f"configuration: race.bibs: {pattern!r} is not a regular expression: ")


def test_a_list_of_no_forms_is_refused() -> None:
    assert complaint(race={"bibs": []}) == [
        "configuration: race.bibs: the list names no pattern; leave it out for the default"
    ]


@pytest.mark.parametrize(
    ("name", "near"), [("Europe/Berlim", "Europe/Berlin"), ("America/New York", "America/New_York")]
)
def test_a_time_zone_that_is_none_names_the_nearest(env: Callable[..., None], name: str, near: str) -> None:
    env(RACE__TIMEZONE=name)
    assert complaint() == [f"configuration: race.timezone: unknown time zone {name!r}; did you mean {near!r}?"]


def test_a_time_zone() -> None:
    assert settings.load(race={"timezone": "Europe/Berlin"}).race.zone == ZoneInfo("Europe/Berlin")


_MOVED = {
    "stages.bib_number.model_interpreter_options.pattern": (r"\d{3}", "race.bibs", "BIBWATCH_RACE__BIBS"),
    "stages.bib_number.model_interpreter_options.min_confidence": (
        "0.5",
        "judging.min_confidence",
        "BIBWATCH_JUDGING__MIN_CONFIDENCE",
    ),
    "stages.bib_number.accept_confidence": ("0.9", "race.accept_at", "BIBWATCH_RACE__ACCEPT_AT"),
    "stages.bib_number.doubtful": ("13", "judging.doubtful", "BIBWATCH_JUDGING__DOUBTFUL"),
    "stages.bib_number.edge": ("0.1", "judging.edge", "BIBWATCH_JUDGING__EDGE"),
}


@pytest.mark.parametrize("kind", [None, "bib_lines"])
@pytest.mark.parametrize("key", _MOVED)
def test_a_key_of_an_earlier_version_names_the_new_one(env: Callable[..., None], key: str, kind: str | None) -> None:
    value, new, variable = _MOVED[key]
    env(**{key.replace(".", "__").upper(): value})
    if kind and "interpreter" in key:
        env(STAGES__BIB_NUMBER__MODEL_INTERPRETER_OPTIONS__KIND=kind)
    found = settings.load()
    line = f"{key} is now {new} (environment: {variable})"
    for ask in (found.registry().check, lambda: found.registry().stage(found.stage, found.preset)):
        with pytest.raises(ConfigurationError) as caught:
            ask()
        assert str(caught.value) == line
        assert caught.value.exit_code == 78


def test_the_configuration_can_be_printed_and_read_again(toml: Callable[[str], None], folder: Path) -> None:
    """`bibwatch config` prints JSON, which loads as the same settings."""
    toml('preset = "mine"\n[presets.mine]\nbase = "rapidocr"\n[cameras.a]\npath = "drop"\n[ingest]\nscan_seconds = 9\n')
    found = settings.load()
    shown = json.loads(json.dumps(found.model_dump(mode="json")))
    (folder / "config.toml").unlink()
    assert settings.load(**shown).model_dump() == found.model_dump()
