"""One checkpoint as transformers loads it: a processor, and a model on a device.

Knows transformers' classes and what to do when a device has too little memory. Does not know what is asked.
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
    """Where a model is computed, and in what precision."""

    device: str
    dtype: Any  # torch's


def places(options: VisionHfTransformersOptions) -> tuple[Place, ...]:
    """Return where a model is to be computed: the device there is for it, then the CPU if it may give way to that.

    Options that say it in other words get the same places. Raises ConfigurationError if they cannot work here.
    """
    import torch

    where, cpu = f"preset {options.name}", AcceleratorDevice.CPU
    device = choose_device(options.device, options.supported_devices, fallback=options.device_fallback, where=where)
    if device == AcceleratorDevice.CUDA:
        device = f"{device}:{torch.cuda.current_device()}"
    if hindrance := options.hindrance(device):
        raise ConfigurationError(f"{where}: {hindrance}")
    devices = [device]
    if device != cpu and options.device_fallback and cpu in options.supported_devices and not options.hindrance(cpu):
        devices.append(cpu.value)
    return tuple(Place(device, torch_dtype(options.dtype, device)) for device in devices)


class HfModel:
    """A loaded model. Several runtimes may hold it: whoever uses it takes `lock` first, then asks that it be `ready`.

    A model that had too little memory once stays on the CPU until it is closed, by a restart for one: what filled the
    device is mostly there to stay, and to find out costs a batch each time.
    """

    def __init__(self, options: VisionHfTransformersOptions, folder: Path, places: tuple[Place, ...]) -> None:
        """Load it at the first of the places that has room for it. Raises ConfigurationError if that cannot be done."""
        self._options = options
        self._folder = folder
        self._places = places
        self._place = 0  # which of them it is at
        self._where = f"preset {options.name}"
        self.lock = RLock()
        self.device = places[0].device
        self.model: Any = None
        try:
            self.processor = self._load_processor()
            self._load()
        except Exception as exc:
            raise ConfigurationError(self._cannot_load(exc)) from exc

    def ready(self) -> None:
        """See to it that the model is there: load it if it moves to the CPU, or could not be loaded there before.

        Raises ModelUnavailableError if it cannot be loaded now; the next call starts at the first place again.
        """
        if self.model is not None:
            return
        try:
            self._load()
        except Exception as exc:  # noqa: BLE001  # whatever it is, the pictures are not to blame
            reason = self._cannot_load(exc)
        else:
            return
        self.close()  # out here: the exception held what was loaded so far
        self._place = 0
        raise ModelUnavailableError(reason)

    def fall_back(self, reason: str) -> bool:
        """Let the model go, to be loaded on the CPU when next asked to be ready, with one warning.

        False if it is there already, or may not go there.
        """
        if self._place + 1 == len(self._places):
            return False
        log.warning("device.fallback", preset=self._where, wanted=self.device, taken="cpu", reason=reason)
        self.close()
        self._place += 1
        return True

    def close(self) -> None:
        """Let the model go, and its memory."""
        self.model = None
        free_memory(self.device)

    def _load_processor(self) -> Any:
        from transformers import AutoProcessor
        from transformers.utils import logging as engine_logging

        engine_logging.disable_progress_bar()
        processor = AutoProcessor.from_pretrained(self._folder, **self._local)
        if hasattr(processor, "tokenizer"):
            processor.tokenizer.padding_side = "left"  # a reply follows its prompt at once, whatever the others' length
        return processor

    def _load(self) -> None:
        place = self._places[self._place]
        self.device = place.device
        try:
            self.model = self._at(place)
        except Exception as exc:
            reason = one_line(exc)
            if not is_out_of_memory(exc) or self._place + 1 == len(self._places):
                raise
        if self.model is None:  # out here: the exception held what was loaded so far
            self.fall_back(reason)
            self._load()

    def _at(self, place: Place) -> Any:
        import torch

        options = self._options
        model = self._read(place)
        # A checkpoint's own taste in sampling would change what `temperature` means here.
        model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_length=None)
        model = model.eval() if options.quantized else model.to(place.device).eval()
        if place == (AcceleratorDevice.CPU, torch.bfloat16):
            attention.speed_up(model)
        if options.compile:
            _compile(model)
        return model

    def _read(self, place: Place) -> Any:
        """Return the model with the weights in the folder, all of them."""
        options = self._options
        settings = self._quantized(place) if options.quantized else {}
        engine = logging.getLogger("transformers.modeling_utils")
        engine.addFilter(_is_no_report)
        try:
            model, found = self._class.from_pretrained(
                self._folder,
                dtype=place.dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are an error all the same, in our words
                **self._local,
                **settings,
            )
        finally:
            engine.removeFilter(_is_no_report)  # what others load is theirs to hear of
        if not model.can_generate():
            raise ConfigurationError(
                f"{self._where}: {options.transformers_model_type} reads {options.repo_id} as "
                f"{type(model).__name__}, which writes no text; set transformers_model_type = automodel-imagetexttotext"
            )
        # transformers would make them up, and the model would answer all the same.
        if lacking := sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}):
            raise ConfigurationError(
                f"{self._where}: weights are missing in {self._folder}, or of another shape than its config.json says: "
                f"{len(lacking)}, {lacking[0]} first; get the model again"
            )
        return model

    def _quantized(self, place: Place) -> dict[str, Any]:
        options = self._options
        odd = quantization.needs_shapes(options.quantizer, options.bits, place.device)
        return {
            "device_map": {"": place.device},
            "quantization_config": quantization.settings(
                options.quantizer,
                options.bits,
                place.dtype,
                int8_threshold=options.llm_int8_threshold,
                left_out=quantization.left_out(self._outline()) if odd else None,
            ),
        }

    def _outline(self) -> Any:
        """Return the model without its weights."""
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
                f"{self._where}: {self._options.repo_id} comes with Python code of its own; "
                "if you trust its author: trust_remote_code = true"
            )
        return f"{self._where}: {self._options.repo_id} cannot be loaded: {one_line(exc, 300)}"


def _is_no_report(record: logging.LogRecord) -> bool:
    """Leave out transformers' table of weights that do not fit: `_read` says it in a line. Failed conversions stay."""
    said = record.getMessage()
    return "LOAD REPORT" not in said or "CONVERSION" in said


def _compile(model: Any) -> None:
    """Compile the part of the decoder's layers that has most of the arithmetic, and is the same for all of them.

    One compilation serves all, and any number of tokens (one token gets its own). A whole layer would be compiled
    again for each: it knows its number and its part of the cache, and torch gives up after eight.
    """
    for layer in getattr(model.get_decoder(), "layers", [model]):
        getattr(layer, "mlp", layer).compile(dynamic=True)
