"""Models that run in this process with Hugging Face transformers."""

from bibwatch.runtimes.transformers.options import (
    TransformersModelType,
    TransformersPromptStyle,
    VisionHfTransformersOptions,
)
from bibwatch.runtimes.transformers.runtime import VisionHfTransformers

__all__ = ["TransformersModelType", "TransformersPromptStyle", "VisionHfTransformers", "VisionHfTransformersOptions"]
