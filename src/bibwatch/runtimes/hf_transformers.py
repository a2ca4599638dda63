"""`vision_hf_transformers`: a model in this process, run by Hugging Face transformers.

Knows transformers' classes, processors and `generate`. Does not know what is asked or what the answer is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field

from bibwatch.errors import ConfigurationError, ModelError, one_line
from bibwatch.runtimes import checkpoints
from bibwatch.runtimes.base import BoxConvention, Constraint, Finish, ModelOptions, Prediction, Token
from bibwatch.runtimes.batches import BatchRuntime
from bibwatch.runtimes.devices import AcceleratorDevice, Dtype, DtypeOption, choose_device, torch_dtype
from bibwatch.runtimes.hub import HubOptions


class TransformersModelType(StrEnum):
    """Which of transformers' classes reads the checkpoint."""

    AUTOMODEL = "automodel"
    AUTOMODEL_VISION2SEQ = "automodel-vision2seq"  # gone from transformers 5; taken as image-text-to-text
    AUTOMODEL_CAUSALLM = "automodel-causallm"
    AUTOMODEL_IMAGETEXTTOTEXT = "automodel-imagetexttotext"


class TransformersPromptStyle(StrEnum):
    """How the prompt is put to the model."""

    CHAT = "chat"  # by the checkpoint's own chat template
    RAW = "raw"  # as it is written, image placeholders included
    NONE = "none"  # not at all; the picture alone


_CLASSES = {
    TransformersModelType.AUTOMODEL: "AutoModel",
    TransformersModelType.AUTOMODEL_VISION2SEQ: "AutoModelForImageTextToText",
    TransformersModelType.AUTOMODEL_CAUSALLM: "AutoModelForCausalLM",
    TransformersModelType.AUTOMODEL_IMAGETEXTTOTEXT: "AutoModelForImageTextToText",
}


class VisionHfTransformersOptions(HubOptions):
    """A checkpoint that transformers knows, on a GPU or the CPU."""

    hardware_fields: ClassVar[frozenset[str]] = ModelOptions.hardware_fields | {
        "device", "device_fallback", "supported_devices",
    }  # fmt: skip

    kind: Literal["vision_hf_transformers"] = "vision_hf_transformers"
    transformers_model_type: TransformersModelType = Field(
        default=TransformersModelType.AUTOMODEL_IMAGETEXTTOTEXT,
        description="transformers' class for the checkpoint.",
    )
    transformers_prompt_style: TransformersPromptStyle = Field(
        default=TransformersPromptStyle.CHAT,
        description="By the chat template, as it is written, or the picture alone.",
    )
    dtype: DtypeOption = Field(
        default=Dtype.AUTO,
        description="Precision; auto takes bfloat16 where the hardware computes in it.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: cuda, then mps, then cpu."
    )
    device_fallback: bool = Field(
        default=True, description="Take the CPU, with a warning, where the device is not there."
    )
    supported_devices: tuple[AcceleratorDevice, ...] = Field(
        default=tuple(AcceleratorDevice), min_length=1, description="Devices the model can be computed on."
    )
    quantized: bool = Field(default=False, description="Load the weights in 8 or 4 bits with bitsandbytes.")
    load_in_8bit: bool = Field(default=True, description="If quantized: 8 bits; false takes 4.")
    llm_int8_threshold: float = Field(
        default=6.0, ge=0, description="If quantized to 8 bits: activations over this stay in 16."
    )
    use_kv_cache: bool = Field(
        default=True, description="Keep what was computed for earlier tokens; false saves memory and takes long."
    )

    @property
    def place(self) -> str:
        return self.device

    def obstacle(self) -> str | None:
        if self.quantized and find_spec("bitsandbytes") is None:
            return "bitsandbytes not installed: pip install bitsandbytes"
        return self.missing("torch", "transformers", extra="local")


