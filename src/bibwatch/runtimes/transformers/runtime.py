"""`vision_hf_transformers`: a model that runs in this process with Hugging Face transformers.

Knows transformers' processors and `generate`. Does not know what prompts and replies mean.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Any, ClassVar

import structlog
from PIL import Image

from bibwatch.errors import ConfigurationError, ModelUnavailableError, one_line
from bibwatch.runtimes import checkpoints
from bibwatch.runtimes.base import BoxConvention, Constraint, FinishReason, ModelOptions, Prediction, Token
from bibwatch.runtimes.devices import AcceleratorDevice, free_memory, is_out_of_memory
from bibwatch.runtimes.generative import BatchRuntime
from bibwatch.runtimes.grammars import GrammarCompiler
from bibwatch.runtimes.hub import not_installed
from bibwatch.runtimes.transformers.families import Family, family_of
from bibwatch.runtimes.transformers.model import HfModel, places
from bibwatch.runtimes.transformers.options import (
    TransformersPromptStyle,
    VisionHfTransformersOptions,
)
from bibwatch.runtimes.transformers.sampling import LogprobRecorder, SeededSampler
from bibwatch.runtimes.transformers.sharing import Shared

log = structlog.get_logger()

_TRIAL_SIZE = (480, 320)  # pixels; suits any model

_MODELS: Shared[HfModel] = Shared()  # of all runtimes in this process


class VisionHfTransformers(BatchRuntime[VisionHfTransformersOptions]):
    """Runs a model on batches, padded on the left.

    A batch that does not fit in the device's memory is halved; if a single image does not fit, the model moves to the
    CPU. Both are logged once and last until the model is closed, usually when the daemon restarts.
    """

    options_type: ClassVar[type[ModelOptions]] = VisionHfTransformersOptions

    def __init__(self, options: VisionHfTransformersOptions) -> None:
        super().__init__(options)
        self._loading = Lock()
        self._loaded: HfModel | None = None
        self._key: Hashable = None
        self._family: Family | None = None
        self._size: dict[str, int] | None = None  # for the processor
        self._grammars: GrammarCompiler | None = None
        self._max_batch = options.batch_size  # images that fit in the device's memory, as far as is known

    @property
    def loaded(self) -> HfModel | None:
        """The model and its processor; None unless they are loaded."""
        return self._loaded

    def load(self) -> None:
        with self._loading:
            if self._loaded is None:
                self._load()

    def close(self) -> None:
        with self._loading:
            if self._loaded is not None:
                self._release()

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        loaded = self._model
        predictions: list[Prediction] = []
        with loaded.lock:
            while len(predictions) < len(images):
                try:
                    loaded.ensure_loaded()
                except ModelUnavailableError as exc:
                    return [*predictions, *[Prediction(error=exc)] * (len(images) - len(predictions))]
                batch = images[len(predictions) : len(predictions) + self._max_batch]
                try:
                    predictions += self._generate(loaded, batch, prompt, constraint)
                    continue
                except Exception as exc:
                    if not is_out_of_memory(exc):
                        raise
                    reason = one_line(exc)
                # Outside the handler: the exception holds references to the batch's tensors.
                predictions += self._reduce_memory(loaded, len(batch), reason)
        return predictions

    def model_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        if self.options.boxes is not BoxConvention.MODEL_PIXELS:
            return None
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        processor = self._model.processor.image_processor
        limits = self._size or processor.size
        height, width = smart_resize(
            size[1],
            size[0],
            factor=processor.patch_size * processor.merge_size,
            min_pixels=limits["shortest_edge"],
            max_pixels=limits["longest_edge"],
        )
        return width, height

    @property
    def _model(self) -> HfModel:
        assert self._loaded is not None  # noqa: S101  # predict_batch loads
        return self._loaded

    def _load(self) -> None:
        options = self.options
        if absent := not_installed(*options.libraries, extra="local"):
            raise ConfigurationError(f"preset {options.name}: {absent}")
        folder = checkpoints.folder(options)
        where = places(options)
        self._family = family_of(options.family, folder)
        self._key = folder.resolve(), where, *(getattr(options, name) for name in options.loaded_by)
        self._loaded = _MODELS.acquire(self._key, lambda: HfModel(options, folder, where))
        self._max_batch = options.batch_size
        try:
            image_processor = getattr(self._loaded.processor, "image_processor", None)
            default = getattr(image_processor, "size", None)
            self._size = checkpoints.image_size(options, dict(default or {}))
            with self._loaded.lock:
                self._check_inputs()
        except Exception:
            self._release()
            raise

    def _check_inputs(self) -> None:
        """Process a blank image. Raises ConfigurationError if that fails, before any photo is read."""
        options = self.options
        where = f"preset {options.name}: {options.repo_id}"
        chat = options.transformers_prompt_style is TransformersPromptStyle.CHAT
        if chat and not getattr(self._model.processor, "chat_template", None):
            raise ConfigurationError(f"{where} has no chat template")
        try:
            self.model_size(_TRIAL_SIZE)
            # In raw style, the image placeholders are part of the prompt.
            if options.transformers_prompt_style is not TransformersPromptStyle.RAW:
                self._inputs([Image.new("RGB", _TRIAL_SIZE)], "")
        except Exception as exc:
            changed = options.model_dump(
                include={"family", "boxes", "image_longest_edge", "min_pixels", "max_pixels"}, exclude_defaults=True
            )
            settings = ", ".join(f"{name} = {value}" for name, value in changed.items())
            with_settings = f" with {settings}" if settings else ""
            raise ConfigurationError(f"{where} cannot process an image{with_settings}: {one_line(exc)}") from exc

    def _release(self) -> None:
        self._loaded = self._grammars = None
        if unused := _MODELS.release(self._key):
            unused.close()

    def _reduce_memory(self, loaded: HfModel, batch_size: int, reason: str) -> list[Prediction]:
        """Prepare to retry with half the images, or on the CPU; if neither is possible, return the error."""
        free_memory(loaded.device)
        if batch_size > 1:
            self._max_batch = batch_size // 2
            log.warning("batch.halved", preset=self.options.name, device=loaded.device, batch_size=self._max_batch)
        elif loaded.fall_back(reason):
            self._max_batch = self.options.batch_size
        else:
            error = ModelUnavailableError(
                f"{self.options.name}: not enough memory on {loaded.device} for one image ({reason}); "
                f"reduce longest_side, free memory, or {self._alternative(loaded.device)}"
            )
            return [Prediction(device=loaded.device, error=error)]
        return []

    def _alternative(self, device: str) -> str:
        cpu = AcceleratorDevice.CPU
        if device == cpu:
            return "use a smaller model"
        return f"allow the CPU as fallback ({self.options.unsupported_reason(cpu) or 'device_fallback = true'})"

    def _generate(
        self, loaded: HfModel, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> list[Prediction]:
        import torch

        model, options = loaded.model, self.options
        recorder = LogprobRecorder()
        processors: list[Any] = [recorder]
        if constraint is not None:
            processors.append(self._matcher(loaded, constraint, len(images)))
        if options.temperature > 0:
            processors.append(
                SeededSampler(len(images), temperature=options.temperature, top_p=options.top_p, seed=options.seed)
            )
        inputs = self._inputs(images, prompt).to(model.device, dtype=model.dtype)
        with torch.inference_mode():
            sequences = model.generate(
                **inputs,
                **self._stop_arguments(loaded),
                logits_processor=processors,
                max_new_tokens=options.max_new_tokens,
                use_cache=options.use_kv_cache,
            )
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        logprobs = recorder.of(sequences)
        return [
            self._prediction(loaded, ids, values)
            for ids, values in zip(sequences[:, start:].tolist(), logprobs.tolist(), strict=True)
        ]

    def _inputs(self, images: Sequence[Image.Image], prompt: str) -> Any:
        processor, family = self._model.processor, self._family
        assert family is not None  # noqa: S101  # set by _load
        style = self.options.transformers_prompt_style
        if style is TransformersPromptStyle.CHAT:
            return family.inputs(processor, images, prompt, self._size)
        size = {"size": self._size} if self._size else {}
        text = prompt if style is TransformersPromptStyle.RAW else getattr(processor, "image_token", None)
        if not text:
            return processor(images=list(images), return_tensors="pt", **size)
        return processor(
            images=[[image] for image in images],
            text=[text] * len(images),
            padding=True,
            return_tensors="pt",
            **size,
        )

    def _matcher(self, loaded: HfModel, constraint: Constraint, replies: int) -> Any:
        if self._grammars is None:
            self._grammars = GrammarCompiler(_tokenizer(loaded), _end_tokens(loaded), extra="local")
        return self._grammars.matcher(constraint, replies)

    def _stop_arguments(self, loaded: HfModel) -> dict[str, Any]:
        stop = list(self.options.stop)
        return {"stop_strings": stop, "tokenizer": _tokenizer(loaded)} if stop else {}

    def _prediction(self, loaded: HfModel, ids: list[int], logprobs: list[float]) -> Prediction:
        end_tokens = _end_tokens(loaded)
        length = next((index for index, token in enumerate(ids) if token in end_tokens), None)
        ids, finish = (ids, FinishReason.LENGTH) if length is None else (ids[:length], FinishReason.STOP)
        texts = checkpoints.token_texts(ids, self._decode)
        return Prediction(
            text="".join(texts),
            finish_reason=finish,
            tokens=tuple(map(Token, texts, logprobs[: len(ids)])),
            device=loaded.device,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = _tokenizer(self._model).decode(
            ids, skip_special_tokens=self.options.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text


def _tokenizer(loaded: HfModel) -> Any:
    return getattr(loaded.processor, "tokenizer", loaded.processor)


def _end_tokens(loaded: HfModel) -> list[int]:
    """Return the tokens that end a reply."""
    ids = loaded.model.generation_config.eos_token_id
    return [ids] if isinstance(ids, int) else list(ids or [])
