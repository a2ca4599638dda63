"""Models behind servers that speak OpenAI's chat completions."""

from bibwatch.runtimes.openai.options import Address, VisionOpenAILikeApiOptions
from bibwatch.runtimes.openai.runtime import VisionOpenAILikeApi

__all__ = ["Address", "VisionOpenAILikeApi", "VisionOpenAILikeApiOptions"]
