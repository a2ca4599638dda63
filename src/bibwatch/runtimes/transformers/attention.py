"""Attention over the patches of a picture, for CPUs that compute in bfloat16.

torch's own kernel multiplies in float32 there, whatever it is given: plain products of matrices are twice as fast and
more, as long as the scores between them stay in the processor's cache. Knows transformers' attention interface.
"""

from __future__ import annotations

from typing import Any

_NAME = "bibwatch_patches"
_SCORES = 1 << 22  # computed at once: 8 MB


def speed_up(model: Any) -> None:
    """Let a model on a CPU that computes in bfloat16 attend to patches faster, if its kind can be told to."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    vision = getattr(model.config, "vision_config", None)
    if getattr(vision, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(_NAME, attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation({"vision_config": _NAME})


def attend(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, scaling: float | None = None, **others: Any
) -> tuple[Any, None]:
    """Attend from every patch to every patch; whatever is not so plain is left to torch's kernel.

    Tensors are (pictures, heads, patches, width); the answer is (pictures, patches, heads, width).
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    asked = {name for name, value in others.items() if value is not None} - {"dropout", "is_causal"}
    plain = attention_mask is None and query.shape == key.shape and others.get("is_causal") is False
    if asked or not plain or scaling is None:
        answer: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return answer
    at_once = max(1, _SCORES // query.shape[2] ** 2)
    if query.shape[0] * query.shape[1] <= at_once:
        return _seen(query * scaling, key, value).transpose(1, 2), None
    some = (tensor.flatten(0, 1).split(at_once) for tensor in (query * scaling, key, value))
    seen = torch.cat([_seen(*parts) for parts in zip(*some, strict=True)])
    return seen.unflatten(0, query.shape[:2]).transpose(1, 2), None


def _seen(query: Any, key: Any, value: Any) -> Any:
    return (query @ key.mT).softmax(dim=-1) @ value