class VisionHfTransformers(BatchRuntime[VisionHfTransformersOptions]):
    """Pictures of a batch are padded on the left and answered together."""

    options_type: ClassVar[type[ModelOptions]] = VisionHfTransformersOptions

    def __init__(self, options: VisionHfTransformersOptions) -> None:
        super().__init__(options)
        self._model: Any = None
        self._processor: Any = None
        self._size: dict[str, int] | None = None

    def load(self) -> None:
        if self._model is not None:
            return
        options, where = self.options, f"preset {self.options.name}"
        try:
            from transformers import AutoProcessor
            from transformers.utils import logging
        except ImportError as exc:
            raise ConfigurationError(f"{where}: {one_line(exc)}: pip install 'bibwatch[local]'") from exc
        logging.disable_progress_bar()
        folder = checkpoints.folder(options)
        device = choose_device(options.device, options.supported_devices, fallback=options.device_fallback, where=where)
        try:
            processor = AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=options.trust_remote_code
            )
            model = self._load_model(folder, device)
        except ConfigurationError:
            raise
        except Exception as exc:
            raise ConfigurationError(f"{where}: {self._cannot_load(exc)}") from exc
        self._size = checkpoints.picture_size(options, dict(getattr(processor.image_processor, "size", None) or {}))
        if hasattr(processor, "tokenizer"):
            processor.tokenizer.padding_side = "left"  # a reply follows its prompt at once, whatever the others' length
        self._processor, self._model = processor, model

    def close(self) -> None:
        on_cuda = self._model is not None and self._model.device.type == "cuda"
        self._model = self._processor = None
        if on_cuda:
            import torch

            torch.cuda.empty_cache()

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        if constraint is not None:
            raise ModelError(f"{self.options.name}: vision_hf_transformers cannot constrain replies yet")
        import torch

        probabilities = _Probabilities()
        inputs = self._inputs(images, prompt).to(self._model.device, dtype=self._model.dtype)
        with torch.inference_mode():
            sequences = self._model.generate(**inputs, **self._stops(), logits_processor=[probabilities])
        start = 1 if self._model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        logprobs = probabilities.of(sequences)
        return [
            self._prediction(row, numbers)
            for row, numbers in zip(sequences[:, start:].tolist(), logprobs.tolist(), strict=True)
        ]

    def model_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        if self.options.boxes is not BoxConvention.MODEL_PIXELS:
            return None
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        processor = self._processor.image_processor
        limits = self._size or processor.size
        height, width = smart_resize(
            size[1],
            size[0],
            factor=processor.patch_size * processor.merge_size,
            min_pixels=limits["shortest_edge"],
            max_pixels=limits["longest_edge"],
        )
        return width, height

    def _load_model(self, folder: Path, device: str) -> Any:
        import transformers

        options = self.options
        settings: dict[str, Any] = {"dtype": torch_dtype(options.dtype, device)}
        if options.quantized:
            settings["device_map"] = {"": device}
            settings["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_8bit=options.load_in_8bit,
                load_in_4bit=not options.load_in_8bit,
                llm_int8_threshold=options.llm_int8_threshold,
                bnb_4bit_compute_dtype=settings["dtype"],
            )
        model = getattr(transformers, _CLASSES[options.transformers_model_type]).from_pretrained(
            folder, local_files_only=True, trust_remote_code=options.trust_remote_code, **settings
        )
        if not model.can_generate():
            raise ConfigurationError(
                f"preset {options.name}: {options.transformers_model_type} reads {options.repo_id} as "
                f"{type(model).__name__}, which writes no text; set transformers_model_type = automodel-imagetexttotext"
            )
        model.generation_config.update(
            max_new_tokens=options.max_new_tokens,
            max_length=None,
            use_cache=options.use_kv_cache,
            do_sample=options.temperature > 0,
            temperature=options.temperature or None,
            # A checkpoint's own taste in sampling, which would change what `temperature` means here.
            top_p=None,
            top_k=None,
        )
        return model.eval() if options.quantized else model.to(device).eval()

    def _cannot_load(self, exc: Exception) -> str:
        if "trust_remote_code" in str(exc):
            return (
                f"{self.options.repo_id} comes with Python code of its own; "
                "if you trust its author: trust_remote_code = true"
            )
        return f"{self.options.repo_id} cannot be loaded: {one_line(exc, 300)}"

    def _inputs(self, images: Sequence[Image.Image], prompt: str) -> Any:
        sized = {"size": self._size} if self._size else {}
        style = self.options.transformers_prompt_style
        if style is TransformersPromptStyle.CHAT:
            return self._processor.apply_chat_template(
                [
                    [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
                    for image in images
                ],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, **sized},
            )
        text = prompt if style is TransformersPromptStyle.RAW else getattr(self._processor, "image_token", None)
        if not text:
            return self._processor(images=list(images), return_tensors="pt", **sized)
        return self._processor(
            images=[[image] for image in images],
            text=[text] * len(images),
            padding=True,
            return_tensors="pt",
            **sized,
        )

    def _stops(self) -> dict[str, Any]:
        stop = list(self.options.stop)
        return {"stop_strings": stop, "tokenizer": self._processor.tokenizer} if stop else {}

    def _prediction(self, ids: list[int], logprobs: list[float]) -> Prediction:
        last = self._model.generation_config.eos_token_id
        ends = [last] if isinstance(last, int) else last or []
        length = next((place for place, token in enumerate(ids) if token in ends), None)
        ids, finish = (ids, Finish.LENGTH) if length is None else (ids[:length], Finish.STOP)
        texts = checkpoints.token_texts(ids, self._decode)
        return Prediction(
            text="".join(texts),
            finish=finish,
            tokens=tuple(map(Token, texts, logprobs[: len(ids)])),
            device=str(self._model.device),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = getattr(self._processor, "tokenizer", self._processor).decode(
            ids, skip_special_tokens=self.options.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text


class _Probabilities:
    """Keeps the probability of each token that was taken, and not the scores of all that were not."""

    def __init__(self) -> None:
        self._taken: list[Any] = []
        self._offered: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Look on as a token is chosen, the way transformers asks its logits processors."""
        self._note(input_ids)
        self._offered = scores.float().log_softmax(-1)
        return scores

    def of(self, sequences: Any) -> Any:
        """Return the logarithms for the finished sequences: one row each, one column a new token."""
        import torch

        self._note(sequences)
        return torch.cat(self._taken, dim=1)

    def _note(self, sequences: Any) -> None:
        if self._offered is not None:
            self._taken.append(self._offered.gather(1, sequences[:, -1:]))
