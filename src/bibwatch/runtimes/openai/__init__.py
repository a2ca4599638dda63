"""Models on servers with OpenAI's chat completions API."""

from bibwatch.runtimes.openai.options import Address, VisionOpenAILikeApiOptions
from bibwatch.runtimes.openai.runtime import VisionOpenAILikeApi

__all__ = ["Address", "VisionOpenAILikeApi", "VisionOpenAILikeApiOptions"]
