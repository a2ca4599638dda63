"""The registry: built-ins and plugins, error messages for wrong names, and fingerprints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bibwatch.errors import ConfigurationError
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.messages import unknown
from bibwatch.registry import Registry
from bibwatch.runtimes.ocr import VisionOcr, VisionOcrOptions
from bibwatch.stages.bib_number import BibNumber, BibNumberOptions


def fingerprint(
    preset: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, *, name: str = "mine"
) -> str:
    """Hash the options of a stage with a preset, as config.toml would give them."""
    registry = Registry(presets={name: {"kind": "vision_ocr", **(preset or {})}}, stages={"bib_number": stage or {}})
    return registry.stage("bib_number", name).options.fingerprint()


# Known names


def test_built_ins_are_registered_like_plugins() -> None:
    stage = Registry().stage("bib_number", "rapidocr")
    assert (type(stage), type(stage.runtime), type(stage.interpreter)) == (BibNumber, VisionOcr, BibLines)
    assert stage.options.model_options.identity() == VisionOcrOptions().identity()


def test_names_are_sorted() -> None:
    registry = Registry(presets={"zz": {}, "aa": {}}, stages={"zz": {}, "aa": {}})
    assert registry.presets == sorted(registry.presets)
    assert registry.stages == sorted(registry.stages)
    assert {"aa", "zz", "rapidocr"} <= set(registry.presets)
    assert {"aa", "zz", "bib_number"} <= set(registry.stages)


def test_every_built_in_preset_makes_options_that_say_its_name() -> None:
    registry = Registry()
    for name in registry.presets:
        options = registry.model_options(name)
        assert options.name == name
        assert type(options).model_validate_json(options.model_dump_json()) == options


def test_naming_a_stage_loads_no_model() -> None:
    """In a process of its own: the tests beside this one may have loaded a lot."""
    code = (
        "import sys; from bibwatch.registry import Registry; Registry().stage('bib_number', 'rapidocr');"
        "sys.exit(bool({'rapidocr', 'onnxruntime', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Unknown names


@pytest.mark.parametrize(
    ("stage", "preset", "message"),
    [
        ("bib_number", "rapidorc", "unknown preset 'rapidorc'; did you mean 'rapidocr'?"),
        ("bib_number", "", "unknown preset ''; known: "),
        ("bib_numbers", "rapidocr", "unknown kind of stage 'bib_numbers'; did you mean 'bib_number'?"),
        ("qqqq", "rapidocr", "unknown kind of stage 'qqqq'; known: bib_number"),
        ("bad_kind", "rapidocr", "unknown kind of stage 'bibnumber'; did you mean 'bib_number'?"),
        ("bib_number", "bad_kind", "unknown kind of runtime 'vision_orc'; did you mean 'vision_ocr'?"),
        ("bib_number", "no_kind", "presets.no_kind: neither `kind` nor `base` is given"),
        ("bib_number", "bad_key", "unknown key 'presets.bad_key.min_scor'; did you mean 'min_score'?"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest_known_one(stage: str, preset: str, message: str) -> None:
    presets = {
        "bad_kind": {"kind": "vision_orc"},
        "no_kind": {"batch_size": 1},
        "bad_key": {"kind": "vision_ocr", "min_scor": 1},
    }
    registry = Registry(presets=presets, stages={"bad_kind": {"kind": "bibnumber"}})
    with pytest.raises(ConfigurationError) as caught:
        registry.stage(stage, preset)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_name_among_none() -> None:
    assert unknown("preset", "x", []) == "unknown preset 'x'; known: none"


# Plugins


def test_a_plugin_that_is_allowed_is_found_and_used(install: Callable[..., Path]) -> None:
    mark = install("bibwatch-oracle", "vision_oracle")
    registry = Registry(["bibwatch-oracle"], presets={"wise": {"kind": "vision_oracle", "wisdom": 3}})
    stage = registry.stage("bib_number", "wise")
    assert stage.options.model_options.model_dump()["wisdom"] == 3
    assert type(stage.runtime).__name__ == "Plugin"
    assert mark.exists()


def test_a_plugin_is_imported_only_when_it_is_used(install: Callable[..., Path]) -> None:
    mark = install("bibwatch-oracle", "vision_oracle")
    registry = Registry(["bibwatch-oracle"])
    registry.stage("bib_number", "rapidocr")
    assert "bib_number" in registry.stages
    assert not mark.exists()


@pytest.mark.parametrize("plugins", [(), ("bibwatch-oracles",), ("plugin_bibwatch_oracle",), ("*",)])
def test_a_plugin_that_is_not_allowed_is_not_imported(install: Callable[..., Path], plugins: tuple[str, ...]) -> None:
    """Its kind is unknown."""
    mark = install("bibwatch-oracle", "vision_oracle")
    registry = Registry(plugins, presets={"wise": {"kind": "vision_oracle"}})
    with pytest.raises(ConfigurationError, match="unknown kind of runtime 'vision_oracle'; "):
        registry.stage("bib_number", "wise")
    assert not mark.exists()


def test_a_broken_plugin_that_is_not_allowed_does_no_harm(install: Callable[..., Path]) -> None:
    install("bibwatch-broken", "bib_number", "raise SystemExit('never imported')", group="stages")
    registry = Registry()
    assert type(registry.stage("bib_number", "rapidocr")) is BibNumber


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("1 / 0", "Plugin", "division by zero"),
        ("import no_such_library", "Plugin", "no_such_library"),
        ("def (", "Plugin", "invalid syntax"),
        ("", "Plugin", "no attribute 'Plugin'"),
        pytest.param(
            "class Plugin: pass",
            "Plugin",
            "Plugin",
        ),
        pytest.param(
            "raise SystemExit('no licence')",
            "Plugin",
            "no licence",
        ),
    ],
)
def test_a_broken_plugin_is_reported_by_name(
    install: Callable[..., Path], source: str, target: str, message: str
) -> None:
    """And everything else works."""
    install("bibwatch-broken", "vision_broken", source, target=target)
    registry = Registry(["bibwatch-broken"], presets={"broken": {"kind": "vision_broken"}})
    registry.stage("bib_number", "rapidocr")
    assert "broken" in registry.presets
    with pytest.raises(ConfigurationError, match=r"vision_broken.*plugin_bibwatch_broken") as caught:
        registry.stage("bib_number", "broken")
    assert message in str(caught.value)


def test_a_plugin_with_a_missing_module_is_reported(install: Callable[..., Path]) -> None:
    install("bibwatch-gone", "vision_gone").with_suffix(".py").unlink()
    registry = Registry(["bibwatch-gone"], presets={"gone": {"kind": "vision_gone"}})
    with pytest.raises(ConfigurationError, match=r"vision_gone.*plugin_bibwatch_gone"):
        registry.model_options("gone")


def test_a_distribution_may_be_named_as_pip_knows_it(install: Callable[..., Path]) -> None:
    install("bibwatch_oracle", "vision_oracle")
    registry = Registry(["bibwatch-Oracle"], presets={"wise": {"kind": "vision_oracle"}})
    assert registry.model_options("wise").kind == "vision_oracle"


def test_an_allowed_plugin_does_not_replace_a_built_in_unseen(
    install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused or ignored, wherever it is on sys.path."""
    install("bibwatch-oracle", "vision_ocr")
    monkeypatch.setattr(sys, "path", [*(place for place in sys.path if place != str(tmp_path)), str(tmp_path)])
    runtime: object = None
    with suppress(ConfigurationError):
        runtime = Registry(["bibwatch-oracle"]).stage("bib_number", "rapidocr").runtime
    assert runtime is None or type(runtime) is VisionOcr


