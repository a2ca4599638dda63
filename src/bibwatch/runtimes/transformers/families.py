"""How pictures and a prompt become what a model computes with, by the family its checkpoint belongs to.

Knows chat templates and transformers' processors. Does not know the models behind them.

To add a family: a member of `ModelFamily`, a function, and a line in `FAMILIES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from PIL import Image

Size = Mapping[str, int]  # what a processor is to bring pictures to; None for its own


class ModelFamily(StrEnum):
    """Checkpoints that are fed alike."""

    AUTO = "auto"  # by the model_type in the checkpoint's config.json
    SMOLVLM = "smolvlm"
    QWEN = "qwen"
    GENERIC = "generic"  # all that transformers' own chat templates can feed


def of_smolvlm(processor: Any, images: Sequence[Image.Image], prompt: str, size: Size | None) -> Any:
    """Feed SmolVLM and Idefics3: pictures as they are, and the processor alone."""
    text = processor.apply_chat_template([_message({"type": "image"}, prompt)], add_generation_prompt=True)
    return _processed(processor, text, [[image] for image in images], size)


def of_qwen(processor: Any, images: Sequence[Image.Image], prompt: str, size: Size | None) -> Any:
    """Feed Qwen2-VL and its successors: `qwen_vl_utils` brings pictures to size, as their makers do."""
    from qwen_vl_utils import process_vision_info

    bounds = size or processor.image_processor.size
    area = {"min_pixels": bounds["shortest_edge"], "max_pixels": bounds["longest_edge"]}
    chats = [[_message({"type": "image", "image": image, **area}, prompt)] for image in images]
    sized, _ = process_vision_info(chats, image_patch_size=processor.image_processor.patch_size)
    text = processor.apply_chat_template([_message({"type": "image"}, prompt)], add_generation_prompt=True)
    return _processed(processor, text, sized, size)


def of_any(processor: Any, images: Sequence[Image.Image], prompt: str, size: Size | None) -> Any:
    """Feed a model by its chat template, pictures included."""
    return processor.apply_chat_template(
        [[_message({"type": "image", "image": image}, prompt)] for image in images],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **_sized(size)},
    )


@dataclass(frozen=True)
class Family:
    """How one family is fed, and the checkpoints that belong to it."""

    inputs: Callable[[Any, Sequence[Image.Image], str, Size | None], Any]
    model_types: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()  # libraries beside transformers


FAMILIES: Mapping[ModelFamily, Family] = {
    ModelFamily.SMOLVLM: Family(of_smolvlm, frozenset({"idefics3", "smolvlm"})),
    ModelFamily.QWEN: Family(
        of_qwen,
        frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}),
        needs=("qwen_vl_utils",),
    ),
    ModelFamily.GENERIC: Family(of_any),
}


def family_of(named: ModelFamily, folder: Path) -> Family:
    """Return the family named, for `auto` the one that the checkpoint in a folder belongs to."""
    if named is not ModelFamily.AUTO:
        return FAMILIES[named]
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):  # loading it says better what is wrong with it
        kind = None
    found = (family for family in FAMILIES.values() if kind in family.model_types)
    return next(found, FAMILIES[ModelFamily.GENERIC])


def _message(picture: dict[str, Any], prompt: str) -> dict[str, Any]:
    return {"role": "user", "content": [picture, {"type": "text", "text": prompt}]}


def _processed(processor: Any, text: str, images: Sequence[Any], size: Size | None) -> Any:
    return processor(
        text=[text] * len(images),
        images=list(images),
        padding=True,
        add_special_tokens=False,  # the template has written those there are
        return_tensors="pt",
        **_sized(size),
    )


def _sized(size: Size | None) -> dict[str, Any]:
    return {"size": dict(size)} if size else {}
