"""Extractors: a common interface, and the hooks in which they differ.

Knows how to expose stages and presets as extractors. Runs no model itself: stages and their runtimes do, or the hooks
of a custom class.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

from bibwatch import recognition, settings
from bibwatch.domain.readings import Verdict
from bibwatch.errors import BibwatchError, ConfigurationError, ModelReplyError, one_line
from bibwatch.images import Photo
from bibwatch.interpreters.bib_json import BibJson, BibJsonOptions
from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.devices import AcceleratorDevice, choose_device
from bibwatch.stages.base import Stage
from image_rec_mod.backends.scaling import ImageScaler, copies_removed
from image_rec_mod.results import Result, checked, error_of, result_of

__all__ = [
    "ImageScaler", "LocalQwenExtractor", "LocalSmolVLMExtractor", "LocalVLMExtractor", "RemoteVLLMExtractor",
    "StageExtractor", "VLMExtractor", "bib_stage",
]  # fmt: skip

log = logging.getLogger(__name__)

_STAGE = "bib_number"


def bib_stage(preset: str, **options: Any) -> Stage[Any]:
    """Return the configured `bib_number` stage with a preset, or with a new preset of that name made from `options`."""
    presets = {preset: options} if options else {}
    registry = settings.load(presets=presets, stages={_STAGE: {"model_options": preset}}).registry()
    registry.model_options(preset)  # reports errors in the preset under its own name
    return registry.stage(_STAGE, preset)


class VLMExtractor(ABC):
    """Reads bib numbers from photo files. A failed photo gets an error result, never an exception."""

    # The scaler has its own slot: everything else, in `__dict__`, is shared with the scaled copies.
    __slots__ = ("__dict__", "__weakref__", "scaler")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "scaler" in vars(cls):  # it would hide the slot, and all copies would share one scale
            raise TypeError(f"{cls.__name__}.scaler: pass a scaler to the extractor, or a scale to `get_extractor`")

    def __init__(self, scaler: ImageScaler | None = None) -> None:
        self.scaler = scaler
        configured = settings.load()
        self.limits = configured.images
        self.judge = configured.judge()
        self._loaded = False
        self._load_lock = threading.Lock()

    def extract(self, image_path: str) -> Result:
        """Return `{"bib": 256, "bibs": [...]}` or `{"error": "..."}`. Raise ConfigurationError as `load` does."""
        (result,) = self._results([image_path])
        return result

    def extract_multiple_bib_numbers(
        self, image_paths: Iterable[str], scale_width: int | None = None, scale_height: int | None = None
    ) -> list[dict[str, Any]]:
        """Return `{"image": path, "result": {...}}` for each photo, in order; a scale applies to this call only.

        Raise ConfigurationError as `load` does, and TypeError for a single path.
        """
        if isinstance(image_paths, str | bytes | os.PathLike):  # its characters would be taken for paths
            raise TypeError(f"image_paths = {image_paths!r} is one path: pass a list of paths, or call `extract`")
        if scale_width is not None or scale_height is not None:
            scaled = self.with_scaler(ImageScaler(scale_width, scale_height))
            return scaled.extract_multiple_bib_numbers(image_paths)
        paths = list(image_paths)
        return [{"image": path, "result": result} for path, result in zip(paths, self._results(paths), strict=True)]

    def load(self) -> None:
        """Load the model unless it is loaded. Raise ConfigurationError if that fails."""
        with self._load_lock:
            if self._loaded:
                return
            start = time.perf_counter()
            try:
                self._load_model()
            except BibwatchError:
                raise
            except Exception as exc:
                raise ConfigurationError(f"{self._name}: the model cannot be loaded: {one_line(exc, 300)}") from exc
            self._loaded = True
            log.info("%s: loaded in %.1f s", self._name, time.perf_counter() - start)

    def close(self) -> None:
        """Unload the model and free its memory; the next photo reloads it."""
        with self._load_lock:
            self._loaded = False

    def with_scaler(self, scaler: ImageScaler | None) -> Self:
        """Return the same extractor with another scaler; both share all other state, including the model."""
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__
        other.scaler = scaler
        return other

    @abstractmethod
    def _load_model(self) -> None:
        """Load what `_process_image` needs. Called once by `load`."""

    @abstractmethod
    def _process_image(self, image_path: str) -> Result:
        """Read one photo; an exception or an invalid result becomes the photo's error."""

    def _process_images(self, image_paths: list[str]) -> Iterator[Result]:
        """Yield one result for each photo, in order."""
        for path in image_paths:
            try:
                with copies_removed() if self.scaler else nullcontext():
                    result = checked(self._process_image(path))
            except Exception as exc:  # noqa: BLE001  # an exception in a hook is this photo's error
                result = error_of(exc)
            yield result

    def _prepare_image(self, image_path: str) -> str:
        """Return the path of the photo, scaled if configured; a copy is removed once the photo has been read."""
        return self.scaler.scale_file(image_path, self.limits) if self.scaler else image_path

    def _parse_json_response(self, text: str) -> Result:
        """Return the result for a model's reply, whose JSON may be fenced or in prose; an error if there is none.

        A reply without token probabilities has no reliable confidence, so all its bibs go to review.
        """
        try:
            candidates = BibJson(BibJsonOptions()).interpret(Prediction(text=text))
        except ModelReplyError as exc:
            return error_of(exc)
        return result_of(replace(each, verdict=Verdict.REVIEW) for each in self.judge.judge(candidates).readings)

    def _results(self, paths: list[str]) -> Iterator[Result]:
        self.load()
        start = time.perf_counter()
        for path, result in zip(paths, self._process_images(paths), strict=True):
            if "error" in result:
                log.warning("%s: %s: %s", self._name, path, result["error"])
            else:
                log.info("%s: %s: %s", self._name, path, result)
            yield result
        log.info("%s: %d photos in %.2f s", self._name, len(paths), time.perf_counter() - start)

    @property
    def _name(self) -> str:
        return type(self).__name__


