"""The two architectures that are trained here, small: how each is put together, and how it sees a picture.

Knows transformers and the layout of the checkpoints. Does not know what is taught.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from bibwatch.testing import tiny_vlm

OPENING, CLOSING, NONE = '{"bibs":[{"number":"', '"}]}', '{"bibs":[]}'  # one token each, so that replies are short
_VOCABULARY = 768
_SPREAD = {"smolvlm": 0.02, "qwen2vl": 0.06}  # of the first weights; with 0.02 Qwen2-VL's tower is slow to start
_TEXT_WIDTH, _TEXT_LAYERS = 128, 3
_VISION_WIDTH, _VISION_LAYERS = 96, 4
_HEAD, _VISION_HEAD = 64, 32  # sizes that vLLM's attention on the CPU takes
PATCH, _MERGE = 8, 2
_AREA = 96 * 64  # most pixels that Qwen2-VL sees of a picture
_ROPE_THETA = 10_000.0
_IMAGE, _VIDEO, _START, _END = "<|image_pad|>", "<|video_pad|>", "<|im_start|>", "<|im_end|>"
_VISION_START, _VISION_END, _PAD = "<|vision_start|>", "<|vision_end|>", "<|endoftext|>"
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
Grid = tuple[int, int]  # rows and columns of patches of a picture


class Family(ABC):
    """A model with random weights and its processor."""

    name: ClassVar[str]
    vision_width: ClassVar[int] = _VISION_WIDTH
    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @abstractmethod
    def normal(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels of 0 to 255, laid out as the processor does, with the mean and the spread it gives them."""

    @abstractmethod
    def inputs(self, ids: torch.Tensor, pixels: torch.Tensor, grid: Grid) -> dict[str, torch.Tensor]:
        """Return tokens and normal pixels of a batch, all of one grid of patches, as the model's arguments."""

    @abstractmethod
    def watch(self) -> Any:
        """Return the module whose output is what the vision tower saw, patch by patch."""

    @abstractmethod
    def columns(self, seen: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Return what was seen as picture x column of patches x feature: the mean of each column."""

    def grid(self, processed: Any) -> Grid:
        """Return the grid of one processed picture."""
        del processed
        return tiny_vlm.TILE // PATCH, tiny_vlm.TILE // PATCH

    def save(self, model: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = model.config.text_config
        model.generation_config = GenerationConfig(
            bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
        )
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = self.processor.image_processor
        return torch.tensor(pictures.image_mean), torch.tensor(pictures.image_std)


class SmolVlm(Family):
    """Idefics3, SmolVLM's class: each picture is one square tile."""

    name: ClassVar[str] = "smolvlm"

    def __init__(self, corpus: Sequence[str]) -> None:
        side = {"longest_edge": tiny_vlm.TILE}
        special = tiny_vlm._SPECIAL
        tokenizer = _tokenizer(corpus, special, start=tiny_vlm._START, end=tiny_vlm._END, pad=tiny_vlm._PAD)
        self.processor = Idefics3Processor(
            Idefics3ImageProcessor(size=side, max_image_size=side),
            tokenizer,
            image_seq_len=(tiny_vlm.TILE // PATCH // _MERGE) ** 2,
            chat_template=tiny_vlm._CHAT_TEMPLATE,
        )
        config = tiny_vlm._config(tokenizer, _TEXT_WIDTH, _TEXT_LAYERS, _VISION_WIDTH, _VISION_LAYERS)
        config.text_config.initializer_range = config.vision_config.initializer_range = _SPREAD[self.name]
        self.model = Idefics3ForConditionalGeneration(config)

    def normal(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, spread = self._constants()
        return (pixels / 255 - mean[:, None, None]) / spread[:, None, None]

    def inputs(self, ids: torch.Tensor, pixels: torch.Tensor, grid: Grid) -> dict[str, torch.Tensor]:
        del grid
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels[:, None]}

    def watch(self) -> Any:
        return self.model.model.vision_model.post_layernorm

    def columns(self, seen: torch.Tensor, grid: Grid) -> torch.Tensor:
        return seen.unflatten(1, grid).mean(1)

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        tiny_vlm._name_rope_theta(folder / "config.json")


class Qwen2Vl(Family):
    """Qwen2-VL: a picture keeps its shape, and has as many patches as that takes."""

    name: ClassVar[str] = "qwen2vl"

    def __init__(self, corpus: Sequence[str]) -> None:
        special = [_PAD, _START, _END, _VISION_START, _VISION_END, _IMAGE, _VIDEO]
        tokenizer = _tokenizer(corpus, special, start=_START, end=_END, pad=_PAD)
        sizes = {
            "patch_size": PATCH,
            "merge_size": _MERGE,
            "size": {"shortest_edge": _AREA // 2, "longest_edge": _AREA},
        }
        self.processor = Qwen2VLProcessor(
            Qwen2VLImageProcessor(**sizes), tokenizer, Qwen2VLVideoProcessor(**sizes), chat_template=_CHATML
        )
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
        ends = {"bos_token_id": ids[_START], "eos_token_id": ids[_END], "pad_token_id": ids[_PAD]}
        config = Qwen2VLConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": _TEXT_WIDTH,
                "intermediate_size": 2 * _TEXT_WIDTH,
                "num_hidden_layers": _TEXT_LAYERS,
                "num_attention_heads": _TEXT_WIDTH // _HEAD,
                "num_key_value_heads": _TEXT_WIDTH // _HEAD,
                "max_position_embeddings": 8192,
                "initializer_range": _SPREAD[self.name],
                "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA, "mrope_section": [8, 12, 12]},
                **ends,
            },
            vision_config={
                "depth": _VISION_LAYERS,
                "embed_dim": _VISION_WIDTH,
                "hidden_size": _TEXT_WIDTH,
                "mlp_ratio": 2,
                "num_heads": _VISION_WIDTH // _VISION_HEAD,
                "patch_size": PATCH,
                "spatial_merge_size": _MERGE,
                "initializer_range": _SPREAD[self.name],
            },
            image_token_id=ids[_IMAGE],
            video_token_id=ids[_VIDEO],
            vision_start_token_id=ids[_VISION_START],
            vision_end_token_id=ids[_VISION_END],
            tie_word_embeddings=False,
        )
        self.model = Qwen2VLForConditionalGeneration(config)

    def normal(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, spread = self._constants()
        by_channel = pixels.unflatten(-1, (3, -1))
        return ((by_channel / 255 - mean[:, None]) / spread[:, None]).flatten(-2)

    def inputs(self, ids: torch.Tensor, pixels: torch.Tensor, grid: Grid) -> dict[str, torch.Tensor]:
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.processor.image_token_id).int(),
            "pixel_values": pixels.flatten(0, 1),
            "image_grid_thw": torch.tensor([(1, *grid)] * len(pixels)),
        }

    def watch(self) -> Any:
        return self.model.model.visual.merger.ln_q

    def columns(self, seen: torch.Tensor, grid: Grid) -> torch.Tensor:
        rows, columns = grid
        blocks = seen.reshape(-1, rows // _MERGE, columns // _MERGE, _MERGE, _MERGE, seen.shape[-1])
        return blocks.mean((1, 3)).flatten(1, 2)

    def grid(self, processed: Any) -> Grid:
        _, rows, columns = processed["image_grid_thw"][0].tolist()
        return rows, columns

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        _flatten(folder / "config.json")


FAMILIES = {family.name: family for family in (SmolVlm, Qwen2Vl)}


def _tokenizer(corpus: Sequence[str], special: Sequence[str], *, start: str, end: str, pad: str) -> Any:
    """Return a byte-level BPE in which each digit, each word of the corpus and each piece of the reply is a token."""
    pieces = [*map(_literal, (OPENING, CLOSING, NONE)), r"\p{N}", r" ?\p{L}+", r" ?[^\s\p{L}\p{N}]+", r"\s+"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(pieces)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [*corpus, *[OPENING, CLOSING, NONE] * 9],  # often enough to be merged before the vocabulary is full
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def _literal(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "{}[]" else letter for letter in text)


def _flatten(path: Path) -> None:
    """Write the text model's settings at the root, as the hub's Qwen2-VL has them; mlx-vlm looks nowhere else."""
    config = json.loads(path.read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    older = {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    config["vision_config"]["model_type"] = text["model_type"] = config["model_type"]
    path.write_text(json.dumps({**text, **older, **config}, indent=2) + "\n")