# Fingerprints


@pytest.mark.parametrize(
    "change", [{"batch_size": 3}, {"threads": 1, "engine": "onnxruntime"}, {"batch_size": 1, "threads": 2}]
)
def test_facts_of_the_hardware_do_not_change_the_hash(change: dict[str, Any]) -> None:
    """Results stay valid on another machine."""
    assert fingerprint(change) == fingerprint()


def test_a_presets_name_does_not_change_the_hash() -> None:
    assert fingerprint(name="mine") == fingerprint(name="yours")


def test_a_default_that_is_written_out_does_not_change_the_hash() -> None:
    defaults = VisionOcrOptions().model_dump(exclude={"name"})
    assert fingerprint(defaults) == fingerprint()
    assert fingerprint(stage={"model_interpreter_options": {"kind": "bib_lines"}}) == fingerprint()


@pytest.mark.parametrize(
    ("preset", "stage"),
    [
        ({"longest_side": 1024}, {}),
        ({"enlarge": 1.0}, {}),
        ({"min_score": 0.1}, {}),
        ({"boxes": "rel1000"}, {}),
        ({}, {"second_model_options": "rapidocr"}),
    ],
)
def test_what_can_change_an_answer_changes_the_hash(preset: dict[str, Any], stage: dict[str, Any]) -> None:
    assert fingerprint(preset, stage) != fingerprint()


