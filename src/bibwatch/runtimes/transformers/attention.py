"""Faster attention over image patches, for CPUs that compute in bfloat16.

There, torch's kernel still multiplies in float32: plain matrix products are at least twice as fast, as long as the
scores fit in the processor's cache. Knows transformers' attention interface.
"""

from __future__ import annotations

from typing import Any

_NAME = "bibwatch_patches"
_MAX_SCORES = 1 << 22  # computed at once: 8 MB


def speed_up(model: Any) -> None:
    """Replace the attention of the vision model, if it is torch's. For models in bfloat16 on a CPU."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    vision = getattr(model.config, "vision_config", None)
    if getattr(vision, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(_NAME, attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation({"vision_config": _NAME})


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, scaling: float | None = None, **options: Any
) -> tuple[Any, None]:
    """Attend from every patch to every patch; anything else is left to torch's kernel.

    Tensors are (images, heads, patches, width); the result is (images, patches, heads, width).
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    unsupported = {name for name, value in options.items() if value is not None} - {"dropout", "is_causal"}
    full = attention_mask is None and query.shape == key.shape and options.get("is_causal") is False
    if unsupported or not full or scaling is None:
        result: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return result
    at_once = max(1, _MAX_SCORES // query.shape[2] ** 2)
    if query.shape[0] * query.shape[1] <= at_once:
        return _attention(query * scaling, key, value).transpose(1, 2), None
    chunks = (tensor.flatten(0, 1).split(at_once) for tensor in (query * scaling, key, value))
    attended = torch.cat([_attention(*parts) for parts in zip(*chunks, strict=True)])
    return attended.unflatten(0, query.shape[:2]).transpose(1, 2), None


def _attention(query: Any, key: Any, value: Any) -> Any:
    return (query @ key.mT).softmax(dim=-1) @ value
