"""`vision_ocr`, the real one: RapidOCR with the models of its wheel."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, NoReturn

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from bibwatch import drawing
from bibwatch.domain.candidates import Look
from bibwatch.errors import ModelError
from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.ocr import VisionOcr, VisionOcrOptions
from bibwatch.runtimes.ocr.engines import Network
from bibwatch.runtimes.ocr.reading import Reader

DIGITS = "\n".join("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # an alphabet
_SMALL = VisionOcrOptions(threads=1, enlarge=1)


@pytest.fixture(scope="module")
def runtime() -> Iterator[VisionOcr]:
    """The bundled model, loaded once: it takes a second or two."""
    runtime = VisionOcr(VisionOcrOptions(threads=1))
    runtime.load()
    yield runtime
    runtime.close()


@pytest.fixture
def engine(runtime: VisionOcr, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Put another detector in the place of the runtime's; it is called with the input of the network."""

    def replace(detector: Callable[[Any], Any]) -> None:
        monkeypatch.setattr(runtime._reader, "_detector", Network(detector, ""))

    return replace


def nothing(array: Any) -> Any:
    """Return the probability map of an image without text."""
    return np.zeros((1, 1, *array.shape[2:]), np.float32)


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


def test_no_images_are_no_predictions(runtime: VisionOcr) -> None:
    assert predict(runtime) == []


def test_images_are_taken_one_by_one(runtime: VisionOcr) -> None:
    """The second is not even asked for before the first has its prediction: a batch need not be in memory."""
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
def test_a_picture_of_any_mode_is_read(runtime: VisionOcr, mode: str) -> None:
    picture = drawing.photo(("4471",), size=(300, 300))
    if mode in {"I;16", "I", "F"}:
        picture = picture.convert("L").convert("I").point(lambda value: value * 257)
    (prediction,) = predict(runtime, picture.convert(mode) if mode != "I;16" else picture.convert("I;16"))
    assert prediction.error is None
    assert mode == "1" or bibs(prediction, "4471") == {"4471"}  # dots of black and white are hard to read


def test_transparent_parts_hide_nothing_and_show_nothing(runtime: VisionOcr) -> None:
    """What cannot be seen is not read: the number's own pixels are there, but transparent."""
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
def test_a_picture_of_any_size_has_a_prediction_without_error(runtime: VisionOcr, size: tuple[int, int]) -> None:
    (prediction,) = predict(runtime, white(*size))
    assert prediction.error is None
    assert prediction.lines == ()


_THIN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from PIL import Image, ImageDraw, ImageFont
from bibwatch.runtimes.ocr import VisionOcrOptions, VisionOcr
runtime = VisionOcr(VisionOcrOptions(threads=1))
(prediction,) = runtime.predict_batch([Image.new("RGB", (int(sys.argv[1]), int(sys.argv[2])), "white")], "")
sys.exit(prediction.error and str(prediction.error))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("size", [("3000", "2"), ("2", "3000"), ("33", "4000")])
def test_a_long_thin_picture_takes_no_more_memory_than_a_photo(size: tuple[str, str]) -> None:
    """In a process with 3 GiB of addresses: in this one it would be the end of the tests."""
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
def test_drawn_photos_are_read_rightly(runtime: VisionOcr, bibs_drawn: tuple[str, ...]) -> None:
    (prediction,) = predict(runtime, drawing.photo(bibs_drawn, size=(900, 600)))
    assert bibs(prediction, *bibs_drawn) == set(bibs_drawn)
    assert all(0 <= line.score <= 1.0001 for line in prediction.lines)


@pytest.mark.parametrize(
    "size", [(450, 300), *(pytest.param(s, marks=pytest.mark.heavy) for s in ((900, 600), (2400, 1600)))]
)
def test_boxes_are_in_pixels_of_the_picture_that_was_given(runtime: VisionOcr, size: tuple[int, int]) -> None:
    """Whatever it was enlarged or reduced to: the one runner's bib is in the middle, the banner is above."""
    (prediction,) = predict(runtime, drawing.photo(("7345",), size=size))
    lines = [line for line in prediction.lines if line.text == "7345"]
    width, height = size
    assert lines
    for line in lines:
        assert 0.3 * width < line.box.x1 < 0.5 * width < line.box.x2 < 0.7 * width
        assert 0.4 * height < line.box.y1 < line.box.y2 < 0.8 * height


def test_colours_are_given_as_the_engine_takes_them(
    runtime: VisionOcr, engine: Callable[[Callable[[Any], Any]], None]
) -> None:
    """Blue, green, red; a mistake here costs reads and no test of black on white finds it."""
    seen = []
    engine(lambda array: (seen.append(array[0, :, 0, 0].tolist()), nothing(array))[1])
    predict(runtime, Image.new("RGB", (32, 32), (0, 51, 255)))
    assert seen == [pytest.approx([1.0, -0.6, -1.0])]


