"""Batches that do not fit in the device's memory, and models that several runtimes share.

Most machines that run these have no GPU: out-of-memory errors are injected into `generate` of a tiny model or into its
loading, sometimes with a pretended GPU. The last test exhausts the memory of a real GPU, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from structlog.testing import capture_logs

from bibwatch.drawing import photo
from bibwatch.errors import ConfigurationError, ModelUnavailableError
from bibwatch.runtimes.devices import Dtype, is_out_of_memory, torch_dtype
from bibwatch.runtimes.transformers import VisionHfTransformers, VisionHfTransformersOptions, quantization
from bibwatch.runtimes.transformers.model import HfModel, Place, places

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.local

PROMPT = "Which bib?"
BATCH = 6
GPU = "cuda:0"


def options(folder: Path, **settings: Any) -> VisionHfTransformersOptions:
    plain: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": BATCH, "max_new_tokens": 6}
    return VisionHfTransformersOptions.model_validate({"name": "x", "repo_id": str(folder), **plain, **settings})


def texts(runtime: VisionHfTransformers, pictures: list[Image.Image]) -> list[str]:
    return [answer.text for answer in runtime.predict_batch(pictures, PROMPT)]


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [photo((str(100 + number),), size=(90, 60)) for number in range(BATCH)]


@pytest.fixture
def expected(tiny_vlm: Path, pictures: list[Image.Image]) -> list[str]:
    with VisionHfTransformers(options(tiny_vlm)) as runtime:
        found = texts(runtime, pictures)
    assert len(set(found)) > 1
    return found


@pytest.fixture
def cramped(tiny_vlm: Path) -> Iterator[Callable[..., tuple[VisionHfTransformers, list[int]]]]:
    """Load the tiny model with memory for `room` images; return the runtime and the sizes of attempted batches."""
    loaded = []

    def cramped(room: int, shortage: Exception, **settings: Any) -> tuple[VisionHfTransformers, list[int]]:
        runtime = VisionHfTransformers(options(tiny_vlm, **settings))
        runtime.load()
        loaded.append(runtime)
        model, tried = runtime._model.model, []
        generate = model.generate

        def within_room(**how: Any) -> Any:
            tried.append(len(how["input_ids"]))
            if len(how["input_ids"]) > room:
                raise shortage
            return generate(**how)

        model.generate = within_room
        return runtime, tried

    yield cramped
    for runtime in loaded:
        runtime.close()


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


class TestBatches:
    @pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda exc: type(exc).__name__)
    def test_a_batch_that_does_not_fit_is_halved_until_it_does(
        self,
        cramped: Callable[..., tuple[VisionHfTransformers, list[int]]],
        shortage: Exception,
        pictures: list[Image.Image],
        expected: list[str],
    ) -> None:
        runtime, tried = cramped(2, shortage)
        assert texts(runtime, pictures) == expected
        assert tried == [6, 3, 1, 1, 1, 1, 1, 1]

    def test_later_batches_start_with_the_size_that_fitted(
        self,
        cramped: Callable[..., tuple[VisionHfTransformers, list[int]]],
        pictures: list[Image.Image],
        expected: list[str],
    ) -> None:
        runtime, tried = cramped(3, SHORTAGES[0])
        with capture_logs() as logs:
            assert texts(runtime, pictures) == expected
            assert texts(runtime, pictures) == expected
        assert tried == [6, 3, 3, 3, 3]
        assert [entry["event"] for entry in logs] == ["batch.halved"]

    def test_images_that_do_not_fit_have_their_own_errors(
        self, cramped: Callable[..., tuple[VisionHfTransformers, list[int]]], pictures: list[Image.Image]
    ) -> None:
        runtime, _ = cramped(0, SHORTAGES[0])
        answers = list(runtime.predict_batch(pictures, PROMPT))
        assert len(answers) == BATCH
        for answer in answers:
            assert isinstance(answer.error, ModelUnavailableError)
            assert answer.device == "cpu"
            assert str(answer.error).startswith("x: not enough memory on cpu for one image (CUDA out of memory.")

    def test_other_errors_do_not_halve_the_batch(
        self, cramped: Callable[..., tuple[VisionHfTransformers, list[int]]], pictures: list[Image.Image]
    ) -> None:
        runtime, tried = cramped(0, RuntimeError("shapes cannot be multiplied"))
        answers = list(runtime.predict_batch(pictures, PROMPT))
        assert tried == [6] + [1] * BATCH
        assert {str(answer.error) for answer in answers} == {"x: shapes cannot be multiplied"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that there is a GPU. Return the devices that models are loaded on; in fact, it is always the CPU."""
    monkeypatch.setattr("bibwatch.runtimes.transformers.model.choose_device", lambda wanted, *_, **__: wanted)
    at, asked = HfModel._load_at, []

    def on_the_cpu(self: HfModel, place: Place) -> Any:
        asked.append(place.device)
        return at(self, place._replace(device="cpu"))

    monkeypatch.setattr(HfModel, "_load_at", on_the_cpu)
    return asked


