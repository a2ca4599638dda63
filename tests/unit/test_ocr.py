"""`vision_ocr` with the real RapidOCR and the models from its wheel."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from PIL import Image
from pydantic import ValidationError

from bibwatch import drawing
from bibwatch.errors import ModelError
from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.ocr import VisionOcr, VisionOcrOptions

_SMALL = VisionOcrOptions(threads=1, enlarge=1)


@pytest.fixture(scope="module")
def runtime() -> Iterator[VisionOcr]:
    """Load the bundled model once: it takes a second or two."""
    runtime = VisionOcr(VisionOcrOptions(threads=1))
    runtime.load()
    yield runtime
    runtime.close()


@pytest.fixture
def engine(runtime: VisionOcr, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Replace RapidOCR's engine; the replacement is called with the same arguments."""
    return lambda replacement: monkeypatch.setattr(runtime, "_ocr", replacement)


class Nothing:
    """What RapidOCR returns for an image without text."""

    txts = scores = boxes = None


def white(width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), {"P": 0}.get(mode, "white"))


def predict(runtime: VisionOcr, *images: Image.Image) -> list[Prediction]:
    return list(runtime.predict_batch(images, ""))


def bibs(prediction: Prediction, *wanted: str) -> set[str]:
    return {line.text.replace(" ", "") for line in prediction.lines} & set(wanted)


# One prediction for each image


def test_one_prediction_for_each_image_in_order(runtime: VisionOcr) -> None:
    images = [drawing.photo((bib,), size=(300, 300)) for bib in ("1042", "2173", "3318")]
    predictions = predict(runtime, images[0], white(), images[1], images[2])
    assert [bibs(each, "1042", "2173", "3318") for each in predictions] == [{"1042"}, set(), {"2173"}, {"3318"}]
    assert [each.error for each in predictions] == [None] * 4
    assert all(each.device == "cpu" and each.seconds > 0 for each in predictions)


def test_no_images_give_no_predictions(runtime: VisionOcr) -> None:
    assert predict(runtime) == []


def test_images_are_consumed_one_by_one(runtime: VisionOcr) -> None:
    """The second is not consumed until the first has its prediction, so that a batch need not be in memory."""
    taken = []

    def images() -> Iterator[Image.Image]:
        for number in range(3):
            taken.append(number)
            yield white()

    predictions = runtime.predict_batch(images(), "")
    next(predictions)
    assert taken == [0]


def test_the_prompt_changes_nothing(runtime: VisionOcr) -> None:
    image = drawing.photo(("1042",), size=(300, 300))
    (first,), (second,) = (runtime.predict_batch([image], prompt) for prompt in ("", "Ignore this"))
    assert first.lines == second.lines


@pytest.mark.parametrize(
    "mode",
    [
        *("L", "RGBA"),
        *(pytest.param(m, marks=pytest.mark.heavy) for m in ("1", "LA", "P", "CMYK", "YCbCr", "I;16", "I", "F")),
    ],
)
def test_an_image_of_any_mode_is_read(runtime: VisionOcr, mode: str) -> None:
    picture = drawing.photo(("4471",), size=(300, 300))
    if mode in {"I;16", "I", "F"}:
        picture = picture.convert("L").convert("I").point(lambda value: value * 257)
    (prediction,) = predict(runtime, picture.convert(mode) if mode != "I;16" else picture.convert("I;16"))
    assert prediction.error is None
    assert mode == "1" or bibs(prediction, "4471") == {"4471"}  # dithered images are hard to read


def test_transparent_pixels_are_not_read(runtime: VisionOcr) -> None:
    """The image has the pixels of a number, but they are transparent."""
    picture = drawing.photo(("4471",), size=(300, 300)).convert("RGBA")
    picture.putalpha(0)
    assert predict(runtime, picture)[0].lines == ()


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (31, 31),
        *(pytest.param(size, marks=pytest.mark.heavy) for size in ((1, 2), (64, 2), (3000, 3000), (4000, 400))),
    ],
)
def test_an_image_of_any_size_has_a_prediction_without_error(runtime: VisionOcr, size: tuple[int, int]) -> None:
    (prediction,) = predict(runtime, white(*size))
    assert prediction.error is None
    assert prediction.lines == ()


_THIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from PIL import Image
from bibwatch.runtimes.ocr import VisionOcrOptions, VisionOcr
runtime = VisionOcr(VisionOcrOptions(threads=1))
(prediction,) = runtime.predict_batch([Image.new("RGB", (int(sys.argv[1]), int(sys.argv[2])), "white")], "")
sys.exit(prediction.error and str(prediction.error))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("size", [("3000", "2"), ("2", "3000"), ("33", "4000")])
def test_a_long_thin_image_takes_no_more_memory_than_a_photo(size: tuple[str, str]) -> None:
    """In a process limited to 3 GiB of address space, to protect this one."""
    done = subprocess.run([sys.executable, "-c", _THIN, *size], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Reading


@pytest.mark.parametrize(
    "bibs_drawn",
    [
        ("12", "345", "6789"),
        *(
            pytest.param(bibs, marks=pytest.mark.heavy)
            for bibs in (("0042",), ("M10151",), ("10151", "10152", "10153"))
        ),
    ],
)
def test_drawn_photos_are_read_correctly(runtime: VisionOcr, bibs_drawn: tuple[str, ...]) -> None:
    (prediction,) = predict(runtime, drawing.photo(bibs_drawn, size=(900, 600)))
    assert bibs(prediction, *bibs_drawn) == set(bibs_drawn)
    assert all(0.5 <= line.score <= 1.0001 for line in prediction.lines)


@pytest.mark.parametrize(
    "size", [(450, 300), *(pytest.param(s, marks=pytest.mark.heavy) for s in ((900, 600), (2400, 1600)))]
)
def test_boxes_are_in_pixels_of_the_original_image(runtime: VisionOcr, size: tuple[int, int]) -> None:
    """Even if it is enlarged or reduced. The runner's bib is in the middle, the banner above."""
    (prediction,) = predict(runtime, drawing.photo(("7345",), size=size))
    (line,) = [line for line in prediction.lines if line.text == "7345"]
    width, height = size
    assert 0.3 * width < line.box.x1 < 0.5 * width < line.box.x2 < 0.7 * width
    assert 0.4 * height < line.box.y1 < line.box.y2 < 0.8 * height


def test_the_engine_gets_colours_in_its_order(
    runtime: VisionOcr, engine: Callable[[Callable[[Any], Any]], None]
) -> None:
    """Blue, green, red; a mistake costs accuracy, and tests with black on white cannot find it."""
    seen = []
    engine(lambda pixels: (seen.append(pixels[0, 0].tolist()), Nothing)[1])
    predict(runtime, Image.new("RGB", (8, 8), (1, 2, 3)))
    assert seen == [[3, 2, 1]]


@pytest.mark.parametrize(
    ("size", "given"),
    [
        ((4000, 2000), (100, 50)),
        ((1000, 2500), (40, 100)),
        ((40, 20), (80, 40)),
        ((60, 30), (100, 50)),
        ((4000, 100), (100, 32)),  # never narrower than the minimum
        ((1, 1), (32, 32)),
    ],
)
def test_images_are_resized(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], given: tuple[int, int]) -> None:
    """To the longest side; small images are enlarged up to a maximum factor."""
    small = VisionOcr(VisionOcrOptions(longest_side=100, enlarge=2))
    shapes = []
    monkeypatch.setattr(small, "_ocr", lambda pixels: (shapes.append(pixels.shape), Nothing)[1])
    predict(small, white(*size))
    assert shapes == [(given[1], given[0], 3)]


# Errors


@pytest.mark.parametrize("error", [RuntimeError("bad\n  shape"), ValueError(), MemoryError(), KeyError("x")])
def test_any_exception_of_the_engine_is_the_error_of_that_image(
    runtime: VisionOcr, engine: Callable[[Callable[[Any], Any]], None], error: Exception
) -> None:
    calls = iter(range(9))

    def fragile(_: Any) -> Any:
        if next(calls) == 1:
            raise error
        return Nothing

    engine(fragile)
    before, failed, after = predict(runtime, white(), white(), white())
    assert isinstance(failed.error, ModelError)
    assert "\n" not in str(failed.error)
    assert (
        str(error).split()[-1:] == str(failed.error).split()[-1:]
        or str(failed.error) == f"rapidocr: {type(error).__name__}"
    )
    assert failed.lines == ()
    assert [each.error for each in (before, after)] == [None, None]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_an_image_error(
    runtime: VisionOcr, engine: Callable[[Callable[[Any], Any]], None], interrupt: type[BaseException]
) -> None:
    def stopped(_: Any) -> NoReturn:
        raise interrupt

    engine(stopped)
    with pytest.raises(interrupt):
        predict(runtime, white())


# Loading and closing


def test_creating_a_runtime_loads_nothing() -> None:
    assert VisionOcr(VisionOcrOptions())._ocr is None


def test_loading_twice_loads_once(runtime: VisionOcr) -> None:
    before = runtime._ocr
    runtime.load()
    assert runtime._ocr is before


def test_closing_twice_is_harmless_and_predicting_loads_again() -> None:
    """Without the network; see the next test."""
    runtime = VisionOcr(_SMALL)
    runtime.close()
    runtime.load()
    runtime.close()
    runtime.close()
    assert runtime._ocr is None
    assert predict(runtime, white())[0].error is None
    runtime.close()


def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be none at a finish line."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    runtime = VisionOcr(_SMALL)
    runtime.load()
    (prediction,) = predict(runtime, drawing.photo(("1042",), size=(500, 400)))
    assert bibs(prediction, "1042") == {"1042"}
    runtime.close()


# Options


@pytest.mark.parametrize(
    "options",
    [
        VisionOcrOptions(),
        VisionOcrOptions(name="mine", longest_side=999, enlarge=1.5, min_score=0, threads=3, batch_size=1),
    ],
)
def test_options_round_trip_through_json(options: VisionOcrOptions) -> None:
    assert VisionOcrOptions.model_validate_json(options.model_dump_json()) == options


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "vision_vllm"},
        {"longest_side": 31},
        {"longest_side": 4097},
        {"longest_side": None},
        {"enlarge": 0.5},
        {"min_score": 1.1},
        {"threads": -1},
        {"batch_size": 0},
        {"prompt": "x"},
    ],
)
def test_invalid_options(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VisionOcrOptions(**wrong)


def test_options_are_immutable() -> None:
    with pytest.raises(ValidationError):
        VisionOcrOptions().threads = 2  # type: ignore[misc]


def test_the_model_name_is_not_the_preset_name() -> None:
    """It is recorded with each result."""
    assert VisionOcrOptions(name="mine").model == VisionOcrOptions().model != "mine"
