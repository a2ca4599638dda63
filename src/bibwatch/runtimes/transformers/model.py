"""One checkpoint loaded by transformers: a processor, and a model on a device.

Knows transformers' classes and how to move to the CPU when a device runs out of memory. Does not know prompts.
"""

from __future__ import annotations

import logging
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import structlog

from bibwatch.errors import ConfigurationError, ModelUnavailableError, one_line
from bibwatch.runtimes.devices import AcceleratorDevice, choose_device, free_memory, is_out_of_memory, torch_dtype
from bibwatch.runtimes.transformers import attention, quantization
from bibwatch.runtimes.transformers.options import TransformersModelType, VisionHfTransformersOptions

log = structlog.get_logger()

_CLASSES = {
    TransformersModelType.AUTOMODEL: "AutoModel",
    TransformersModelType.AUTOMODEL_VISION2SEQ: "AutoModelForImageTextToText",
    TransformersModelType.AUTOMODEL_CAUSALLM: "AutoModelForCausalLM",
    TransformersModelType.AUTOMODEL_IMAGETEXTTOTEXT: "AutoModelForImageTextToText",
}


class Place(NamedTuple):
    """Where a model runs, and in what precision."""

    device: str
    dtype: Any  # torch's


def places(options: VisionHfTransformersOptions) -> tuple[Place, ...]:
    """Return where a model can run: its device, then the CPU if it may fall back to that.

    Equivalent options give equal places. Raises ConfigurationError if the options cannot work here.
    """
    import torch

    where, cpu = f"preset {options.name}", AcceleratorDevice.CPU
    device = choose_device(options.device, options.supported_devices, fallback=options.device_fallback, where=where)
    if device == AcceleratorDevice.CUDA:
        device = f"{device}:{torch.cuda.current_device()}"
    if reason := options.unsupported_reason(device):
        raise ConfigurationError(f"{where}: {reason}")
    devices = [device]
    may_fall_back = options.device_fallback and cpu in options.supported_devices
    if device != cpu and may_fall_back and not options.unsupported_reason(cpu):
        devices.append(cpu.value)
    return tuple(Place(device, torch_dtype(options.dtype, device)) for device in devices)


