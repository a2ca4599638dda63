"""What the engines for checkpoints share, and their options; no engine is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bibwatch.errors import ConfigurationError
from bibwatch.runtimes import checkpoints
from bibwatch.runtimes.devices import Dtype
from bibwatch.runtimes.hub import HubOptions
from bibwatch.runtimes.mlx import VisionMlx, VisionMlxOptions, _add_rope_theta
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions

IDEFICS = {"longest_edge": 1456, "shortest_edge": None}
QWEN = {"longest_edge": 1_003_520, "shortest_edge": 3136}
FIXED = {"height": 384, "width": 384}


def sized(**settings: Any) -> HubOptions:
    return HubOptions.model_validate({"kind": "x", "name": "x", "repo_id": "a/b", **settings})


@given(st.binary(max_size=40))
def test_the_texts_of_tokens_join_to_the_full_text(data: bytes) -> None:
    def decode(ids: Any) -> str:
        return bytes(ids).decode(errors="replace")

    texts = checkpoints.token_texts(list(data), decode)
    assert len(texts) == len(data)
    assert "".join(texts) == decode(data)


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    texts = checkpoints.token_texts(list("aé€".encode()), lambda ids: bytes(ids).decode(errors="replace"))
    assert texts == ["a", "", "é", "", "", "€"]


@given(st.lists(st.sampled_from(["▁bib", "▁10", "24", "▁", ","])))
def test_tokens_of_a_tokenizer_that_strips_the_first_space_join_too(pieces: list[str]) -> None:
    def decode(ids: Any) -> str:
        return "".join(pieces[place] for place in ids).replace("▁", " ").removeprefix(" ")

    places = list(range(len(pieces)))
    assert "".join(checkpoints.token_texts(places, decode)) == decode(places)


@pytest.mark.parametrize(
    ("settings", "default", "size"),
    [
        ({}, IDEFICS, None),
        ({"image_longest_edge": 768}, IDEFICS, {"longest_edge": 768}),
        ({"max_pixels": 500_000}, QWEN, {"shortest_edge": 3136, "longest_edge": 500_000}),
        ({"min_pixels": 10_000}, QWEN, {"shortest_edge": 10_000, "longest_edge": 1_003_520}),
    ],
)
def test_the_size_of_images(settings: dict[str, int], default: dict[str, Any], size: dict[str, int] | None) -> None:
    assert checkpoints.image_size(sized(**settings), default) == size


@pytest.mark.parametrize(
    ("settings", "default", "said"),
    [
        ({"image_longest_edge": 768}, QWEN, "use min_pixels and max_pixels"),
        ({"image_longest_edge": 768}, FIXED, "use longest_side"),
        ({"max_pixels": 500_000}, IDEFICS, "use image_longest_edge or longest_side"),
        ({"min_pixels": 2_000_000}, QWEN, "min_pixels 2000000 is larger than max_pixels 1003520"),
    ],
)
def test_a_size_that_the_processor_does_not_support(
    settings: dict[str, int], default: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        checkpoints.image_size(sized(**settings), default)


@pytest.mark.parametrize(
    ("rope", "added"),
    [
        ({"rope_theta": 5e5, "rope_type": "default"}, {"rope_theta": 5e5}),
        (
            {"rope_theta": 1e6, "rope_type": "default", "mrope_section": [16, 24, 24]},
            {
                "rope_theta": 1e6,
                "rope_scaling": {"rope_type": "default", "type": "default", "mrope_section": [16, 24, 24]},
            },
        ),
    ],
)
def test_rope_theta_that_transformers_5_omits_is_added_for_mlx(rope: dict[str, Any], added: dict[str, Any]) -> None:
    config = {"model_type": "x", "text_config": {"rope_parameters": rope}}
    assert _add_rope_theta(config)
    assert config["text_config"] == {"rope_parameters": rope, **added}
    assert not _add_rope_theta(config)


@pytest.mark.parametrize(
    "text", [{"rope_theta": 1e4}, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, {}]
)
def test_other_configurations_are_unchanged(text: dict[str, Any]) -> None:
    config = {"text_config": dict(text)}
    assert not _add_rope_theta(config)
    assert config == {"text_config": text}


def test_the_error_for_a_missing_model_explains_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError) as refused:
        checkpoints.folder(sized(repo_id="Qwen/Qwen2-VL-2B-Instruct", download_gb=4.42, revision="main"))
    said = str(refused.value)
    assert said.startswith(
        f"preset x: Qwen/Qwen2-VL-2B-Instruct is neither a folder nor in the Hugging Face cache {tmp_path}"
    )
    for word in (
        "HF_HOME",
        "(4.42 GB)",
        "`hf download Qwen/Qwen2-VL-2B-Instruct --revision main`",
        "--local-dir",
        "repo_id",
    ):
        assert word in said
    assert "\n" not in said


def write_model(folder: Path, *files: str, **listed: list[str]) -> Path:
    """Write the files of a model, all empty except the indexes of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).touch()
    for name, shards in listed.items():
        weights = {"weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}}
        (folder / f"{name.replace('_safe', '.safe')}.index.json").write_text(json.dumps(weights))
    return folder


CONFIG = "config.json"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
WHOLE: list[tuple[tuple[str, ...], dict[str, list[str]]]] = [
    ((CONFIG, "model.safetensors"), {}),
    ((CONFIG, "pytorch_model.bin"), {}),
    ((CONFIG, "weights.safetensors"), {}),
    ((CONFIG, *SHARDS), {"model_safetensors": SHARDS}),
    ((CONFIG, *SHARDS), {}),  # mlx-vlm and vLLM need no index
    (("params.json", "consolidated.safetensors"), {}),
    ((CONFIG, "model.safetensors"), {"pytorch_model.bin": ["pytorch_model-00001-of-00001.bin"]}),
    ((CONFIG, *SHARDS), {"model_safetensors": SHARDS, "pytorch_model.bin": ["pytorch_model-00001-of-00001.bin"]}),
]
HALF: list[tuple[tuple[str, ...], dict[str, list[str]], str]] = [
    ((), {}, CONFIG),
    (("model.safetensors",), {}, CONFIG),
    ((CONFIG, "tokenizer.json"), {}, "weights (*.safetensors, *.bin)"),
    ((CONFIG, SHARDS[0]), {}, "weights (*.safetensors, *.bin)"),  # without its index
    ((CONFIG, SHARDS[0]), {"model_safetensors": SHARDS}, SHARDS[1]),
    ((CONFIG, "training_args.bin"), {"model_safetensors": SHARDS}, SHARDS[0]),
    ((CONFIG, *SHARDS, "model.safetensors.index.json"), {}, "complete model.safetensors.index.json"),
]


class TestCompleteModels:
    """In a local folder, and in the Hugging Face cache."""

    @pytest.fixture
    def snapshot(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Return the folder for a snapshot of a/b in the cache; it does not exist yet."""
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        model = tmp_path / "hub" / "models--a--b"
        (model / "refs").mkdir(parents=True)
        (model / "refs" / "main").write_text("c0ffee")
        return model / "snapshots" / "c0ffee"

    @pytest.mark.parametrize(("files", "listed"), WHOLE)
    def test_a_complete_model_is_found(
        self, snapshot: Path, tmp_path: Path, files: tuple[str, ...], listed: dict[str, list[str]]
    ) -> None:
        folder = write_model(tmp_path / "named", *files, **listed)
        assert checkpoints.folder(sized(repo_id=str(folder))) == folder
        write_model(snapshot, *files, **listed)
        assert checkpoints.folder(sized()) == snapshot
        assert sized().unavailable_reason(extra="local") is None

    @pytest.mark.parametrize(("files", "listed", "missing"), HALF)
    def test_an_interrupted_download_is_reported(
        self, snapshot: Path, files: tuple[str, ...], listed: dict[str, list[str]], missing: str
    ) -> None:
        write_model(snapshot, *files, **listed)
        said = f"the download of a/b is incomplete: {snapshot} has no {missing}; run `hf download a/b` again"
        assert sized().unavailable_reason(extra="local") == said
        with pytest.raises(ConfigurationError) as refused:
            checkpoints.folder(sized())
        assert str(refused.value) == f"preset x: {said}"

    @pytest.mark.parametrize(("files", "listed", "missing"), HALF)
    def test_an_incomplete_copy_is_reported(
        self, tmp_path: Path, files: tuple[str, ...], listed: dict[str, list[str]], missing: str
    ) -> None:
        folder = write_model(tmp_path / "named", *files, **listed)
        said = f"the folder {folder} has no {missing}; finish copying or downloading the model"
        assert sized(repo_id=str(folder)).unavailable_reason(extra="local") == said

    def test_a_dangling_link_is_a_missing_file(self, snapshot: Path) -> None:
        write_model(snapshot, CONFIG)
        (snapshot / "model.safetensors").symlink_to(snapshot / "no-blob-yet")
        assert "has no weights" in str(sized().unavailable_reason(extra="local"))


class TestTransformersOptions:
    DOCUMENTED = {  # noqa: RUF012
        "repo_id": "ds4sd/SmolDocling-256M-preview", "trust_remote_code": False, "load_in_8bit": True,
        "llm_int8_threshold": 6.0, "quantized": False, "transformers_model_type": "automodel",
        "transformers_prompt_style": "chat", "torch_dtype": None, "supported_devices": ["cpu", "cuda", "mps"],
        "use_kv_cache": True, "max_new_tokens": 4096,
    }  # fmt: skip

    def test_all_documented_fields_are_accepted(self) -> None:
        taken = VisionHfTransformersOptions.model_validate({"kind": "vision_hf_transformers", **self.DOCUMENTED})
        written = taken.model_dump(mode="json")
        assert {key: written[key] for key in self.DOCUMENTED if key != "torch_dtype"} == {
            key: value for key, value in self.DOCUMENTED.items() if key != "torch_dtype"
        }
        assert taken.dtype is Dtype.AUTO

    def test_torch_dtype_is_an_alias_of_dtype(self) -> None:
        for name in ("dtype", "torch_dtype"):
            options = VisionHfTransformersOptions.model_validate({"repo_id": "a/b", name: "bfloat16"})
            assert options.dtype is Dtype.BFLOAT16
        with pytest.raises(ValidationError):
            VisionHfTransformersOptions.model_validate({"repo_id": "a/b", "torch_dtype": "bfloat17"})

    def test_the_device_does_not_change_the_identity(self) -> None:
        here = VisionHfTransformersOptions(repo_id="a/b")
        there = here.model_copy(update={"device": "cuda:1", "device_fallback": False, "supported_devices": ("cuda",)})
        assert here.identity() == there.identity()
        assert here.identity() != here.model_copy(update={"dtype": Dtype.BFLOAT16}).identity()

    @pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU", ""])
    def test_an_unknown_device_is_rejected(self, device: str) -> None:
        with pytest.raises(ValidationError, match="device"):
            VisionHfTransformersOptions(repo_id="a/b", device=device)


@pytest.mark.parametrize(
    ("runtime", "library", "extra"),
    [
        (VisionHfTransformers(VisionHfTransformersOptions(name="x", repo_id="a/b")), "transformers", "local"),
        (VisionMlx(VisionMlxOptions(name="x", repo_id="a/b")), "mlx_vlm", "mlx"),
    ],
    ids=["transformers", "mlx"],
)
def test_the_error_for_a_missing_library_explains_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Any, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=rf"^preset x: .*pip install 'bibwatch\[{extra}\]'"):
        runtime.load()
    runtime.close()
    runtime.close()
