"""The inputs of each family, on tiny models, compared to those of transformers' chat template."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bibwatch.drawing import photo
from bibwatch.errors import ConfigurationError
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions, families
from bibwatch.runtimes.transformers.families import FAMILIES, ModelFamily, family_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.local

PROMPT = "Which bib?"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


@pytest.fixture(scope="session")
def tiny_qwen(tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Qwen2-VL with random weights."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_vlm)
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWENS)})
    image, video, start, end = map(tokenizer.convert_tokens_to_ids, QWENS)
    sizes = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}}
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(**sizes),
        chat_template=CHATML,
    )
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 1, "num_key_value_heads": 1, "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}, **ends,
        },
        vision_config={
            "depth": 2, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2, "patch_size": 8,
            "initializer_range": 0.2,
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Qwen2VLForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(**ends)
    folder = tmp_path_factory.mktemp("models") / "qwen"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [photo((bib,), size=size) for bib, size in (("1024", (300, 200)), ("0042", (90, 60)), ("777", (400, 90)))]


def load(folder: Path, **settings: Any) -> VisionHfTransformers:
    plain: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 3, "max_new_tokens": 8}
    options = VisionHfTransformersOptions.model_validate({"name": "x", "repo_id": str(folder), **plain, **settings})
    return VisionHfTransformers(options)


def inputs(folder: Path, images: list[Image.Image], **settings: Any) -> Any:
    with load(folder, **settings) as runtime:
        return runtime._inputs(images, PROMPT)


class TestSmolVlm:
    @pytest.mark.parametrize("settings", [{}, {"image_longest_edge": 128}], ids=str)
    def test_inputs_equal_those_of_the_chat_template(
        self, tiny_vlm: Path, pictures: list[Image.Image], settings: dict[str, Any]
    ) -> None:
        ours = inputs(tiny_vlm, pictures, family="smolvlm", **settings)
        theirs = inputs(tiny_vlm, pictures, family="generic", **settings)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_it_does_not_need_qwens_library(
        self, tiny_vlm: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "qwen_vl_utils", None)
        with load(tiny_vlm) as runtime:
            assert [answer.error for answer in runtime.predict_batch(pictures, PROMPT)] == [None] * 3


class TestQwen:
    @pytest.mark.parametrize("settings", [{}, {"min_pixels": 64 * 64, "max_pixels": 96 * 96}], ids=str)
    def test_inputs_equal_those_of_the_chat_template(
        self, tiny_qwen: Path, pictures: list[Image.Image], settings: dict[str, Any]
    ) -> None:
        ours = inputs(tiny_qwen, pictures, family="qwen", **settings)
        theirs = inputs(tiny_qwen, pictures, family="generic", **settings)
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"pixel_values"}:
            assert torch.equal(ours[name], theirs[name]), name
        # qwen_vl_utils resizes with pillow, the processor with torchvision: they round differently.
        spread = min(transformers.Qwen2VLImageProcessor().image_std)
        off = (ours["pixel_values"] - theirs["pixel_values"]).abs()
        assert off.max() <= 3 / 255 / spread
        assert off.mean() <= 1 / 255 / spread

    def test_its_own_library_resizes_the_images(
        self, tiny_qwen: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import qwen_vl_utils

        asked: list[Any] = []
        sized = qwen_vl_utils.process_vision_info
        with load(tiny_qwen) as runtime:
            runtime.load()
            monkeypatch.setattr(
                qwen_vl_utils,
                "process_vision_info",
                lambda chats, **how: asked.append((chats, how)) or sized(chats, **how),
            )
            answers = list(runtime.predict_batch(pictures, PROMPT))
        assert [answer.error for answer in answers] == [None] * 3
        assert len({answer.text for answer in answers}) == 3
        ((chats, how),) = asked
        assert how == {"image_patch_size": 8}
        assert [chat[0]["content"][0]["max_pixels"] for chat in chats] == [64 * 64] * 3

    def test_a_batch_gives_the_same_replies_as_single_images(
        self, tiny_qwen: Path, pictures: list[Image.Image]
    ) -> None:
        with load(tiny_qwen) as runtime:
            together = [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]
            alone = [next(runtime.predict_batch([picture], PROMPT)).text for picture in pictures]
        assert together == alone

    def test_the_error_without_its_library_is_one_line(self, tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_qwen(name: str) -> object:
            return None if name == "qwen_vl_utils" else object()

        monkeypatch.setattr("bibwatch.runtimes.hub.find_spec", no_qwen)
        said = "qwen_vl_utils not installed: pip install 'bibwatch[local]'"
        runtime = load(tiny_qwen)
        assert runtime.options.obstacle() == said
        with pytest.raises(ConfigurationError) as refused:
            runtime.load()
        assert str(refused.value) == f"preset x: {said}"

    def test_areas_too_small_for_any_image_are_rejected_at_load(self, tiny_qwen: Path) -> None:
        with pytest.raises(ConfigurationError) as refused:
            load(tiny_qwen, min_pixels=50, max_pixels=100).load()
        assert str(refused.value).startswith(
            f"preset x: {tiny_qwen} cannot process an image with min_pixels = 50, max_pixels = 100: "
        )
        assert "\n" not in str(refused.value)

    def test_the_family_of_another_checkpoint_is_rejected_at_load(self, tiny_vlm: Path) -> None:
        with pytest.raises(ConfigurationError) as refused:
            load(tiny_vlm, family="qwen").load()
        assert str(refused.value).startswith(f"preset x: {tiny_vlm} cannot process an image with family = qwen: ")


class TestFamilyOf:
    @pytest.mark.parametrize(
        ("model_type", "inputs"),
        [
            ("idefics3", families.smolvlm_inputs),
            ("smolvlm", families.smolvlm_inputs),
            ("qwen2_vl", families.qwen_inputs),
            ("qwen2_5_vl", families.qwen_inputs),
            ("qwen3_vl", families.qwen_inputs),
            ("llava_onevision", families.generic_inputs),
        ],
    )
    def test_auto_depends_on_the_checkpoint(self, tmp_path: Path, model_type: str, inputs: Callable[..., Any]) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert family_of(ModelFamily.AUTO, tmp_path).inputs is inputs
        assert family_of(ModelFamily.GENERIC, tmp_path).inputs is families.generic_inputs

    @pytest.mark.parametrize("config", ["", "[]", "{}", '{"model_type": null}'])
    def test_a_checkpoint_without_a_model_type_is_generic(self, tmp_path: Path, config: str) -> None:
        (tmp_path / "config.json").write_text(config)
        assert family_of(ModelFamily.AUTO, tmp_path).inputs is families.generic_inputs

    def test_every_family_is_defined(self) -> None:
        assert set(FAMILIES) == set(ModelFamily) - {ModelFamily.AUTO}
        model_types = [kind for family in FAMILIES.values() for kind in family.model_types]
        assert len(model_types) == len(set(model_types))
        assert set(model_types) <= set(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