class StageExtractor(VLMExtractor):
    """Reads with a stage, in batches: the bundled OCR, a server, or a model in this process."""

    def __init__(self, stage: Stage[Any], scaler: ImageScaler | None = None) -> None:
        super().__init__(scaler)
        self.stage = stage

    def close(self) -> None:
        super().close()
        self.stage.close()

    def _load_model(self) -> None:
        self.stage.load()

    def _process_image(self, image_path: str) -> Result:
        (result,) = self._read([image_path])
        return result

    def _process_images(self, image_paths: list[str]) -> Iterator[Result]:
        if type(self)._process_image is StageExtractor._process_image:  # noqa: SLF001  # same module
            return self._read(image_paths)
        return super()._process_images(image_paths)  # a subclass processes photos one by one

    def _read(self, image_paths: list[str]) -> Iterator[Result]:
        for _, result in recognition.read(self.stage, image_paths, self.limits, self._scaled):
            if isinstance(result, Exception):
                yield error_of(result)
            else:
                yield result_of(self.judge.judge(result[1].candidates).readings)

    def _scaled(self, photo: Photo) -> Photo:
        return replace(photo, image=self.scaler.scale(photo.image)) if self.scaler else photo


class LocalVLMExtractor(VLMExtractor):
    """Base of the extractors that run a model in this process; a subclass defines the two hooks."""

    model: Any = None
    processor: Any = None

    def __init__(self, model_name: str, device: str = "cpu", scaler: ImageScaler | None = None) -> None:
        super().__init__(scaler)
        self.model_name = model_name
        self._requested_device = device

    @cached_property
    def device(self) -> str:
        """The device to load the model on: the requested one, or the CPU, with a warning, if it is unavailable."""
        if self._requested_device == AcceleratorDevice.CPU:
            return self._requested_device
        return choose_device(self._requested_device, tuple(AcceleratorDevice), fallback=True, where=self._name)

    def close(self) -> None:
        super().close()
        for name in ("model", "processor"):
            vars(self).pop(name, None)

    @abstractmethod
    def _load_model(self) -> None:
        """Load model and processor on `self.device`. Set `self.model` and `self.processor`."""


class _RuntimeAttribute:
    """An attribute of the model that the runtime has loaded; None if there is none.

    Looked up on each access: a reference would keep its memory after a `close` or a move to the CPU.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, extractor: StageExtractor | None, owner: type) -> Any:
        return getattr(getattr(extractor and extractor.stage.runtime, "loaded", None), self._name, None)


class _LocalFamilyExtractor(StageExtractor, LocalVLMExtractor):
    """Runs a model in transformers, with the options of its family's presets."""

    _family: ClassVar[str]
    model = _RuntimeAttribute()
    processor = _RuntimeAttribute()
    device = _RuntimeAttribute()

    def __init__(
        self,
        model_name: str,
        device: str = "cpu",
        scaler: ImageScaler | None = None,
        *,
        stage: Stage[Any] | None = None,
    ) -> None:
        LocalVLMExtractor.__init__(self, model_name, device, scaler)
        base = f"{self._family}-inline-{'cpu' if device == AcceleratorDevice.CPU else 'gpu'}"
        self.stage = stage or bib_stage(self._name, base=base, repo_id=model_name, device=device)


class LocalQwenExtractor(_LocalFamilyExtractor):
    """Qwen2-VL, such as `Qwen/Qwen2-VL-2B-Instruct`."""

    _family = "qwen"


class LocalSmolVLMExtractor(_LocalFamilyExtractor):
    """SmolVLM, such as `HuggingFaceTB/SmolVLM-Instruct`."""

    _family = "smol"


class RemoteVLLMExtractor(StageExtractor):
    """Uses a vLLM server, or any other with OpenAI's chat completions API. Photos are sent to `url` only."""

    def __init__(
        self,
        url: str | tuple[str, ...],
        model_name: str,
        scaler: ImageScaler | None = None,
        *,
        stage: Stage[Any] | None = None,
    ) -> None:
        stage = stage or bib_stage(self._name, kind="vision_openailike_api", api_url=url, model_name=model_name)
        super().__init__(stage, scaler)
        self.url = url
        self.model_name = model_name
