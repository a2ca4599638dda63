"""`vision_vllm`: a checkpoint in a vLLM engine of our own, for machines with a GPU and no server.

The engine is a process that vLLM starts and stops; it reads a script again that is not guarded by
`if __name__ == "__main__":`. Knows vLLM, nothing of servers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, Literal, TypeVar

from PIL import Image
from pydantic import Field

from bibwatch.errors import ConfigurationError, ModelUnavailableError, one_line
from bibwatch.runtimes import checkpoints
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, Prediction, Token
from bibwatch.runtimes.devices import Dtype, DtypeOption
from bibwatch.runtimes.generative import BatchRuntime
from bibwatch.runtimes.hub import HubOptions
from bibwatch.runtimes.tokens import tokens_of

_GIB = 1 << 30
_CPU_CACHE_GB = 2.0  # vLLM itself would take nine tenths of the machine's memory
_FITTING = -1  # vLLM's word for as many tokens as the cache can hold, up to the model's own limit
_LOOK_SECONDS = 1.0
_ERROR_LENGTH = 300
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_SURROUNDINGS = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing is reported to anyone
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for answers
    "VLLM_LOGGING_LEVEL": "WARNING",
}

T = TypeVar("T")


class VisionVllmOptions(HubOptions):
    """A checkpoint that vLLM knows; `batch_size` pictures are answered at once."""

    hardware_fields: ClassVar[frozenset[str]] = ModelOptions.hardware_fields | {
        "gpu_memory_utilization", "kv_cache_gb", "tensor_parallel_size", "enforce_eager",
    }  # fmt: skip

    kind: Literal["vision_vllm"] = "vision_vllm"
    dtype: DtypeOption = Field(
        default=Dtype.AUTO,
        description="Precision; auto is the checkpoint's own, or 16 bits where that is 32.",
    )
    quantization: str | None = Field(
        default=None, description="How the weights are quantized (awq, gptq, fp8); unset: as the checkpoint says."
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="Tokens of picture, prompt and answer together; unset: as many as fit."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Part of the GPU's memory that vLLM takes, whatever the model's size."
    )
    kv_cache_gb: float | None = Field(
        default=None, gt=0, description="Gigabytes for its cache instead of what that leaves; unset: 2 on a CPU."
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs the model is spread over.")
    enforce_eager: bool = Field(
        default=False, description="Do not compile: starts sooner and takes less memory, answers later."
    )

    @property
    def place(self) -> str:
        return "auto"  # vLLM is built for one kind of device and takes that

    def obstacle(self) -> str | None:
        return self.missing("vllm", extra="vllm")


class VisionVllm(BatchRuntime[VisionVllmOptions]):
    """An engine that is started by `load()` and ended by `close()`. One that dies is started again when next asked."""

    options_type: ClassVar[type[ModelOptions]] = VisionVllmOptions

    def __init__(self, options: VisionVllmOptions) -> None:
        super().__init__(options)
        self._llm: Any = None
        self._device = ""

    def load(self) -> None:
        if self._llm is not None:
            return
        where = f"preset {self.options.name}"
        for name, value in _SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError as exc:
            raise ConfigurationError(f"{where}: {one_line(exc)}: pip install 'bibwatch[vllm]'") from exc
        folder = checkpoints.folder(self.options)
        self._device = current_platform.device_type
        try:
            self._llm = LLM(**self._settings(folder))
        except ConfigurationError:
            raise
        except Exception as exc:
            raise ConfigurationError(
                f"{where}: vLLM cannot load {self.options.repo_id}: {one_line(exc, _ERROR_LENGTH)}"
            ) from exc

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._llm
        if llm is None:  # it died at an earlier batch of these pictures
            raise ModelUnavailableError(f"{self.options.name}: the vLLM engine died")
        asked = [_message(image, prompt) for image in images]
        sampling = self._sampling(constraint)
        try:
            answers = _unless_dead(llm.llm_engine.engine_core, lambda: llm.chat(asked, sampling, use_tqdm=False))
        except EngineDeadError as exc:
            self.close()
            raise ModelUnavailableError(
                f"{self.options.name}: the vLLM engine died; its log says why (out of memory?)"
            ) from exc
        return [self._prediction(answer.outputs[0]) for answer in answers]

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.renderer.shutdown()
            llm.llm_engine.engine_core.shutdown()

    def _settings(self, folder: Path) -> dict[str, Any]:
        """Return vLLM's engine arguments."""
        options = self.options
        cache_gb = options.kv_cache_gb or (_CPU_CACHE_GB if self._device == "cpu" else None)
        size = self._picture_size(folder)
        return {
            "model": str(folder),
            "trust_remote_code": options.trust_remote_code,
            "dtype": options.dtype.value,
            "quantization": options.quantization,
            "max_model_len": options.max_model_len or _FITTING,
            "max_num_seqs": options.batch_size,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "kv_cache_memory_bytes": int(cache_gb * _GIB) if cache_gb else None,
            "tensor_parallel_size": options.tensor_parallel_size,
            "enforce_eager": options.enforce_eager,
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            "mm_processor_cache_gb": 0,  # a photo is not asked about twice
            "mm_processor_kwargs": {"size": size} if size else None,
        }

    def _picture_size(self, folder: Path) -> dict[str, int] | None:
        options = self.options
        if options.image_longest_edge is None and options.min_pixels is None and options.max_pixels is None:
            return None
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=options.trust_remote_code
        )
        return checkpoints.picture_size(options, dict(processor.size or {}))

    def _sampling(self, constraint: Constraint | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        form = None
        if constraint is not None and constraint.json_schema is not None:
            form = StructuredOutputsParams(json=constraint.json_schema)
        elif constraint is not None and constraint.regex is not None:
            form = StructuredOutputsParams(regex=constraint.regex)
        return SamplingParams(
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=self.options.seed,
            max_tokens=self.options.max_new_tokens,
            stop=list(self.options.stop),
            skip_special_tokens=self.options.skip_special_tokens,
            logprobs=0,  # of the token that was taken, and of no other
            structured_outputs=form,
        )

    def _prediction(self, answer: Any) -> Prediction:
        if answer.finish_reason in {None, "abort", "error"}:
            error = ModelUnavailableError(f"{self.options.name}: vLLM gave up on the answer ({answer.finish_reason})")
            return Prediction(device=self._device, error=error)
        ids = list(answer.token_ids)
        texts = checkpoints.token_texts(ids, self._decode)
        tokens = (
            Token(text, chosen[number].logprob)
            for text, number, chosen in zip(texts, ids, answer.logprobs or (), strict=False)
        )
        return Prediction(
            text=answer.text,
            finish_reason=_FINISH.get(answer.finish_reason, FinishReason.UNKNOWN),
            tokens=tokens_of(answer.text, tokens),
            device=self._device,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._llm.get_tokenizer().decode(
            list(ids), skip_special_tokens=self.options.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text


def _message(image: Image.Image, prompt: str) -> list[dict[str, Any]]:
    bare = image.copy()
    bare.info.clear()  # vLLM turns a picture by its EXIF orientation; these are upright already
    return [{"role": "user", "content": [{"type": "image_pil", "image_pil": bare}, {"type": "text", "text": prompt}]}]


def _unless_dead(engine: Any, ask: Callable[[], T]) -> T:
    """Return what an engine answers. Raises EngineDeadError if it dies meanwhile: vLLM itself would wait for ever."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as exc:  # noqa: BLE001  # it belongs to the thread that waits
            answer.set_exception(exc)

    Thread(target=run, name="bibwatch-vllm", daemon=True).start()
    ensure_alive = getattr(engine, "ensure_alive", lambda: None)  # an engine inside this process has none
    while not wait([answer], _LOOK_SECONDS).done:
        ensure_alive()
    if answer.exception() is not None:
        ensure_alive()  # what a dying engine's client raises is of any type
    return answer.result()