@pytest.mark.parametrize(
    ("size", "given"),
    [
        ((4000, 2000), (1024, 512)),
        ((1000, 2500), (416, 1024)),
        ((64, 32), (256, 128)),
        ((4000, 100), (1024, 32)),  # never thinner than the network's step
        ((1, 1), (128, 128)),
    ],
)
def test_the_first_look_is_taken_at_the_longest_side(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], given: tuple[int, int]
) -> None:
    """In steps of 32 pixels; small images are enlarged, up to a factor."""
    small = VisionOcr(VisionOcrOptions(longest_side=1024, enlarge=4))
    shapes = []
    detector = Network(lambda array: (shapes.append(array.shape), nothing(array))[1], "")
    monkeypatch.setattr(small, "_reader", Reader(detector, Network(nothing, DIGITS)))
    predict(small, white(*size))
    assert shapes == [(1, 3, given[1], given[0])]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_each_engine_reads_the_same(engine: Literal["openvino", "onnxruntime"]) -> None:
    (prediction,) = predict(VisionOcr(VisionOcrOptions(threads=1, engine=engine)), drawing.photo(("7345",)))
    assert bibs(prediction, "7345") == {"7345"}


def test_a_number_is_read_in_three_looks(runtime: VisionOcr) -> None:
    (prediction,) = predict(runtime, drawing.photo(("7345",), size=(900, 600)))
    looks = {line.look for line in prediction.lines if line.text == "7345"}
    assert looks == {Look.PHOTO, Look.CROP, Look.WIDE}


def test_a_small_number_in_a_large_photo_is_read_at_full_size(runtime: VisionOcr) -> None:
    """Eight pixels high at the first look, it is found there and read where it is cut out."""
    image = drawing.photo(("7345",), size=(450, 300))
    large = Image.new("RGB", (4800, 3200), "gray")
    large.paste(image, (3000, 2000))
    (prediction,) = predict(runtime, large)
    assert bibs(prediction, "7345") == {"7345"}


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_photo_that_is_not_upright_is_noticed_and_read(runtime: VisionOcr, turn: int) -> None:
    image = drawing.photo(("7345", "1042"), size=(900, 600))
    (prediction,) = predict(runtime, image.rotate(-turn, expand=True))
    assert bibs(prediction, "7345", "1042") == {"7345", "1042"}
    angles = {round(line.glyphs.angle / 90) * 90 % 360 for line in prediction.lines if line.glyphs}
    assert angles == {turn}


def test_a_number_cut_off_has_no_margin_there(runtime: VisionOcr) -> None:
    """The card goes on beside a whole number; beside one that an arm hides there is the arm."""
    image = Image.new("RGB", (600, 300), "white")
    ImageDraw.Draw(image).text((300, 150), "7345", "black", ImageFont.load_default(100), anchor="mm")
    cut = image.copy()
    cut.paste("navy", (350, 0, 600, 300))  # in front of the last digit
    whole, part = (
        [each for each in predict(runtime, picture)[0].lines if each.text.startswith("73") and each.glyphs]
        for picture in (image, cut)
    )
    assert whole
    assert part
    assert all(min(each.glyphs.margin_left or 0, each.glyphs.margin_right or 0) > 0.5 for each in whole if each.glyphs)
    assert all((each.glyphs.margin_left or 0) > 0.5 > (each.glyphs.margin_right or 0) for each in part if each.glyphs)


# Errors


@pytest.mark.parametrize("error", [RuntimeError("bad\n  shape"), ValueError(), MemoryError(), KeyError("x")])
def test_whatever_the_engine_raises_is_the_error_of_that_image(
    runtime: VisionOcr, engine: Callable[[Callable[[Any], Any]], None], error: Exception
) -> None:
    calls = iter(range(9))

    def fragile(array: Any) -> Any:
        if next(calls) == 1:
            raise error
        return nothing(array)

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
def test_a_stop_is_no_error_of_an_image(
    runtime: VisionOcr, engine: Callable[[Callable[[Any], Any]], None], interrupt: type[BaseException]
) -> None:
    def stopped(_: Any) -> NoReturn:
        raise interrupt

    engine(stopped)
    with pytest.raises(interrupt):
        predict(runtime, white())


# Loading and closing


def test_making_one_loads_nothing() -> None:
    assert VisionOcr(VisionOcrOptions())._reader is None


def test_loading_twice_loads_once(runtime: VisionOcr) -> None:
    before = runtime._reader
    runtime.load()
    assert runtime._reader is before


def test_closing_twice_does_no_harm_and_asking_loads_again() -> None:
    """And nothing is fetched from the network for it; see the next test."""
    runtime = VisionOcr(_SMALL)
    runtime.close()
    runtime.load()
    runtime.close()
    runtime.close()
    assert runtime._reader is None
    assert predict(runtime, white())[0].error is None
    runtime.close()


def test_no_network_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a finish line there is none."""

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
def test_options_survive_json(options: VisionOcrOptions) -> None:
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
def test_options_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VisionOcrOptions(**wrong)


def test_options_cannot_be_changed_behind_the_runtimes_back() -> None:
    with pytest.raises(ValidationError):
        VisionOcrOptions().threads = 2  # type: ignore[misc]


def test_the_model_has_a_name_of_its_own() -> None:
    """It is recorded with each result, whatever the preset is called."""
    assert VisionOcrOptions(name="mine").model == VisionOcrOptions().model != "mine"
