"""`vision_mlx`: a model in this process, run by MLX: on the GPU of an Apple computer, on the CPU of a Linux one.

Knows mlx-vlm. Does not know what is asked or what the answer is for.
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

_STOP_TOKENS = 16  # at the end of an answer, in which a text to stop at is looked for
_TEXT_AT_THE_ROOT = frozenset({"qwen2_vl", "qwen2_5_vl"})  # mlx-vlm knows these as the hub has them
_FINISHES = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VisionMlxOptions(HubOptions):
    """A checkpoint that mlx-vlm knows. Its precision and its quantization are those of the checkpoint."""

    kind: Literal["vision_mlx"] = "vision_mlx"
    batch_size: int = Field(default=1, ge=1, description="Images taken at once; MLX answers them one by one.")

    @property
    def place(self) -> str:
        return "mlx"

    def obstacle(self) -> str | None:
        return self.missing("mlx", "mlx_vlm", extra="mlx")


class VisionMlx(BatchRuntime[VisionMlxOptions]):
    """Pictures are answered one by one: mlx-vlm's batches tell neither probabilities nor why an answer ended."""

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
            with _mlx_processors(), _older_spelling(folder) as spelled:
                model, processor = mlx_vlm.load(str(spelled), trust_remote_code=self.options.trust_remote_code)
        except Exception as exc:
            raise ConfigurationError(f"{where}: {self.options.repo_id} cannot be loaded: {one_line(exc, 300)}") from exc
        if not any(getattr(part, "chat_template", None) for part in (processor, _tokenizer(processor))):
            raise ConfigurationError(f"{where}: {self.options.repo_id} comes without a chat template")
        pictures = processor.image_processor
        size = checkpoints.picture_size(self.options, _size(pictures))
        if size and hasattr(pictures, "size"):
            pictures.size = size
        elif size:
            pictures.min_pixels, pictures.max_pixels = size["shortest_edge"], size["longest_edge"]
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

        # The picture comes first, as for all other engines: mlx-vlm itself would put some models' (Qwen2-VL) last.
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        text = apply_chat_template(self._processor, self._model.config, message, num_images=1)
        return [self._answer(image, text, self._matcher(constraint)) for image in images]

    def _answer(self, image: Image.Image, text: str, matcher: GrammarMatcher | None) -> Prediction:
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
            # A checkpoint's own taste in sampling would change what `temperature` means here.
            top_p=self.options.top_p,
            top_k=0,
            logits_processors=[_masks(matcher)] if matcher else None,
        ):
            if step.finish_reason is None:
                ids.append(int(step.token))
                logprobs.append(float(step.logprobs[step.token]))
                if any(stop in self._decode(ids[-_STOP_TOKENS:]) for stop in self.options.stop):
                    break
            else:  # the last step repeats the last token, or is the one that ends the answer
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


def _masks(matcher: GrammarMatcher) -> Callable[[Any, Any], Any]:
    """Return a form as mlx-vlm asks it: for the scores of one reply, after the tokens so far."""
    import mlx.core as mx

    def masks(tokens: Any, scores: Any) -> Any:
        allowed = matcher.allowed([int(tokens.reshape(-1)[-1])], scores.shape[-1])
        return mx.where(mx.array(allowed), scores, -float("inf"))

    return masks


def _size(pictures: Any) -> dict[str, int | None]:
    """Return the size a processor brings pictures to, in transformers' words: mlx-vlm's own for Qwen has others."""
    if hasattr(pictures, "size"):
        return dict(pictures.size or {})
    if hasattr(pictures, "min_pixels"):
        return {"shortest_edge": pictures.min_pixels, "longest_edge": pictures.max_pixels}
    return {}


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


_patched: Any = None  # AutoProcessor.from_pretrained as mlx-vlm leaves it


@contextmanager
def _mlx_processors() -> Iterator[None]:
    """Keep to this block what mlx-vlm does to transformers.

    It replaces AutoProcessor.from_pretrained, and a model that transformers runs would get MLX's arrays from then on.
    """
    global _patched  # noqa: PLW0603  # it is one for the process, as what it replaces is
    from transformers import AutoProcessor

    plain = AutoProcessor.__dict__["from_pretrained"]
    if _patched is not None:
        AutoProcessor.from_pretrained = _patched
    try:
        yield
    finally:
        _patched = AutoProcessor.__dict__["from_pretrained"]
        AutoProcessor.from_pretrained = plain


@contextmanager
def _older_spelling(folder: Path) -> Iterator[Path]:
    """Give a folder whose config.json says things where mlx-vlm looks for them.

    transformers 5 writes `rope_parameters` only: mlx-vlm then takes a default, and reads nonsense without a word.
    It nests the text model's settings of every model: Qwen's mlx-vlm then does not load.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = [_spell_rope(config), _spell_qwen(config)]
    if not any(changed):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bibwatch-mlx-") as temporary:
        spelled = Path(temporary)
        for file in folder.iterdir():
            if file.name != "config.json":
                (spelled / file.name).symlink_to(file.resolve())
        (spelled / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield spelled


def _spell_rope(config: dict[str, Any]) -> bool:
    """Add the older names of `rope_parameters` to a configuration and those inside it; tell if any was missing."""
    changed = False
    for inner in [value for value in config.values() if isinstance(value, dict)]:
        changed |= _spell_rope(inner)
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return changed
    older = {"rope_theta": rope["rope_theta"]}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    if scaling and scaling != {"rope_type": "default"}:
        older["rope_scaling"] = scaling | {"type": scaling.get("rope_type", "default")}
    missing = {key: value for key, value in older.items() if config.get(key) is None}
    config.update(missing)
    return changed or bool(missing)


def _spell_qwen(config: dict[str, Any]) -> bool:
    """Put the nested settings of a Qwen's text model at the root; tell if there were any."""
    text = config.get("text_config")
    if config.get("model_type") not in _TEXT_AT_THE_ROOT or not isinstance(text, dict):
        return False
    config.update({key: value for key, value in text.items() if config.get(key) is None})
    config["vision_config"]["model_type"] = config["model_type"]
    return True