class HfModel:
    """A loaded model, which several runtimes may share: acquire `lock`, then call `ensure_loaded`, before using it.

    After running out of memory, a model stays on the CPU until it is closed: what filled the device usually stays
    there, and every new attempt would cost a batch.
    """

    def __init__(self, options: VisionHfTransformersOptions, folder: Path, places: tuple[Place, ...]) -> None:
        """Load the model at the first place with enough memory. Raises ConfigurationError if that fails."""
        self._options = options
        self._folder = folder
        self._places = places
        self._place = 0  # index of the current place
        self._where = f"preset {options.name}"
        self.lock = RLock()
        self.device = places[0].device
        self.model: Any = None
        try:
            self.processor = self._load_processor()
            self._load()
        except Exception as exc:
            raise ConfigurationError(self._cannot_load(exc)) from exc

    def ensure_loaded(self) -> None:
        """Load the model if it is not loaded: after `fall_back`, or after an earlier attempt failed.

        Raises ModelUnavailableError if that fails; the next call starts at the first place again.
        """
        if self.model is not None:
            return
        try:
            self._load()
        except Exception as exc:  # noqa: BLE001  # whatever the error, the images did not cause it
            reason = self._cannot_load(exc)
        else:
            return
        self.close()  # outside the handler: the exception holds references to what was loaded
        self._place = 0
        raise ModelUnavailableError(reason)

    def fall_back(self, reason: str) -> bool:
        """Release the model, so that `ensure_loaded` loads it on the CPU; log a warning.

        Return False if it is already there, or cannot run there.
        """
        if self._place + 1 == len(self._places):
            return False
        log.warning("device.fallback", preset=self._where, wanted=self.device, taken="cpu", reason=reason)
        self.close()
        self._place += 1
        return True

    def close(self) -> None:
        """Release the model and its memory."""
        self.model = None
        free_memory(self.device)

    def _load_processor(self) -> Any:
        from transformers import AutoProcessor
        from transformers.utils import logging as engine_logging

        engine_logging.disable_progress_bar()
        processor = AutoProcessor.from_pretrained(self._folder, **self._local)
        if hasattr(processor, "tokenizer"):
            processor.tokenizer.padding_side = "left"  # in a batch, each reply directly follows its prompt
        return processor

    def _load(self) -> None:
        place = self._places[self._place]
        self.device = place.device
        try:
            self.model = self._load_at(place)
        except Exception as exc:
            reason = one_line(exc)
            if not is_out_of_memory(exc) or self._place + 1 == len(self._places):
                raise
        if self.model is None:  # outside the handler: the exception holds references to what was loaded
            self.fall_back(reason)
            self._load()

    def _load_at(self, place: Place) -> Any:
        import torch

        options = self._options
        model = self._load_weights(place)
        # The checkpoint's own sampling settings would change the meaning of `temperature`.
        model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_length=None)
        model = model.eval() if options.quantized else model.to(place.device).eval()
        if place == (AcceleratorDevice.CPU, torch.bfloat16):
            attention.speed_up(model)
        if options.compile:
            _compile(model)
        return model

    def _load_weights(self, place: Place) -> Any:
        """Return the model with its weights. Raises ConfigurationError if any are missing."""
        options = self._options
        settings = self._quantization(place) if options.quantized else {}
        engine = logging.getLogger("transformers.modeling_utils")
        engine.addFilter(_is_not_load_report)
        try:
            model, found = self._class.from_pretrained(
                self._folder,
                dtype=place.dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, with a better message
                **self._local,
                **settings,
            )
        finally:
            engine.removeFilter(_is_not_load_report)  # other callers still get their reports
        if not model.can_generate():
            raise ConfigurationError(
                f"{self._where}: {options.transformers_model_type} reads {options.repo_id} as "
                f"{type(model).__name__}, which writes no text; set transformers_model_type = automodel-imagetexttotext"
            )
        # transformers would initialise them randomly, and the model would still reply.
        if missing := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
            raise ConfigurationError(
                f"{self._where}: {len(missing)} weights are missing in {self._folder}, or differ in shape from its "
                f"config.json (first: {missing[0]}); download the model again"
            )
        return model

    def _quantization(self, place: Place) -> dict[str, Any]:
        options = self._options
        limited = quantization.needs_shapes(options.quantizer, options.bits, place.device)
        return {
            "device_map": {"": place.device},
            "quantization_config": quantization.settings(
                options.quantizer,
                options.bits,
                place.dtype,
                int8_threshold=options.llm_int8_threshold,
                skipped=quantization.skipped_layers(self._without_weights()) if limited else None,
            ),
        }

    def _without_weights(self) -> Any:
        """Return the model without loading its weights."""
        import torch
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self._folder, **self._local)
        with torch.device("meta"):
            return self._class.from_config(config, trust_remote_code=self._options.trust_remote_code)

    @property
    def _class(self) -> Any:
        import transformers

        return getattr(transformers, _CLASSES[self._options.transformers_model_type])

    @property
    def _local(self) -> dict[str, Any]:
        return {"local_files_only": True, "trust_remote_code": self._options.trust_remote_code}

    def _cannot_load(self, exc: Exception) -> str:
        if isinstance(exc, ConfigurationError):
            return str(exc)
        if "trust_remote_code" in str(exc):
            return (
                f"{self._where}: {self._options.repo_id} comes with its own Python code; "
                "if you trust its author, set trust_remote_code = true"
            )
        return f"{self._where}: {self._options.repo_id} cannot be loaded: {one_line(exc, 300)}"


def _is_not_load_report(record: logging.LogRecord) -> bool:
    """Drop transformers' table of weights that do not fit: `_load_weights` reports them. Keep failed conversions."""
    message = record.getMessage()
    return "LOAD REPORT" not in message or "CONVERSION" in message


def _compile(model: Any) -> None:
    """Compile the feed-forward blocks of the decoder's layers, which have most of the arithmetic and are all alike.

    One compilation serves all layers and any number of tokens (a single token gets its own). Whole layers would be
    compiled one by one, since each has its own index and cache, and torch gives up after eight.
    """
    for layer in getattr(model.get_decoder(), "layers", [model]):
        getattr(layer, "mlp", layer).compile(dynamic=True)
