"""`vision_mlx`: a model that runs in this process with MLX, on the GPU of a Mac or the CPU of a Linux machine.

Knows mlx-vlm. Does not know what prompts and replies mean.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field

from bibwatch.errors import ConfigurationError, one_line
from bibwatch.runtimes import checkpoints
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, Prediction, Token
from bibwatch.runtimes.generative import BatchRuntime
from bibwatch.runtimes.grammars import GrammarCompiler, GrammarMatcher
from bibwatch.runtimes.hub import HubOptions

_STOP_TOKENS = 16  # number of last tokens searched for a stop text
_FLAT_CONFIGS = frozenset({"qwen2_vl", "qwen2_5_vl"})  # mlx-vlm expects their text settings at the root
_FINISHES = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VisionMlxOptions(HubOptions):
    """A checkpoint that mlx-vlm supports, in the precision and quantization in which it was saved."""

    kind: Literal["vision_mlx"] = "vision_mlx"
    batch_size: int = Field(default=1, ge=1, description="Images per batch; MLX still processes them one by one.")

    @property
    def place(self) -> str:
        return "mlx"

    def obstacle(self) -> str | None:
        return self.unavailable_reason("mlx", "mlx_vlm", extra="mlx")


class VisionMlx(BatchRuntime[VisionMlxOptions]):
    """Processes images one by one: mlx-vlm's batches report neither probabilities nor finish reasons."""

    options_type: ClassVar[type[ModelOptions]] = VisionMlxOptions

    def __init__(self, options: VisionMlxOptions) -> None:
        super().__init__(options)
        self._model: Any = None
        self._processor: Any = None
        self._grammars: GrammarCompiler | None = None

    def load(self) -> None:
        if self._model is not None:
            return
        where = f"preset {self.options.name}"
        try:
            import mlx_vlm
        except ImportError as exc:
            raise ConfigurationError(f"{where}: {one_line(exc)}: pip install 'bibwatch[mlx]'") from exc
        folder = checkpoints.folder(self.options)
        try:
            with _mlx_processors(), _compatible_folder(folder) as compatible:
                model, processor = mlx_vlm.load(str(compatible), trust_remote_code=self.options.trust_remote_code)
        except Exception as exc:
            raise ConfigurationError(f"{where}: {self.options.repo_id} cannot be loaded: {one_line(exc, 300)}") from exc
        if not any(getattr(part, "chat_template", None) for part in (processor, _tokenizer(processor))):
            raise ConfigurationError(f"{where}: {self.options.repo_id} has no chat template")
        image_processor = processor.image_processor
        size = checkpoints.image_size(self.options, _size(image_processor))
        if size and hasattr(image_processor, "size"):
            image_processor.size = size
        elif size:
            image_processor.min_pixels, image_processor.max_pixels = size["shortest_edge"], size["longest_edge"]
        self._model, self._processor = model, processor

    def close(self) -> None:
        if self._model is None:
            return
        import mlx.core as mx

        self._model = self._processor = self._grammars = None
        mx.clear_cache()

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        from mlx_vlm.prompt_utils import apply_chat_template

        # Image first, as in all other engines: for some models (Qwen2-VL), mlx-vlm would put it last.
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        text = apply_chat_template(self._processor, self._model.config, message, num_images=1)
        return [self._generate(image, text, self._matcher(constraint)) for image in images]

    def _generate(self, image: Image.Image, text: str, matcher: GrammarMatcher | None) -> Prediction:
        import mlx.core as mx
        from mlx_vlm import stream_generate

        if self.options.seed is not None:
            mx.random.seed(self.options.seed)
        ids: list[int] = []
        logprobs: list[float] = []
        finish = FinishReason.UNKNOWN
        for step in stream_generate(
            self._model,
            self._processor,
            text,
            image=[image],
            max_tokens=self.options.max_new_tokens,
            temperature=self.options.temperature,
            # The checkpoint's own sampling settings would change the meaning of `temperature`.
            top_p=self.options.top_p,
            top_k=0,
            logits_processors=[_logits_processor(matcher)] if matcher else None,
        ):
            if step.finish_reason is None:
                ids.append(int(step.token))
                logprobs.append(float(step.logprobs[step.token]))
                if any(stop in self._decode(ids[-_STOP_TOKENS:]) for stop in self.options.stop):
                    break
            else:  # the last step repeats the last token, or ends the reply
                finish = _FINISHES.get(step.finish_reason, FinishReason.UNKNOWN)
        texts = checkpoints.token_texts(ids, self._decode)
        return Prediction(
            text="".join(texts),
            finish_reason=finish,
            tokens=tuple(map(Token, texts, logprobs)),
            device=str(mx.default_device().type).rpartition(".")[2],
        )

    def _matcher(self, constraint: Constraint | None) -> GrammarMatcher | None:
        if constraint is None:
            return None
        if self._grammars is None:
            tokenizer = _tokenizer(self._processor)
            self._grammars = GrammarCompiler(tokenizer, tokenizer.stopping_criteria.eos_token_ids, extra="mlx")
        return self._grammars.matcher(constraint, replies=1)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = _tokenizer(self._processor).decode(
            ids, skip_special_tokens=self.options.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text


def _logits_processor(matcher: GrammarMatcher) -> Callable[[Any, Any], Any]:
    """Return a matcher as a logits processor of mlx-vlm: it maps tokens and scores of one reply to masked scores."""
    import mlx.core as mx

    def mask(tokens: Any, scores: Any) -> Any:
        allowed = matcher.allowed([int(tokens.reshape(-1)[-1])], scores.shape[-1])
        return mx.where(mx.array(allowed), scores, -float("inf"))

    return mask


def _size(processor: Any) -> dict[str, int | None]:
    """Return the size that a processor resizes images to, named as in transformers, also for mlx-vlm's Qwen."""
    if hasattr(processor, "size"):
        return dict(processor.size or {})
    if hasattr(processor, "min_pixels"):
        return {"shortest_edge": processor.min_pixels, "longest_edge": processor.max_pixels}
    return {}


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


_patched: Any = None  # mlx-vlm's replacement of AutoProcessor.from_pretrained


@contextmanager
def _mlx_processors() -> Iterator[None]:
    """Limit mlx-vlm's patch of transformers to this block.

    It replaces AutoProcessor.from_pretrained, so that models in transformers would get MLX arrays from then on.
    """
    global _patched  # noqa: PLW0603  # the patched class is global, too
    from transformers import AutoProcessor

    original = AutoProcessor.__dict__["from_pretrained"]
    if _patched is not None:
        AutoProcessor.from_pretrained = _patched
    try:
        yield
    finally:
        _patched = AutoProcessor.__dict__["from_pretrained"]
        AutoProcessor.from_pretrained = original


@contextmanager
def _compatible_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder with a config.json that mlx-vlm understands.

    transformers 5 writes only `rope_parameters`: mlx-vlm then uses a default and silently generates nonsense.
    It also nests the text model's settings: mlx-vlm then fails to load Qwen models.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = [_add_rope_theta(config), _flatten_qwen(config)]
    if not any(changed):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bibwatch-mlx-") as temporary:
        compatible = Path(temporary)
        for file in folder.iterdir():
            if file.name != "config.json":
                (compatible / file.name).symlink_to(file.resolve())
        (compatible / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield compatible


def _add_rope_theta(config: dict[str, Any]) -> bool:
    """Add the older names for `rope_parameters` to a configuration and its nested ones; return whether it changed."""
    changed = False
    for inner in [value for value in config.values() if isinstance(value, dict)]:
        changed |= _add_rope_theta(inner)
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return changed
    old_names = {"rope_theta": rope["rope_theta"]}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    if scaling and scaling != {"rope_type": "default"}:
        old_names["rope_scaling"] = scaling | {"type": scaling.get("rope_type", "default")}
    missing = {key: value for key, value in old_names.items() if config.get(key) is None}
    config.update(missing)
    return changed or bool(missing)


def _flatten_qwen(config: dict[str, Any]) -> bool:
    """Copy the nested settings of Qwen's text model to the root; return whether it changed."""
    text = config.get("text_config")
    if config.get("model_type") not in _FLAT_CONFIGS or not isinstance(text, dict):
        return False
    config.update({key: value for key, value in text.items() if config.get(key) is None})
    config["vision_config"]["model_type"] = config["model_type"]
    return True
