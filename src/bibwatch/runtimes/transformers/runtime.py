"""`vision_hf_transformers`: a model in this process, run by Hugging Face transformers.

Knows transformers' processors and `generate`. Does not know what is asked or what the answer is for.
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
from bibwatch.runtimes.transformers.sampling import Probabilities, SeededSampler
from bibwatch.runtimes.transformers.sharing import Shared

log = structlog.get_logger()

_TRIAL = (480, 320)  # pixels: a picture as any model takes them

_MODELS: Shared[HfModel] = Shared()  # of this process: whoever asks for the same one gets it


class VisionHfTransformers(BatchRuntime[VisionHfTransformersOptions]):
    """Pictures of a batch are padded on the left and answered together.

    A batch that does not fit into the device's memory is halved, and a picture that does not fit is answered on the
    CPU. Both are logged once and stay so until the model is closed: the daemon tries the larger batch, or the device,
    again when it is next started.
    """

    options_type: ClassVar[type[ModelOptions]] = VisionHfTransformersOptions

    def __init__(self, options: VisionHfTransformersOptions) -> None:
        super().__init__(options)
        self._loading = Lock()
        self._loaded: HfModel | None = None
        self._key: Hashable = None
        self._family: Family | None = None
        self._size: dict[str, int] | None = None
        self._grammars: GrammarCompiler | None = None
        self._most = options.batch_size  # pictures that the device's memory holds at once, as far as is known

    @property
    def loaded(self) -> HfModel | None:
        """Model and processor, while they are there."""
        return self._loaded

    def load(self) -> None:
        with self._loading:
            if self._loaded is None:
                self._load()

    def close(self) -> None:
        with self._loading:
            if self._loaded is not None:
                self._let_go()

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        loaded = self._model
        answers: list[Prediction] = []
        with loaded.lock:
            while len(answers) < len(images):
                try:
                    loaded.ready()
                except ModelUnavailableError as exc:
                    return [*answers, *[Prediction(error=exc)] * (len(images) - len(answers))]
                some = images[len(answers) : len(answers) + self._most]
                try:
                    answers += self._answer(loaded, some, prompt, constraint)
                    continue
                except Exception as exc:
                    if not is_out_of_memory(exc):
                        raise
                    reason = one_line(exc)
                # Out here, for the exception held the tensors of the batch.
                answers += self._with_less_memory(loaded, len(some), reason)
        return answers

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
        self._loaded = _MODELS.take(self._key, lambda: HfModel(options, folder, where))
        self._most = options.batch_size
        try:
            pictures = getattr(self._loaded.processor, "image_processor", None)
            default = getattr(pictures, "size", None)
            self._size = checkpoints.picture_size(options, dict(default or {}))
            with self._loaded.lock:
                self._try_inputs()
        except Exception:
            self._let_go()
            raise

    def _try_inputs(self) -> None:
        """Give the processor a picture. Raises ConfigurationError if it takes none: so no photo is to find that out."""
        options = self.options
        where = f"preset {options.name}: {options.repo_id}"
        chat = options.transformers_prompt_style is TransformersPromptStyle.CHAT
        if chat and not getattr(self._model.processor, "chat_template", None):
            raise ConfigurationError(f"{where} comes without a chat template")
        try:
            self.model_size(_TRIAL)
            if options.transformers_prompt_style is not TransformersPromptStyle.RAW:  # only the prompt has its places
                self._inputs([Image.new("RGB", _TRIAL)], "")
        except Exception as exc:
            set_here = options.model_dump(
                include={"family", "boxes", "image_longest_edge", "min_pixels", "max_pixels"}, exclude_defaults=True
            )
            told = "".join(f", {name} = {value}" for name, value in set_here.items())
            raise ConfigurationError(f"{where} takes no picture{told}: {one_line(exc)}") from exc

    def _let_go(self) -> None:
        self._loaded = self._grammars = None
        if last := _MODELS.give_back(self._key):
            last.close()

    def _with_less_memory(self, loaded: HfModel, tried: int, reason: str) -> list[Prediction]:
        """Make ready for another attempt with half as many pictures, or on the CPU; else return the error."""
        free_memory(loaded.device)
        if tried > 1:
            self._most = tried // 2
            log.warning("batch.halved", preset=self.options.name, device=loaded.device, pictures=self._most)
        elif loaded.fall_back(reason):
            self._most = self.options.batch_size
        else:
            error = ModelUnavailableError(
                f"{self.options.name}: too little memory on {loaded.device} for one picture ({reason}); make pictures "
                f"smaller (longest_side), free memory, or {self._way_out(loaded.device)}"
            )
            return [Prediction(device=loaded.device, error=error)]
        return []

    def _way_out(self, device: str) -> str:
        cpu = AcceleratorDevice.CPU
        if device == cpu:
            return "take a smaller model"
        return f"let the CPU take over ({self.options.hindrance(cpu) or 'device_fallback = true'})"

    def _answer(
        self, loaded: HfModel, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> list[Prediction]:
        import torch

        model, options = loaded.model, self.options
        probabilities = Probabilities()
        processors: list[Any] = [probabilities]
        if constraint is not None:
            processors.append(self._form(loaded, constraint, len(images)))
        if options.temperature > 0:
            processors.append(
                SeededSampler(len(images), temperature=options.temperature, top_p=options.top_p, seed=options.seed)
            )
        inputs = self._inputs(images, prompt).to(model.device, dtype=model.dtype)
        with torch.inference_mode():
            sequences = model.generate(
                **inputs,
                **self._stops(loaded),
                logits_processor=processors,
                max_new_tokens=options.max_new_tokens,
                use_cache=options.use_kv_cache,
            )
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        logprobs = probabilities.of(sequences)
        return [
            self._prediction(loaded, row, numbers)
            for row, numbers in zip(sequences[:, start:].tolist(), logprobs.tolist(), strict=True)
        ]

    def _inputs(self, images: Sequence[Image.Image], prompt: str) -> Any:
        processor, family = self._model.processor, self._family
        assert family is not None  # noqa: S101  # known as soon as the model is loaded
        style = self.options.transformers_prompt_style
        if style is TransformersPromptStyle.CHAT:
            return family.inputs(processor, images, prompt, self._size)
        sized = {"size": self._size} if self._size else {}
        text = prompt if style is TransformersPromptStyle.RAW else getattr(processor, "image_token", None)
        if not text:
            return processor(images=list(images), return_tensors="pt", **sized)
        return processor(
            images=[[image] for image in images],
            text=[text] * len(images),
            padding=True,
            return_tensors="pt",
            **sized,
        )

    def _form(self, loaded: HfModel, constraint: Constraint, replies: int) -> Any:
        if self._grammars is None:
            self._grammars = GrammarCompiler(_tokenizer(loaded), _ends(loaded), extra="local")
        return self._grammars.matcher(constraint, replies)

    def _stops(self, loaded: HfModel) -> dict[str, Any]:
        stop = list(self.options.stop)
        return {"stop_strings": stop, "tokenizer": _tokenizer(loaded)} if stop else {}

    def _prediction(self, loaded: HfModel, ids: list[int], logprobs: list[float]) -> Prediction:
        ends = _ends(loaded)
        length = next((place for place, token in enumerate(ids) if token in ends), None)
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


def _ends(loaded: HfModel) -> list[int]:
    """Return the tokens that end a reply."""
    last = loaded.model.generation_config.eos_token_id
    return [last] if isinstance(last, int) else list(last or [])