def test_every_option_of_the_ocr_is_a_fact_of_the_hardware_or_in_the_hash() -> None:
    """A new option must be classified here. Options at their default are left out: a new one re-reads nothing."""
    assert set(VisionOcrOptions().identity()) == {"kind", "code_revision"}
    seen = {"boxes": "rel1", "markup": "doctags", "longest_side": 640, "enlarge": 1.5, "min_score": 0.1}
    hardware = {"name": "mine", "batch_size": 3, "threads": 1, "engine": "onnxruntime"}
    about = {"licence": "MIT", "download_gb": 1, "memory_gb": 1, "refused": "no", "note": "slow"}
    elsewhere = {"stages": ("table",), "prompts": {"table": "What?"}}
    changed: dict[str, Any] = {**seen, **hardware, **about, **elsewhere}
    assert changed.keys() | {"kind"} == VisionOcrOptions.model_fields.keys()
    identity = VisionOcrOptions(**changed).identity()
    assert set(identity) == {"kind", "code_revision", *seen}


def test_a_new_option_at_its_default_changes_no_hash() -> None:
    """An upgrade re-reads nothing; where the option is used, photos are read again."""

    class WithNewOption(BibNumberOptions):
        sharpen: float = 0.0

    old, new = BibNumberOptions(model_options=VisionOcrOptions()), WithNewOption(model_options=VisionOcrOptions())
    assert new.fingerprint() == old.fingerprint()
    assert WithNewOption(model_options=VisionOcrOptions(), sharpen=0.5).fingerprint() != old.fingerprint()


def test_a_revision_of_the_code_changes_the_hash() -> None:
    """Of the stage, of the runtime, and of the interpreter."""

    class Stage(BibNumberOptions):
        code_revision: ClassVar[int] = 2

    class Model(VisionOcrOptions):
        code_revision: ClassVar[int] = VisionOcrOptions.code_revision + 1

    class Interpreter(BibLinesOptions):
        code_revision: ClassVar[int] = BibLinesOptions.code_revision + 1

    model = VisionOcrOptions()
    found = [
        BibNumberOptions(model_options=model),
        Stage(model_options=model),
        BibNumberOptions(model_options=Model()),
        BibNumberOptions(model_options=model, model_interpreter_options=Interpreter()),
    ]
    assert len({options.fingerprint() for options in found}) == len(found)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"accept_confidence": 0.5}, "stages.bib_number.accept_confidence is now race.accept_at"),
        ({"edge": 0.1}, "stages.bib_number.edge is now judging.edge"),
        (
            {"model_interpreter_options": {"pattern": "9.."}},
            "stages.bib_number.model_interpreter_options.pattern is now race.bibs",
        ),
    ],
)
def test_judging_settings_are_not_stage_options(stage: dict[str, Any], message: str) -> None:
    """So they do not change the fingerprint: photos are re-judged, not read again."""
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        fingerprint(stage=stage)


def test_a_prompt_changes_the_hash_only_of_a_model_that_is_asked() -> None:
    registries = [Registry(stages={"bib_number": stage}) for stage in ({}, {"prompt": "Which bibs?"})]
    for preset, number in (("rapidocr", 1), ("qwen-vllm", 2)):
        assert len({each.stage_options("bib_number", preset).fingerprint() for each in registries}) == number


def test_the_hash_is_the_same_in_every_process() -> None:
    code = (
        "from bibwatch.registry import Registry as R; print(R().stage('bib_number', 'rapidocr').options.fingerprint())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {Registry().stage("bib_number", "rapidocr").options.fingerprint()}
