"""The guide's extractors: one way to ask them all, and the hooks by which they differ.

Knows how stages and presets are put behind the guide's names. Runs no model itself: stages and their runtimes do,
or the hooks of a class of your own.
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
    """Return the configured `bib_number` stage with a preset, or with one made of `options` under that name."""
    made = {preset: options} if options else {}
    registry = settings.load(presets=made, stages={_STAGE: {"model_options": preset}}).registry()
    registry.model_options(preset)  # what is wrong with the preset itself is told in its own name
    return registry.stage(_STAGE, preset)


class VLMExtractor(ABC):
    """Reads bib numbers from photo files. What is wrong with a photo is its result, never an exception."""

    # The scaler has a place of its own: all else, in `__dict__`, is one for an extractor and its scaled ones.
    __slots__ = ("__dict__", "__weakref__", "scaler")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "scaler" in vars(cls):  # it would hide that place, and one scale would be everybody's
            raise TypeError(f"{cls.__name__}.scaler: give a scaler to the extractor, or `get_extractor` a scale")

    def __init__(self, scaler: ImageScaler | None = None) -> None:
        self.scaler = scaler
        configured = settings.load()
        self.limits = configured.images
        self.judge = configured.judge()
        self._loaded = False
        self._loading = threading.Lock()

    def extract(self, image_path: str) -> Result:
        """Return `{"bib": 256, "bibs": [...]}` or `{"error": "..."}`. Raises ConfigurationError as `load` does."""
        (result,) = self._results([image_path])
        return result

    def extract_multiple_bib_numbers(
        self, image_paths: Iterable[str], scale_width: int | None = None, scale_height: int | None = None
    ) -> list[dict[str, Any]]:
        """Return `{"image": path, "result": {...}}` for each photo, in order; a scale given here holds for this call.

        Raises ConfigurationError as `load` does, and TypeError for a path that is in no list.
        """
        if isinstance(image_paths, str | bytes | os.PathLike):  # a text's letters would be read as paths
            raise TypeError(f"image_paths = {image_paths!r} is one path: pass a list of paths, or call `extract`")
        if scale_width is not None or scale_height is not None:
            scaled = self.with_scaler(ImageScaler(scale_width, scale_height))
            return scaled.extract_multiple_bib_numbers(image_paths)
        paths = list(image_paths)
        return [{"image": path, "result": result} for path, result in zip(paths, self._results(paths), strict=True)]

    def load(self) -> None:
        """Load the model, once however often it is called. Raises ConfigurationError if it cannot be."""
        with self._loading:
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
        """Let the model go, and its memory; the next photo brings it back."""
        with self._loading:
            self._loaded = False

    def with_scaler(self, scaler: ImageScaler | None) -> Self:
        """Return the same extractor with another scaler: the one loads, closes and changes what the other has."""
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__
        other.scaler = scaler
        return other

    @abstractmethod
    def _load_model(self) -> None:
        """Load what `_process_image` needs; `load` calls it once."""

    @abstractmethod
    def _process_image(self, image_path: str) -> Result:
        """Read one photo; what this raises, or returns that is no result, becomes the photo's error."""

    def _process_images(self, image_paths: list[str]) -> Iterator[Result]:
        """Yield one result for each photo, in order."""
        for path in image_paths:
            try:
                with copies_removed() if self.scaler else nullcontext():
                    result = checked(self._process_image(path))
            except Exception as exc:  # noqa: BLE001  # whatever a hook raises is this photo's error
                result = error_of(exc)
            yield result

    def _prepare_image(self, image_path: str) -> str:
        """Return the path of the photo scaled as configured: a copy that is removed once the photo has been read."""
        return self.scaler.scale_file(image_path, self.limits) if self.scaler else image_path

    def _parse_json_response(self, text: str) -> Result:
        """Return the result for a model's reply: JSON, in a fence or in prose; an error if there is none in it.

        Nothing in a reply alone says how sure the model was: its bibs all go to review.
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
    """Reads by a stage, in its batches, whichever model it has: the bundled OCR, a server, one in this process."""

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
        if type(self)._process_image is StageExtractor._process_image:  # noqa: SLF001  # our own class
            return self._read(image_paths)
        return super()._process_images(image_paths)  # a class of yours wants to see each photo by itself

    def _read(self, image_paths: list[str]) -> Iterator[Result]:
        for _, answer in recognition.read(self.stage, image_paths, self.limits, self._scaled):
            if isinstance(answer, Exception):
                yield error_of(answer)
            else:
                yield result_of(self.judge.judge(answer[1].candidates).readings)

    def _scaled(self, photo: Photo) -> Photo:
        return replace(photo, image=self.scaler.scale(photo.image)) if self.scaler else photo


class LocalVLMExtractor(VLMExtractor):
    """Base of the extractors whose model runs in this process, and of yours: write the two hooks."""

    model: Any = None
    processor: Any = None

    def __init__(self, model_name: str, device: str = "cpu", scaler: ImageScaler | None = None) -> None:
        super().__init__(scaler)
        self.model_name = model_name
        self._wanted = device

    @cached_property
    def device(self) -> str:
        """The device to load the model on: the one wanted, or, with a warning, the CPU where that is not there."""
        if self._wanted == AcceleratorDevice.CPU:
            return self._wanted
        return choose_device(self._wanted, tuple(AcceleratorDevice), fallback=True, where=self._name)

    def close(self) -> None:
        super().close()
        for name in ("model", "processor"):
            vars(self).pop(name, None)

    @abstractmethod
    def _load_model(self) -> None:
        """Load model and processor on `self.device`. Set `self.model` and `self.processor`."""


class _OfTheRuntime:
    """What transformers loaded for the runtime, and where it is; None before and after.

    It is looked up each time: who kept it would keep its memory, too, after a `close` or a move to the CPU.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, extractor: StageExtractor | None, owner: type) -> Any:
        return getattr(getattr(extractor and extractor.stage.runtime, "loaded", None), self._name, None)


class _LocalFamilyExtractor(StageExtractor, LocalVLMExtractor):
    """A model that transformers runs, with the options of its family's presets."""

    _family: ClassVar[str]
    model = _OfTheRuntime()
    processor = _OfTheRuntime()
    device = _OfTheRuntime()

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
    """A model behind a vLLM server, or any that speaks OpenAI's chat completions. Photos are sent to `url` only."""

    def __init__(
        self,
        url: str | tuple[str, ...],
        model_name: str,
        scaler: ImageScaler | None = None,
        *,
        stage: Stage[Any] | None = None,
    ) -> None:
        made = stage or bib_stage(self._name, kind="vision_openailike_api", api_url=url, model_name=model_name)
        super().__init__(made, scaler)
        self.url = url
        self.model_name = model_name
