"""`vision_vllm`: a checkpoint in our own vLLM engine, for machines with a GPU but no server.

vLLM starts the engine in a process of its own, which imports the main script again: guard that with
`if __name__ == "__main__":`. Knows vLLM. Does not know servers.
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
_CPU_CACHE_GB = 2.0  # vLLM's default is nine tenths of the machine's memory
_AUTO_LENGTH = -1  # for vLLM: as many tokens as fit in the cache, up to the model's limit
_POLL_SECONDS = 1.0
_ERROR_LENGTH = 300  # characters kept of vLLM's message
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
    "VLLM_LOGGING_LEVEL": "WARNING",
}

T = TypeVar("T")


class VisionVllmOptions(HubOptions):
    """A checkpoint that vLLM supports; it processes `batch_size` images at once."""

    hardware_fields: ClassVar[frozenset[str]] = ModelOptions.hardware_fields | {
        "gpu_memory_utilization", "kv_cache_gb", "tensor_parallel_size", "enforce_eager",
    }  # fmt: skip

    kind: Literal["vision_vllm"] = "vision_vllm"
    dtype: DtypeOption = Field(
        default=Dtype.AUTO,
        description="Precision; auto: the checkpoint's own, but 16 bits if that is 32.",
    )
    quantization: str | None = Field(
        default=None, description="How the weights are quantized (awq, gptq, fp8); unset: as set in the checkpoint."
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="Maximum tokens of image, prompt and reply together; unset: as many as fit."
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Fraction of the GPU's memory that vLLM uses."
    )
    kv_cache_gb: float | None = Field(
        default=None,
        gt=0,
        description="Gigabytes of KV cache; unset: what the model leaves of gpu_memory_utilization, or 2 on a CPU.",
    )
    tensor_parallel_size: int = Field(default=1, ge=1, description="Number of GPUs to split the model across.")
    enforce_eager: bool = Field(
        default=False, description="Do not compile: starts faster and uses less memory, but runs slower."
    )

    @property
    def place(self) -> str:
        return "auto"  # vLLM is built for one kind of device

    def obstacle(self) -> str | None:
        return self.unavailable_reason("vllm", extra="vllm")


class VisionVllm(BatchRuntime[VisionVllmOptions]):
    """Starts an engine in `load()` and stops it in `close()`. If it dies, the next `predict_batch` starts it again."""

    options_type: ClassVar[type[ModelOptions]] = VisionVllmOptions

    def __init__(self, options: VisionVllmOptions) -> None:
        super().__init__(options)
        self._llm: Any = None
        self._device = ""

    def load(self) -> None:
        if self._llm is not None:
            return
        where = f"preset {self.options.name}"
        for name, value in _ENVIRONMENT.items():
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
        if llm is None:  # it died in an earlier batch of this call
            raise ModelUnavailableError(f"{self.options.name}: the vLLM engine died")
        messages = [_message(image, prompt) for image in images]
        sampling = self._sampling(constraint)
        try:
            outputs = _while_alive(llm.llm_engine.engine_core, lambda: llm.chat(messages, sampling, use_tqdm=False))
        except EngineDeadError as exc:
            self.close()
            raise ModelUnavailableError(
                f"{self.options.name}: the vLLM engine died, perhaps out of memory; see its log"
            ) from exc
        return [self._prediction(output.outputs[0]) for output in outputs]

    def close(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.renderer.shutdown()
            llm.llm_engine.engine_core.shutdown()

    def _settings(self, folder: Path) -> dict[str, Any]:
        """Return vLLM's engine arguments."""
        options = self.options
        cache_gb = options.kv_cache_gb or (_CPU_CACHE_GB if self._device == "cpu" else None)
        size = self._image_size(folder)
        return {
            "model": str(folder),
            "trust_remote_code": options.trust_remote_code,
            "dtype": options.dtype.value,
            "quantization": options.quantization,
            "max_model_len": options.max_model_len or _AUTO_LENGTH,
            "max_num_seqs": options.batch_size,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "kv_cache_memory_bytes": int(cache_gb * _GIB) if cache_gb else None,
            "tensor_parallel_size": options.tensor_parallel_size,
            "enforce_eager": options.enforce_eager,
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            "mm_processor_cache_gb": 0,  # no photo is sent twice
            "mm_processor_kwargs": {"size": size} if size else None,
        }

    def _image_size(self, folder: Path) -> dict[str, int] | None:
        options = self.options
        if options.image_longest_edge is None and options.min_pixels is None and options.max_pixels is None:
            return None
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=options.trust_remote_code
        )
        return checkpoints.image_size(options, dict(processor.size or {}))

    def _sampling(self, constraint: Constraint | None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structured = None
        if constraint is not None and constraint.json_schema is not None:
            structured = StructuredOutputsParams(json=constraint.json_schema)
        elif constraint is not None and constraint.regex is not None:
            structured = StructuredOutputsParams(regex=constraint.regex)
        return SamplingParams(
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=self.options.seed,
            max_tokens=self.options.max_new_tokens,
            stop=list(self.options.stop),
            skip_special_tokens=self.options.skip_special_tokens,
            logprobs=0,  # only of the chosen token
            structured_outputs=structured,
        )

    def _prediction(self, completion: Any) -> Prediction:
        if completion.finish_reason in {None, "abort", "error"}:
            error = ModelUnavailableError(f"{self.options.name}: vLLM aborted the reply ({completion.finish_reason})")
            return Prediction(device=self._device, error=error)
        ids = list(completion.token_ids)
        texts = checkpoints.token_texts(ids, self._decode)
        tokens = (
            Token(text, chosen[number].logprob)
            for text, number, chosen in zip(texts, ids, completion.logprobs or (), strict=False)
        )
        return Prediction(
            text=completion.text,
            finish_reason=_FINISH.get(completion.finish_reason, FinishReason.UNKNOWN),
            tokens=tokens_of(completion.text, tokens),
            device=self._device,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._llm.get_tokenizer().decode(
            list(ids), skip_special_tokens=self.options.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return text


def _message(image: Image.Image, prompt: str) -> list[dict[str, Any]]:
    bare = image.copy()
    bare.info.clear()  # vLLM would apply the EXIF orientation again; the images are already upright
    return [{"role": "user", "content": [{"type": "image_pil", "image_pil": bare}, {"type": "text", "text": prompt}]}]


def _while_alive(engine: Any, call: Callable[[], T]) -> T:
    """Return the result of `call`. Raises EngineDeadError if the engine dies: vLLM itself would wait forever."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as exc:  # noqa: BLE001  # re-raised in the waiting thread
            result.set_exception(exc)

    Thread(target=run, name="bibwatch-vllm", daemon=True).start()
    ensure_alive = getattr(engine, "ensure_alive", lambda: None)  # an engine inside this process has none
    while not wait([result], _POLL_SECONDS).done:
        ensure_alive()
    if result.exception() is not None:
        ensure_alive()  # the client of a dying engine may raise anything
    return result.result()
