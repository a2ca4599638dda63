"""Extractors by name: the guide's four, and every other preset.

Knows which class stands for which preset, and keeps each extractor, so that a model is loaded once.
"""

from __future__ import annotations

import threading

from bibwatch.messages import alike
from bibwatch.runtimes.openai import VisionOpenAILikeApiOptions
from bibwatch.runtimes.transformers import VisionHfTransformersOptions
from image_rec_mod.backends.vlm import (
    ImageScaler,
    LocalQwenExtractor,
    LocalSmolVLMExtractor,
    RemoteVLLMExtractor,
    StageExtractor,
    VLMExtractor,
    bib_stage,
)

_LOCAL = {
    "qwen-inline-cpu": LocalQwenExtractor,
    "qwen-inline-gpu": LocalQwenExtractor,
    "smol-inline-cpu": LocalSmolVLMExtractor,
    "smol-inline-gpu": LocalSmolVLMExtractor,
}

# An extractor of your own is registered by putting it here.
_EXTRACTOR_CACHE: dict[str, VLMExtractor] = {}
_ONE_AT_A_TIME = threading.Lock()


def get_extractor(extractor_name: str, scale_width: int | None = None, scale_height: int | None = None) -> VLMExtractor:
    """Return the extractor of a name, always the same one; scaled ones share its model. Nothing is loaded yet.

    Raises ConfigurationError for an unknown name, a preset that cannot read bibs, and a scale of nothing.
    """
    with _ONE_AT_A_TIME:
        kept = list(_EXTRACTOR_CACHE)  # others write into it
        alikes = (name for name in kept if alike(name, extractor_name))
        name = extractor_name if extractor_name in kept else next(alikes, extractor_name)
        if name not in _EXTRACTOR_CACHE:
            _EXTRACTOR_CACHE[name] = _of_preset(name)
        plain = _EXTRACTOR_CACHE[name]
    if scale_width is None and scale_height is None:
        return plain
    return plain.with_scaler(ImageScaler(scale_width, scale_height))


def _of_preset(name: str) -> VLMExtractor:
    stage = bib_stage(name)
    match stage.options.model_options:
        case VisionHfTransformersOptions() as model if model.name in _LOCAL:
            return _LOCAL[model.name](model.repo_id, model.device, stage=stage)
        case VisionOpenAILikeApiOptions() as model:
            return RemoteVLLMExtractor(model.api_url, model.model_name, stage=stage)
        case _:
            return StageExtractor(stage)
