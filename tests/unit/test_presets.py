"""The built-in presets: each is valid, has facts about its model, and works with a stage or has a reason why not."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from bibwatch.errors import ConfigurationError
from bibwatch.registry import Registry
from bibwatch.runtimes.base import BoxConvention, Markup

REGISTRY = Registry()
BUILT_IN = REGISTRY.presets


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_preset_has_the_facts_about_its_model(name: str) -> None:
    options = REGISTRY.model_options(name)
    assert options.name == name
    assert options.licence
    assert options.longest_side, "every preset limits the size of images"
    remote = options.kind == "vision_openailike_api"
    assert remote or (options.download_gb is not None and options.memory_gb is not None)
    assert type(options).model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_reason_why_a_preset_cannot_run_is_one_line(name: str) -> None:
    why_not = REGISTRY.model_options(name).obstacle()
    assert why_not is None or (why_not and "\n" not in why_not)


def test_rapidocr_runs_everywhere() -> None:
    assert REGISTRY.model_options("rapidocr").obstacle() is None


# The stages that each preset supports. Add new presets and stages here.
DOCUMENTS = {"code_understanding", "table", "vision_convert"}
ANY = {"bib_number", "picture_description", *DOCUMENTS}
WORKS: dict[str, set[str]] = {
    "rapidocr": {"bib_number", "table"},
    "cogvlm": set(),
    **dict.fromkeys(
        ("smoldocling", "smoldocling-inline-vllm", "smoldocling-lms", "smoldocling-mlx", "smoldocling-vllm"), DOCUMENTS
    ),
    **dict.fromkeys(
        (
            *("qwen-inline-cpu", "qwen-inline-gpu", "qwen-inline-vllm", "qwen-mlx", "qwen-vl", "qwen-vl-lmstudio"),
            *("qwen-vl-ollama", "qwen-vllm", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen3-vl-2b", "qwen3-vl-4b"),
            *("qwen3-vl-8b", "smol-inline-cpu", "smol-inline-gpu", "smol-inline-vllm", "smol-mlx", "smol-vllm"),
            *("smolvlm-256m", "smolvlm-500m", "smolvlm2-2.2b", "smolvlm2-256m", "smolvlm2-500m"),
            *("granite-vision", "granite-vision-inline-vllm", "granite-vision-lmstudio", "granite-vision-ollama"),
            *("granite-vision-vllm", "internvl", "llava", "llava-1.5-7b", "llava-ollama", "minicpm-v"),
            "minicpm-v-ollama",
        ),
        ANY,
    ),
}
REFUSALS = {
    "rapidocr": r"preset rapidocr returns lines of text, but this stage needs replies to a prompt",
    "cogvlm": r"preset cogvlm cannot be run: its code was written for transformers 4\.40",
    "smoldocling": r"preset smoldocling\S* was made for vision_convert, table, code_understanding and cannot do",
}


def test_the_table_has_every_preset_and_stage() -> None:
    assert sorted(WORKS) == REGISTRY.presets
    assert set(REGISTRY.stages) == ANY


@pytest.mark.parametrize(("preset", "stage"), [(preset, stage) for preset in WORKS for stage in sorted(WORKS[preset])])
def test_a_pair_that_works(preset: str, stage: str) -> None:
    made = REGISTRY.stage(stage, preset)
    assert made.interpreter.options.accepts is made.options.model_options.output_kind
    assert made.options.question


@pytest.mark.parametrize(
    ("preset", "stage"), [(preset, stage) for preset in WORKS for stage in sorted(ANY - WORKS[preset])]
)
def test_the_error_for_an_incompatible_pair_is_one_line(preset: str, stage: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        REGISTRY.stage(stage, preset)
    assert re.search(REFUSALS[preset.partition("-")[0]], str(caught.value))
    assert "\n" not in str(caught.value)


def test_names_with_underscores() -> None:
    """`_` and `-` are equivalent."""
    for name in (
        *("qwen-inline-cpu", "qwen-inline-gpu", "smol-inline-cpu", "smol-inline-gpu"),
        *("qwen_vl_ollama", "smoldocling_lms", "smoldocling_mlx", "smoldocling_vllm", "granite_vision_lmstudio"),
        *("qwen_vl", "qwen-vllm"),
    ):
        assert REGISTRY.model_options(name).name == name.replace("_", "-")


def test_all_servers_of_presets_are_local() -> None:
    for name in BUILT_IN:
        url = getattr(REGISTRY.model_options(name), "api_url", "http://127.0.0.1")
        assert url.startswith("http://127.0.0.1"), name


def test_only_qwen_is_prompted_for_boxes() -> None:
    for name in BUILT_IN:
        options = REGISTRY.model_options(name)
        if "smol" in name:
            assert options.boxes is BoxConvention.NONE, name
    asked = REGISTRY.stage("bib_number", "qwen-inline-cpu").options.question
    assert "box" in asked
    assert "bounding" not in REGISTRY.stage("bib_number", "smol-inline-cpu").options.question


def test_smoldocling_gets_the_prompt_it_was_trained_on() -> None:
    options = REGISTRY.stage("vision_convert", "smoldocling").options
    assert options.model_options.markup is Markup.DOCTAGS
    assert options.question == "Convert this page to docling."
    assert options.model_interpreter_options.kind == "doctags"
    assert REGISTRY.stage("vision_convert", "granite-vision").options.model_interpreter_options.kind == "plain_text"


def test_a_custom_preset_inherits() -> None:
    tables = tomllib.loads("""
        [presets.my-qwen]
        base = "qwen-vllm"
        api_url = "http://gpu.local:8000/v1"
        [presets.mine_too]
        base = "my_qwen"
        max_new_tokens = 99
    """)["presets"]
    registry = Registry(presets=tables)
    mine, base = registry.model_options("mine-too"), registry.model_options("qwen-vllm")
    assert mine.model_dump() == base.model_dump() | {
        "name": "mine_too",
        "api_url": "http://gpu.local:8000/v1",
        "max_new_tokens": 99,
    }


def test_a_built_in_preset_can_be_overridden() -> None:
    registry = Registry(presets={"rapidocr": {"base": "rapidocr", "longest_side": 1024}})
    assert registry.model_options("rapidocr").longest_side == 1024
    assert registry.model_options("rapidocr").licence == "Apache-2.0"


def test_a_stage_may_name_its_own_model() -> None:
    stages = {
        "sheet": {"kind": "table", "model_options": "rapidocr"},
        "inline": {
            "kind": "picture_description",
            "model_options": {
                "kind": "vision_openailike_api",
                "api_url": "http://127.0.0.1:9/v1",
                "model_name": "some",
            },
        },
    }
    registry = Registry(stages=stages)
    registry.check()
    assert registry.stage_options("sheet", "qwen-vllm").model_options.name == "rapidocr"
    assert registry.stage_options("inline", "rapidocr").model_options.name == "inline"


def test_an_interpreter_is_chosen_independently_of_the_runtime() -> None:
    stages = {"raw": {"kind": "vision_convert", "model_interpreter_options": {"kind": "plain_text"}}}
    registry = Registry(stages=stages)
    assert registry.stage("raw", "smoldocling").options.model_interpreter_options.kind == "plain_text"
    stages = {"odd": {"kind": "bib_number", "model_interpreter_options": {"kind": "bib_json"}}}
    with pytest.raises(ConfigurationError, match="interpreter bib_json needs replies to a prompt, but preset rapidocr"):
        Registry(stages=stages).stage("odd", "rapidocr")


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ({"a": {"base": "nope"}}, "presets.a.base: unknown preset 'nope'"),
        ({"a": {"base": 3}}, "presets.a.base: not a name: 3"),
        ({"a": {"kind": 3}}, "presets.a.kind: not a name: 3"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, "base leads back to itself"),
        ({"a": {"base": "rapidocr", "stages": ["bib_numbr"]}}, "presets.a.stages: unknown kind of stage 'bib_numbr'"),
        ({"a-b": {"kind": "vision_ocr"}, "a_b": {"kind": "vision_ocr"}}, "are the same name"),
    ],
)
def test_an_invalid_preset(presets: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Registry(presets=presets).model_options("a")
    assert message in str(caught.value)


def test_a_built_in_can_be_overridden_with_underscores() -> None:
    """Environment variables such as BIBWATCH_PRESETS__QWEN_VLLM__API_URL cannot contain `-`."""
    registry = Registry(presets={"qwen_vllm": {"base": "qwen_vllm", "api_url": "http://gpu.local/v1"}})
    for name in ("qwen-vllm", "qwen_vllm"):
        assert registry.model_options(name).model_dump()["api_url"] == "http://gpu.local/v1"
    assert "qwen_vllm" not in registry.presets


def test_facts_about_a_model_are_not_inherited_by_another() -> None:
    registry = Registry(presets={"mine": {"base": "qwen2.5-vl-3b", "repo_id": "me/mine"}})
    mine = registry.model_options("mine")
    assert (mine.licence, mine.download_gb, mine.memory_gb) == (None, None, None)
    assert mine.longest_side == registry.model_options("qwen2.5-vl-3b").longest_side


def test_environment_variables_give_lists_and_tables_as_json() -> None:
    registry = Registry(
        presets={"mine": {"base": "qwen-vllm", "stop": '["END"]', "batch_size": "3"}},
        stages={"table": {"model_options": '{"kind":"vision_ocr","longest_side":"640"}', "labels": '["photo"]'}},
    )
    assert registry.model_options("mine").model_dump()["stop"] == ("END",)
    options = registry.stage_options("table", "mine")
    assert (options.model_options.longest_side, options.model_options.name) == (640, "table")
    assert options.model_dump()["labels"] == ("photo",)


def test_a_stages_own_model_may_inherit() -> None:
    registry = Registry(stages={"sheet": {"kind": "table", "model_options": {"base": "rapidocr", "longest_side": 640}}})
    assert registry.stage_options("sheet", "qwen-vllm").model_options.longest_side == 640


def test_interpreter_options_without_a_kind_apply_to_the_default_interpreter() -> None:
    registry = Registry(stages={"table": {"model_interpreter_options": {"header": False}}})
    for preset, kind in (("rapidocr", "table_lines"), ("qwen-vllm", "table_text")):
        chosen = registry.stage_options("table", preset).model_interpreter_options
        assert (chosen.kind, chosen.model_dump(mode="json")["header"]) == (kind, False)


@pytest.mark.parametrize(
    ("stage", "interpreter", "message"),
    [
        ("bib_number", "table_lines", "interpreter table_lines does not produce candidates"),
        ("table", {"kind": "bib_lines"}, "interpreter bib_lines does not produce table"),
        ("bib_number", 5, "stages.bib_number.model_interpreter_options: neither a kind nor a table of options: 5"),
        ("bib_number", {"kind": 5}, "stages.bib_number.model_interpreter_options.kind: not a name: 5"),
        ("table", {"heder": True}, "did you mean 'header'?"),
    ],
)
def test_an_incompatible_interpreter_is_rejected(stage: str, interpreter: object, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Registry(stages={stage: {"model_interpreter_options": interpreter}}).stage(stage, "rapidocr")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "preset"),
    [
        ("bib_number", "rapidocr"),
        ("bib_number", "qwen-vllm"),
        ("table", "rapidocr"),
        ("vision_convert", "smoldocling"),
        ("picture_description", "llava"),
        ("code_understanding", "smol-mlx"),
    ],
)
def test_stage_options_round_trip_through_json(stage: str, preset: str) -> None:
    options = REGISTRY.stage_options(stage, preset)
    again = REGISTRY.options(json.loads(options.model_dump_json()))
    assert again == options
    assert again.fingerprint() == options.fingerprint()


def test_a_reply_is_held_to_a_form_only_where_there_is_one() -> None:
    stages = {"bib_number": {"constrained": True}, "picture_description": {"constrained": True}}
    registry = Registry(stages=stages)
    assert registry.stage("bib_number", "qwen-vllm").interpreter.constraint is not None
    with pytest.raises(ConfigurationError, match="constrained: plain_text takes replies of any form"):
        registry.stage("picture_description", "qwen-vllm")
