"""How images and a prompt become a model's inputs, by model family.

Knows chat templates and transformers' processors. Does not know the models behind them.

To add a family, add a member to `ModelFamily`, a function, and an entry in `FAMILIES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import Image

Size = Mapping[str, int]  # the size that the processor resizes images to; None for its default


class ModelFamily(StrEnum):
    """Checkpoints that take their inputs in the same way."""

    AUTO = "auto"  # by model_type in the checkpoint's config.json
    SMOLVLM = "smolvlm"
    QWEN = "qwen"
    GENERIC = "generic"  # any model that transformers' chat templates support


def smolvlm_inputs(processor: Any, images: Sequence[Image.Image], prompt: str, size: Size | None) -> Any:
    """Return the inputs of SmolVLM and Idefics3, whose processor takes images of any size."""
    text = processor.apply_chat_template([_message({"type": "image"}, prompt)], add_generation_prompt=True)
    return _process(processor, text, [[image] for image in images], size)


def qwen_inputs(processor: Any, images: Sequence[Image.Image], prompt: str, size: Size | None) -> Any:
    """Return the inputs of Qwen2-VL and its successors; images are resized with Qwen's own `qwen_vl_utils`."""
    from qwen_vl_utils import process_vision_info

    bounds = size or processor.image_processor.size
    area = {"min_pixels": bounds["shortest_edge"], "max_pixels": bounds["longest_edge"]}
    chats = [[_message({"type": "image", "image": image, **area}, prompt)] for image in images]
    sized, _ = process_vision_info(chats, image_patch_size=processor.image_processor.patch_size)
    text = processor.apply_chat_template([_message({"type": "image"}, prompt)], add_generation_prompt=True)
    return _process(processor, text, sized, size)


def generic_inputs(processor: Any, images: Sequence[Image.Image], prompt: str, size: Size | None) -> Any:
    """Return the inputs of a model by its chat template, which takes the images, too."""
    return processor.apply_chat_template(
        [[_message({"type": "image", "image": image}, prompt)] for image in images],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **_size_argument(size)},
    )


@dataclass(frozen=True)
class Family:
    """How to make the inputs of one family, and the checkpoints that belong to it."""

    inputs: Callable[[Any, Sequence[Image.Image], str, Size | None], Any]
    model_types: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()  # libraries besides transformers


FAMILIES: Mapping[ModelFamily, Family] = {
    ModelFamily.SMOLVLM: Family(smolvlm_inputs, frozenset({"idefics3", "smolvlm"})),
    ModelFamily.QWEN: Family(
        qwen_inputs,
        frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}),
        needs=("qwen_vl_utils",),
    ),
    ModelFamily.GENERIC: Family(generic_inputs),
}


def family_of(name: ModelFamily, folder: Path) -> Family:
    """Return a family by name; for `auto`, that of the checkpoint in a folder."""
    if name is not ModelFamily.AUTO:
        return FAMILIES[name]
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):  # loading it gives a better error message
        kind = None
    found = (family for family in FAMILIES.values() if kind in family.model_types)
    return next(found, FAMILIES[ModelFamily.GENERIC])


def _message(image: dict[str, Any], prompt: str) -> dict[str, Any]:
    return {"role": "user", "content": [image, {"type": "text", "text": prompt}]}


def _process(processor: Any, text: str, images: Sequence[Any], size: Size | None) -> Any:
    return processor(
        text=[text] * len(images),
        images=list(images),
        padding=True,
        add_special_tokens=False,  # they are already part of the text
        return_tensors="pt",
        **_size_argument(size),
    )


def _size_argument(size: Size | None) -> dict[str, Any]:
    return {"size": dict(size)} if size else {}