@pytest.fixture
def small(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return a set of devices, initially empty, that have too little memory for any model."""
    del gpu
    at, small = HfModel._load_at, set()

    def with_little(self: HfModel, place: Place) -> Any:
        model = at(self, place)
        if place.device in small:
            raise SHORTAGES[0]
        return model

    monkeypatch.setattr(HfModel, "_load_at", with_little)
    return small


class TestFallingBack:
    def test_the_model_moves_to_the_cpu_once_and_no_image_is_lost(
        self,
        gpu: list[str],
        cramped: Callable[..., tuple[VisionHfTransformers, list[int]]],
        pictures: list[Image.Image],
        expected: list[str],
    ) -> None:
        runtime, tried = cramped(0, SHORTAGES[0], device=GPU)
        with capture_logs() as logs:
            answers = list(runtime.predict_batch(pictures, PROMPT))
            assert texts(runtime, pictures) == expected
        assert [answer.text for answer in answers] == expected
        assert {answer.device for answer in answers} == {"cpu"}
        assert gpu[-2:] == [GPU, "cpu"]
        assert tried == [6, 3, 1]  # the reloaded model has its own `generate`
        (warning,) = [entry for entry in logs if entry["event"] == "device.fallback"]
        assert (warning["wanted"], warning["taken"], warning["log_level"]) == (GPU, "cpu", "warning")
        assert "out of memory" in warning["reason"]
        assert runtime._max_batch == BATCH

    def test_predictions_name_their_device(
        self,
        gpu: list[str],
        cramped: Callable[..., tuple[VisionHfTransformers, list[int]]],
        pictures: list[Image.Image],
        expected: list[str],
    ) -> None:
        del gpu
        runtime, _ = cramped(0, SHORTAGES[0], device=GPU, batch_size=1)
        generate = type(runtime._model.model).generate
        model, calls = runtime._model.model, iter(range(2))

        def twice(**how: Any) -> Any:
            if next(calls, None) is None:
                raise SHORTAGES[0]
            return generate(model, **how)

        model.generate = twice
        answers = list(runtime.predict_batch(pictures, PROMPT))
        assert [answer.device for answer in answers] == [GPU] * 2 + ["cpu"] * 4
        assert [answer.text for answer in answers] == expected

    @pytest.mark.parametrize("settings", [{"device_fallback": False}, {"supported_devices": ["cuda"]}], ids=str)
    def test_without_fallback_images_that_do_not_fit_have_an_error(
        self,
        gpu: list[str],
        cramped: Callable[..., tuple[VisionHfTransformers, list[int]]],
        pictures: list[Image.Image],
        settings: dict[str, Any],
    ) -> None:
        runtime, _ = cramped(0, SHORTAGES[0], device=GPU, **settings)
        answers = list(runtime.predict_batch(pictures[:2], PROMPT))
        assert gpu == [GPU]
        assert [type(answer.error) for answer in answers] == [ModelUnavailableError] * 2
        assert all("allow the CPU as fallback (device_fallback = true)" in str(answer.error) for answer in answers)

    def test_a_model_too_large_for_the_device_is_loaded_on_the_cpu(
        self, tiny_vlm: Path, gpu: list[str], small: set[str], pictures: list[Image.Image], expected: list[str]
    ) -> None:
        small.add(GPU)
        with capture_logs() as logs, VisionHfTransformers(options(tiny_vlm, device=GPU)) as runtime:
            assert texts(runtime, pictures) == expected
            assert runtime._model.device == "cpu"
        assert gpu[-2:] == [GPU, "cpu"]
        assert [entry["event"] for entry in logs] == ["device.fallback"]

    def test_a_model_too_large_without_fallback_is_a_configuration_error(self, tiny_vlm: Path, small: set[str]) -> None:
        small.add(GPU)
        with pytest.raises(ConfigurationError, match=r"^preset x: .* cannot be loaded: CUDA out of memory"):
            VisionHfTransformers(options(tiny_vlm, device=GPU, device_fallback=False)).load()

    def test_a_model_that_does_not_fit_on_the_cpu_either_is_loaded_again_later(
        self,
        tiny_vlm: Path,
        gpu: list[str],
        small: set[str],
        pictures: list[Image.Image],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """For all runtimes that share it. The images are not at fault and will be retried."""
        one, other = (VisionHfTransformers(options(tiny_vlm, device=GPU, name=name)) for name in ("one", "other"))
        with one, other:
            expected = texts(one, pictures)
            monkeypatch.setattr(one._model.model, "generate", _raise(SHORTAGES[0]))
            small.update({GPU, "cpu"})
            gpu.clear()
            for runtime in (one, other):
                answers = list(runtime.predict_batch(pictures, PROMPT))
                assert [type(answer.error) for answer in answers] == [ModelUnavailableError] * BATCH
                assert "cannot be loaded: CUDA out of memory" in str(answers[-1].error)
            assert gpu == ["cpu", GPU, "cpu"]
            assert one._model.model is None
            small.clear()
            for runtime in (other, one):
                assert texts(runtime, pictures) == expected
            assert gpu[3:] == [GPU]
            assert one._model.device == GPU

    def test_earlier_predictions_are_kept(
        self, tiny_vlm: Path, small: set[str], pictures: list[Image.Image], expected: list[str]
    ) -> None:
        with VisionHfTransformers(options(tiny_vlm, device=GPU)) as runtime:
            model = runtime._model.model
            generate, calls = model.generate, iter([False, True])  # the batch fails, half of it succeeds, then all fail

            def once(**how: Any) -> Any:
                if not next(calls, False):
                    raise SHORTAGES[0]
                return generate(**how)

            model.generate = once
            small.add("cpu")
            answers = list(runtime.predict_batch(pictures, PROMPT))
        assert [answer.text for answer in answers[:3]] == expected[:3]
        assert [type(answer.error) for answer in answers[3:]] == [ModelUnavailableError] * 3

    def test_fallback_needs_support_on_the_cpu(
        self, tiny_vlm: Path, gpu: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model with 4 bits of torchao stays on the GPU, which may have enough memory for the next image."""
        del gpu
        monkeypatch.setattr(quantization, "find_spec", lambda _: object())
        small = {"quantized": True, "load_in_8bit": False, "device": GPU, "dtype": "float32"}
        assert [place.device for place in places(options(tiny_vlm, quantizer="torchao", **small))] == [GPU]
        assert [place.device for place in places(options(tiny_vlm, quantizer="bitsandbytes", **small))] == [GPU, "cpu"]


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(**_: Any) -> Any:
        raise error

    return fail


class TestSharing:
    @pytest.fixture
    def loads(self, monkeypatch: pytest.MonkeyPatch, expected: list[str]) -> list[str]:
        """Return a list of loaded folders, counted after `expected` has been computed."""
        del expected
        from transformers import AutoModelForImageTextToText

        read = AutoModelForImageTextToText.from_pretrained
        loads: list[str] = []
        monkeypatch.setattr(
            AutoModelForImageTextToText,
            "from_pretrained",
            lambda folder, **how: loads.append(str(folder)) or read(folder, **how),
        )
        return loads

    def test_runtimes_of_the_same_model_load_it_once(
        self, tiny_vlm: Path, loads: list[str], pictures: list[Image.Image], expected: list[str]
    ) -> None:
        one = VisionHfTransformers(options(tiny_vlm, name="one"))
        other = VisionHfTransformers(options(tiny_vlm, name="other", max_new_tokens=3, batch_size=2))
        with one, other:
            assert one._model is other._model
            assert texts(one, pictures) == expected
            short = list(other.predict_batch(pictures, PROMPT))
            assert {len(answer.tokens) for answer in short} == {3}
            other.close()
            assert texts(one, pictures) == expected
        assert loads == [str(tiny_vlm)]

    def test_the_last_runtime_releases_it(self, tiny_vlm: Path, loads: list[str]) -> None:
        one, other = VisionHfTransformers(options(tiny_vlm)), VisionHfTransformers(options(tiny_vlm))
        with one, other:
            held = one._model
        assert held.model is None
        with one:
            assert one._model is not held
        assert len(loads) == 2

    def test_equivalent_devices_share_a_model(self, tiny_vlm: Path, loads: list[str]) -> None:
        """Options for other devices do not matter to a model on the CPU."""
        spelled: list[dict[str, Any]] = [
            {"device": "cpu"},
            {"device": "cuda:63"},  # does not exist
            {"device": "auto", "supported_devices": ["cpu"]},
            {"device": "cpu", "device_fallback": False},
        ]
        runtimes = [VisionHfTransformers(options(tiny_vlm, **settings)) for settings in spelled]
        with capture_logs() as logs:
            for runtime in runtimes:
                runtime.load()
        assert len({id(runtime._model) for runtime in runtimes}) == len(loads) == 1
        assert [entry["event"] for entry in logs] == ["device.fallback"]
        for runtime in runtimes:
            runtime.close()

    def test_equivalent_precisions_share_a_model(self, tiny_vlm: Path) -> None:
        best = str(torch_dtype(Dtype.AUTO, "cpu")).removeprefix("torch.")
        assert places(options(tiny_vlm, dtype="auto")) == places(options(tiny_vlm, dtype=best))

    @pytest.mark.parametrize(
        "settings", [{"dtype": "bfloat16"}, {"device": "cpu"}, {"device_fallback": False}], ids=str
    )
    def test_different_options_do_not_share_a_model(
        self, tiny_vlm: Path, gpu: list[str], loads: list[str], settings: dict[str, Any]
    ) -> None:
        del gpu
        usual = {"device": GPU}
        with (
            VisionHfTransformers(options(tiny_vlm, **usual)) as one,
            VisionHfTransformers(options(tiny_vlm, **(usual | settings))) as two,
        ):
            assert one._model is not two._model
        assert len(loads) == 2

    def test_simultaneous_threads_share_a_model_and_take_turns(
        self, tiny_vlm: Path, loads: list[str], pictures: list[Image.Image], expected: list[str]
    ) -> None:
        runtimes = [VisionHfTransformers(options(tiny_vlm)) for _ in range(4)]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda runtime: texts(runtime, pictures), runtimes * 2))
        for runtime in runtimes:
            runtime.close()
        assert found == [expected] * 8
        assert len(loads) == 1

    def test_a_runtime_that_fails_to_load_releases_the_model(self, tiny_vlm: Path, loads: list[str]) -> None:
        with pytest.raises(ConfigurationError, match="max_pixels"):
            VisionHfTransformers(options(tiny_vlm, max_pixels=9999)).load()
        with VisionHfTransformers(options(tiny_vlm)):
            pass
        assert len(loads) == 2


def test_what_counts_as_out_of_memory() -> None:
    assert all(is_out_of_memory(shortage) for shortage in SHORTAGES)
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("device-side assert triggered"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_full_gpu_falls_back_to_the_cpu(tiny_vlm: Path, pictures: list[Image.Image]) -> None:
    """The GPU's memory is filled after the model is loaded."""
    with VisionHfTransformers(options(tiny_vlm, device="cuda")) as runtime:
        on_gpu = list(runtime.predict_batch(pictures, PROMPT))
        torch.cuda.empty_cache()
        hog = []
        for size in (2**30, 2**26, 2**22, 2**20):
            try:
                while True:
                    hog.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                pass
        large = [picture.resize((1800, 1200)) for picture in pictures]
        with capture_logs() as logs:
            answers = list(runtime.predict_batch(large, PROMPT))
        del hog
    assert {answer.device for answer in on_gpu} == {"cuda:0"}
    assert [answer.error for answer in answers] == [None] * BATCH
    assert answers[-1].device == "cpu"
    assert [entry["event"] for entry in logs].count("device.fallback") == 1
