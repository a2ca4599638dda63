"""Returns extractors by preset name.

Knows which class serves which preset, and caches extractors, so that each model is loaded once.
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

# Register a custom extractor by adding it here.
_EXTRACTOR_CACHE: dict[str, VLMExtractor] = {}
_CACHE_LOCK = threading.Lock()


def get_extractor(extractor_name: str, scale_width: int | None = None, scale_height: int | None = None) -> VLMExtractor:
    """Return the cached extractor with this name, or a scaled copy that shares its model. Loads nothing.

    Raise ConfigurationError for an unknown name, a preset that cannot read bibs, or an invalid scale.
    """
    with _CACHE_LOCK:
        cached = list(_EXTRACTOR_CACHE)  # a copy, as callers may add to it
        matches = (name for name in cached if alike(name, extractor_name))
        name = extractor_name if extractor_name in cached else next(matches, extractor_name)
        if name not in _EXTRACTOR_CACHE:
            _EXTRACTOR_CACHE[name] = _create(name)
        extractor = _EXTRACTOR_CACHE[name]
    if scale_width is None and scale_height is None:
        return extractor
    return extractor.with_scaler(ImageScaler(scale_width, scale_height))


def _create(name: str) -> VLMExtractor:
    stage = bib_stage(name)
    match stage.options.model_options:
        case VisionHfTransformersOptions() as model if model.name in _LOCAL:
            return _LOCAL[model.name](model.repo_id, model.device, stage=stage)
        case VisionOpenAILikeApiOptions() as model:
            return RemoteVLLMExtractor(model.api_url, model.model_name, stage=stage)
        case _:
            return StageExtractor(stage)
