"""One checkpoint as transformers loads it: a processor, and a model on a device.

Knows transformers' classes and what to do when a device has too little memory. Does not know what is asked.
"""

from __future__ import annotations

from pathlib import Path
from threading import RLock
from typing import Any

import structlog

from bibwatch.errors import ConfigurationError, one_line
from bibwatch.runtimes import quantization
from bibwatch.runtimes.devices import AcceleratorDevice, choose_device, free_memory, is_out_of_memory, torch_dtype
from bibwatch.runtimes.hf_options import TransformersModelType, VisionHfTransformersOptions

log = structlog.get_logger()

_CLASSES = {
    TransformersModelType.AUTOMODEL: "AutoModel",
    TransformersModelType.AUTOMODEL_VISION2SEQ: "AutoModelForImageTextToText",
    TransformersModelType.AUTOMODEL_CAUSALLM: "AutoModelForCausalLM",
    TransformersModelType.AUTOMODEL_IMAGETEXTTOTEXT: "AutoModelForImageTextToText",
}


class HfModel:
    """A loaded model. Several runtimes may hold it: whoever uses it takes `lock` first."""

    def __init__(self, options: VisionHfTransformersOptions, folder: Path) -> None:
        """Load it. Raises ConfigurationError if this machine cannot run it."""
        self._options = options
        self._folder = folder
        self._where = f"preset {options.name}"
        self.lock = RLock()
        device = choose_device(
            options.device, options.supported_devices, fallback=options.device_fallback, where=self._where
        )
        try:
            self.processor = self._load_processor()
            self.model = self._load(device)
        except ConfigurationError:
            raise
        except Exception as exc:
            raise ConfigurationError(f"{self._where}: {self._cannot_load(exc)}") from exc
        self.device = str(self.model.device)

    def fall_back(self, reason: str) -> bool:
        """Load the model on the CPU instead, with one warning; False if it is there already, or may not go there."""
        if not self._may_leave(self.device):
            return False
        self._warn(self.device, reason)
        self.close()
        self.model = self._on_device(AcceleratorDevice.CPU)
        self.device = str(self.model.device)
        return True

    def close(self) -> None:
        """Let the model go, and its memory."""
        self.model = None
        free_memory(self.device)

    def _load_processor(self) -> Any:
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=self._options.trust_remote_code
        )
        if hasattr(processor, "tokenizer"):
            processor.tokenizer.padding_side = "left"  # a reply follows its prompt at once, whatever the others' length
        return processor

    def _load(self, device: str) -> Any:
        try:
            return self._on_device(device)
        except Exception as exc:
            if not (is_out_of_memory(exc) and self._may_leave(device)):
                raise
            reason = one_line(exc)
        self._warn(device, reason)  # out here: the exception held what was loaded so far
        free_memory(device)
        return self._on_device(AcceleratorDevice.CPU)

    def _on_device(self, device: str) -> Any:
        import transformers

        options = self._options
        if hindrance := options.hindrance(device):
            raise ConfigurationError(f"{self._where}: {hindrance}")
        settings: dict[str, Any] = {"dtype": torch_dtype(options.dtype, device)}
        if options.quantized:
            settings["device_map"] = {"": device}
            settings["quantization_config"] = quantization.settings(
                options.quantizer, options.bits, settings["dtype"], int8_threshold=options.llm_int8_threshold
            )
        model = getattr(transformers, _CLASSES[options.transformers_model_type]).from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=options.trust_remote_code, **settings
        )
        if not model.can_generate():
            raise ConfigurationError(
                f"{self._where}: {options.transformers_model_type} reads {options.repo_id} as "
                f"{type(model).__name__}, which writes no text; set transformers_model_type = automodel-imagetexttotext"
            )
        # A checkpoint's own taste in sampling would change what `temperature` means here.
        model.generation_config.update(do_sample=False, temperature=None, top_p=None, top_k=None, max_length=None)
        model = model.eval() if options.quantized else model.to(device).eval()
        if options.compile:
            _compile(model)
        return model

    def _may_leave(self, device: str) -> bool:
        options = self._options
        cpu = AcceleratorDevice.CPU
        return options.device_fallback and cpu in options.supported_devices and device != cpu

    def _warn(self, device: str, reason: str) -> None:
        log.warning("device.fallback", preset=self._where, wanted=device, taken="cpu", reason=reason)

    def _cannot_load(self, exc: Exception) -> str:
        if "trust_remote_code" in str(exc):
            return (
                f"{self._options.repo_id} comes with Python code of its own; "
                "if you trust its author: trust_remote_code = true"
            )
        return f"{self._options.repo_id} cannot be loaded: {one_line(exc, 300)}"


def _compile(model: Any) -> None:
    """Compile the decoder's layers one by one: they are alike, so one compilation serves all.

    The whole model takes three times as long to compile, and pictures break it into pieces anyway.
    """
    for layer in getattr(model.get_decoder(), "layers", [model]):
        layer.compile(dynamic=True)
