"""The extractor API, without torch: names, results, scales, errors, hooks and servers."""

from __future__ import annotations

import gc
import json
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bibwatch.domain.box import Box
from bibwatch.domain.readings import Reading, Verdict
from bibwatch.errors import ConfigurationError, PhotoGoneError
from bibwatch.judging.race import DEFAULT_FORM
from bibwatch.stages.base import Stage
from image_rec_mod import main
from image_rec_mod.backends.scaling import copies_removed
from image_rec_mod.backends.vlm import (
    ImageScaler,
    LocalQwenExtractor,
    LocalSmolVLMExtractor,
    LocalVLMExtractor,
    RemoteVLLMExtractor,
    StageExtractor,
    VLMExtractor,
    bib_stage,
)
from image_rec_mod.main import get_extractor
from image_rec_mod.results import error_of, result_of
from servers import Asked, Server, chat, error

PAGE = Path(__file__).parents[2] / "docs" / "extractors.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
BY_THE_OCR = """
[presets.smol-inline-cpu]
kind = "vision_ocr"
[presets.smol-inline-gpu]
kind = "vision_ocr"
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Isolate each test from extractors, configuration and temporary files of others."""
    kept: dict[str, VLMExtractor] = {}
    monkeypatch.setattr(main, "_EXTRACTOR_CACHE", kept)
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").iterdir()) == []


class FakeExtractor(LocalVLMExtractor):
    """A model that replies with the size of its image."""

    loads = 0

    def _load_model(self) -> None:
        type(self).loads += 1
        self.model = lambda image: f"Sure! ```json\n{json.dumps({'bib': image.width})}\n```"

    def _process_image(self, image_path: str) -> dict[str, Any]:
        with Image.open(self._prepare_image(image_path)) as image:
            return self._parse_json_response(self.model(image))


@pytest.fixture(scope="module")
def ocr_stage() -> Stage[Any]:
    return bib_stage("rapidocr")


@pytest.fixture
def ocr(ocr_stage: Stage[Any]) -> StageExtractor:
    """Return the extractor of the bundled OCR, loaded once for all tests."""
    main._EXTRACTOR_CACHE["rapidocr"] = extractor = StageExtractor(ocr_stage)
    return extractor


@pytest.fixture
def fake() -> FakeExtractor:
    FakeExtractor.loads = 0
    return FakeExtractor("organization/model-name")


@pytest.fixture
def photos(draw: Callable[..., bytes]) -> list[str]:
    """Write photos of 600 x 400 pixels; include an invalid file and a missing one."""
    Path("a.jpg").write_bytes(draw("1042"))
    Path("b.jpg").write_text("no photo")
    Path("d.jpg").write_bytes(draw("777", "2205"))
    return ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


class TestResults:
    @pytest.mark.parametrize(
        ("number", "bib"),
        [("256", 256), ("0042", "0042"), ("M101", "M101"), ("0", 0), ("00", "00"), ("1234567", 1234567)],
    )
    def test_a_bib_is_a_number_if_nothing_is_lost(self, number: str, bib: int | str) -> None:
        result = result_of([Reading(number, 0.97, Verdict.ACCEPTED, Box(1.04, 2, 3, 4))])
        assert result == {
            "bib": bib,
            "bibs": [{"number": number, "confidence": 0.97, "box": [1.0, 2, 3, 4], "verdict": "accepted"}],
        }

    @given(st.from_regex(DEFAULT_FORM, fullmatch=True))
    def test_no_bib_is_lost_in_a_result(self, number: str) -> None:
        number = number.upper()
        result = json.loads(json.dumps(result_of([Reading(number, 0.5, Verdict.REVIEW, None)])))
        assert str(result["bib"]) == result["bibs"][0]["number"] == number

    def test_the_bib_is_the_most_probable(self) -> None:
        readings = [Reading(bib, sure, Verdict.REVIEW, None) for bib, sure in (("11", 0.3), ("22", 0.9), ("33", 0.5))]
        result = result_of(readings)
        assert result["bib"] == 22
        assert [bib["number"] for bib in result["bibs"]] == ["22", "33", "11"]

    def test_no_bib_is_not_an_error(self) -> None:
        assert result_of([]) == {"bib": None, "bibs": []}

    def test_an_error_names_the_state_of_the_photo(self) -> None:
        assert error_of(PhotoGoneError("not\nthere")) == {"error": "gone: not there"}
        assert error_of(KeyError()) == {"error": "KeyError"}


class TestNames:
    def test_the_same_name_is_the_same_extractor(self) -> None:
        first = get_extractor("rapidocr")
        assert get_extractor("rapidocr") is first
        scaled = get_extractor("rapidocr", scale_width=800, scale_height=600)
        assert scaled is not first
        assert isinstance(first, StageExtractor)
        assert isinstance(scaled, StageExtractor)
        assert scaled.stage is first.stage
        assert scaled.scaler is not None
        assert first.scaler is None
        assert (scaled.scaler.scale_width, scaled.scaler.scale_height) == (800, 600)

    @pytest.mark.parametrize(
        ("name", "kind", "device"),
        [
            ("qwen-inline-cpu", LocalQwenExtractor, "cpu"),
            ("qwen-inline-gpu", LocalQwenExtractor, "cuda"),
            ("smol-inline-cpu", LocalSmolVLMExtractor, "cpu"),
            ("smol-inline-gpu", LocalSmolVLMExtractor, "cuda"),
        ],
    )
    def test_the_guides_names_are_the_guides_classes(
        self, name: str, kind: type[LocalVLMExtractor], device: str
    ) -> None:
        extractor = get_extractor(name)
        assert type(extractor) is kind
        assert isinstance(extractor, LocalVLMExtractor)
        assert isinstance(extractor, StageExtractor)
        model = extractor.stage.options.model_options
        assert (model.name, model.repo_id, model.device) == (name, extractor.model_name, device)

    def test_a_custom_preset_is_an_extractor(self) -> None:
        Path("config.toml").write_text('[presets.smol-inline-cpu]\nbase = "smol-inline-cpu"\nrepo_id = "/srv/smol"\n')
        extractor = get_extractor("smol-inline-cpu")
        assert isinstance(extractor, LocalSmolVLMExtractor)
        assert extractor.model_name == "/srv/smol"

    def test_other_presets_have_the_class_of_their_kind(self) -> None:
        assert type(get_extractor("qwen-vllm")) is RemoteVLLMExtractor
        assert type(get_extractor("smolvlm-256m")) is StageExtractor

    @pytest.mark.parametrize("names", [("qwen_inline_gpu", "qwen-inline-gpu"), ("qwen-inline-gpu", "qwen_inline_gpu")])
    def test_dashes_and_underscores_are_alike(self, names: tuple[str, str], fake: FakeExtractor) -> None:
        one, other = map(get_extractor, names)
        assert one is other
        main._EXTRACTOR_CACHE["new_model"] = fake
        assert get_extractor("new-model") is fake

    def test_an_unknown_name_suggests_the_nearest(self) -> None:
        for scale in ({}, {"scale_width": 800}):
            with pytest.raises(
                ConfigurationError, match=r"^unknown preset 'smol-inline-cpuu'; did you mean 'smol-inline-cpu'\?$"
            ):
                get_extractor("smol-inline-cpuu", **scale)

    def test_a_preset_that_reads_no_bibs_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"was made for .* and cannot do bib_number"):
            get_extractor("smoldocling")

    def test_a_custom_extractor_can_be_registered(self, fake: FakeExtractor, photos: list[str]) -> None:
        main._EXTRACTOR_CACHE["newmodel-inline-cpu"] = fake
        assert get_extractor("newmodel-inline-cpu") is fake
        assert get_extractor("newmodel-inline-cpu", scale_width=300).extract(photos[0])["bib"] == 300
        assert fake.extract(photos[0])["bib"] == 600
        assert fake.loads == 1

    @pytest.mark.parametrize("by_scaled", [True, False])
    def test_a_scaled_custom_extractor_does_not_keep_a_closed_model(
        self, fake: FakeExtractor, photos: list[str], *, by_scaled: bool
    ) -> None:
        main._EXTRACTOR_CACHE["own"] = fake
        scaled = get_extractor("own", scale_width=300)
        assert fake.loads == 0, "nothing is loaded yet"
        assert isinstance(scaled, FakeExtractor)
        assert scaled.extract(photos[0])["bib"] == 300
        model = weakref.ref(fake.model)
        (scaled if by_scaled else fake).close()
        assert scaled.model is fake.model is None
        gc.collect()
        assert model() is None
        assert scaled.extract(photos[0])["bib"] == 300
        assert fake.extract(photos[0])["bib"] == 600
        assert fake.loads == 2


class TestMadeDirectly:
    @pytest.mark.parametrize(("kind", "family"), [(LocalQwenExtractor, "qwen"), (LocalSmolVLMExtractor, "smol")])
    def test_other_options_are_those_of_the_family(
        self, kind: type[LocalQwenExtractor | LocalSmolVLMExtractor], family: str
    ) -> None:
        for device, preset in (("cpu", "cpu"), ("cuda:1", "gpu")):
            options = kind("/srv/model", device=device).stage.options.model_options
            presets = get_extractor(f"{family}-inline-{preset}")
            assert isinstance(presets, StageExtractor)
            about = options.about_fields  # of the published weights, which may differ
            expected = presets.stage.options.model_options.model_dump(exclude={*about})
            changed = {"name": options.name, "repo_id": "/srv/model", "device": device}
            assert options.model_dump(exclude={*about}) == expected | changed

    def test_a_missing_model_is_refused_at_first_use(self, photos: list[str]) -> None:
        extractor = LocalSmolVLMExtractor("/srv/no/such/model")
        with pytest.raises(ConfigurationError, match=r"^preset LocalSmolVLMExtractor: [^\n]+$"):
            extractor.extract(photos[0])
        with pytest.raises(ConfigurationError):
            extractor.extract_multiple_bib_numbers(photos)

    def test_an_unknown_device_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"^presets.LocalQwenExtractor.device: [^\n]+$"):
            LocalQwenExtractor("Qwen/Qwen2-VL-2B-Instruct", device="gpu")

    @pytest.mark.parametrize("kind", [LocalQwenExtractor, LocalSmolVLMExtractor])
    def test_the_model_is_that_of_the_runtime(self, kind: type[LocalQwenExtractor | LocalSmolVLMExtractor]) -> None:
        extractor: Any = kind("/srv/model")
        scaled = extractor.with_scaler(ImageScaler(300))
        assert (extractor.model, extractor.processor, extractor.device) == (None, None, None)
        extractor.stage.runtime._loaded = SimpleNamespace(model="a model", processor="its processor", device="cuda:0")
        for each in (extractor, scaled):
            assert (each.model, each.processor, each.device) == ("a model", "its processor", "cuda:0")
        extractor.stage.runtime._loaded = SimpleNamespace(model="another", processor="its processor", device="cpu")
        assert (scaled.model, scaled.device) == ("another", "cpu"), "it gave way to the CPU"
        extractor.stage.runtime._loaded = None
        assert (scaled.model, scaled.processor, scaled.device) == (None, None, None)

    @pytest.mark.parametrize("kind", [VLMExtractor, LocalVLMExtractor])
    def test_the_bases_are_abstract(self, kind: type) -> None:
        with pytest.raises(TypeError, match="_process_image"):
            kind("x")


@pytest.mark.heavy
class TestByTheOcr:
    def test_a_photo_is_read(self, ocr: StageExtractor, photos: list[str]) -> None:
        result = ocr.extract(photos[0])
        assert result["bib"] == 1042
        (bib,) = result["bibs"]
        assert bib["number"] == "1042"
        assert bib["confidence"] > 0.85
        assert bib["verdict"] in {"accepted", "review"}

    def test_the_configured_race_determines_what_a_bib_is(self, ocr_stage: Stage[Any], photos: list[str]) -> None:
        Path("config.toml").write_text("[race]\nbibs = '2\\d{3}'\naccept_at = 1.0\n")
        (bib,) = StageExtractor(ocr_stage).extract(photos[3])["bibs"]
        assert (bib["number"], bib["verdict"]) == ("2205", "review")

    def test_photos_are_read_in_order_even_if_one_fails(self, ocr: StageExtractor, photos: list[str]) -> None:
        paths = [*photos, "a\0.jpg", ".", photos[0]]
        items = ocr.extract_multiple_bib_numbers(paths)
        assert [item["image"] for item in items] == paths
        first, text, gone, two, no_path, folder, again = (item["result"] for item in items)
        assert first == again
        assert first["bib"] == 1042
        assert text["error"].startswith("undecodable: not a photo")
        assert gone["error"].startswith("gone: ")
        assert {bib["number"] for bib in two["bibs"]} == {"777", "2205"}
        assert set(no_path) == set(folder) == {"error"}

    def test_boxes_are_in_pixels_of_the_photo_at_any_scale(self, ocr: StageExtractor, photos: list[str]) -> None:
        (whole,) = ocr.extract(photos[0])["bibs"]
        for scaled in (
            get_extractor("rapidocr", scale_width=450).extract(photos[0]),
            ocr.extract_multiple_bib_numbers([photos[0]], scale_height=300)[0]["result"],
        ):
            (bib,) = scaled["bibs"]
            assert bib["box"] == pytest.approx(whole["box"], abs=12)
            assert bib["box"] != whole["box"]  # it was read again

    def test_the_guides_examples(self, draw: Callable[..., bytes], capsys: pytest.CaptureFixture[str]) -> None:
        """With the OCR under the guide's names; tests/with_transformers runs the models."""
        Path("config.toml").write_text(BY_THE_OCR)
        for example in EXAMPLES[:3]:
            names = re.findall(r'"([\w/]+\.jpg)"', example)
            for name in names:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_bytes(draw("256", size=(1200, 800)))
            exec(compile(example, PAGE.name, "exec"), {})  # noqa: S102
            assert capsys.readouterr().out.count("'bib': 256") == len(names) >= 1

    def test_a_subclass_processes_each_photo(self, ocr_stage: Stage[Any], photos: list[str]) -> None:
        class Doubled(StageExtractor):
            def _process_image(self, image_path: str) -> dict[str, Any]:
                result = super()._process_image(image_path)
                return {"bib": 2 * result["bib"]}

        doubled = Doubled(ocr_stage)
        assert doubled.extract("a.jpg") == {"bib": 2084}
        items = doubled.extract_multiple_bib_numbers(["a.jpg", "b.jpg"])
        assert items[0]["result"] == {"bib": 2084}
        assert set(items[1]["result"]) == {"error"}

    def test_close_unloads_all_models(self, monkeypatch: pytest.MonkeyPatch) -> None:
        extractor = get_extractor("qwen-inline-cpu")  # includes the bundled OCR as detector
        assert isinstance(extractor, StageExtractor)
        stages = [extractor.stage, *extractor.stage.substages.values()]
        assert len(stages) == 2
        closed: list[object] = []
        for stage in stages:
            monkeypatch.setattr(stage.runtime, "close", lambda stage=stage: closed.append(stage))
        extractor.close()
        assert len(closed) == 2
        assert {*map(id, closed)} == {*map(id, stages)}

    def test_it_can_be_closed_and_reloaded(self, ocr: StageExtractor, photos: list[str]) -> None:
        before = ocr.extract(photos[0])
        ocr.close()
        ocr.close()
        assert ocr.extract(photos[0]) == before


class TestLimits:
    """The configured limits apply, as for `bibwatch read`."""

    @pytest.fixture(autouse=True, params=["max_pixels = 100000", "max_bytes = 5000"])
    @staticmethod
    def _limits(request: pytest.FixtureRequest, photos: list[str]) -> None:
        Path("config.toml").write_text(f"[images]\n{request.param}\n{BY_THE_OCR}")

    @pytest.mark.parametrize("scale", [None, 300])
    def test_of_an_extractor_by_name(self, scale: int | None, server: Server) -> None:
        remote = RemoteVLLMExtractor(server.url, "m")
        for extractor in (get_extractor("smol-inline-cpu", scale), remote.with_scaler(scale and ImageScaler(scale))):
            assert re.search(r"^oversized: .* is over images.max_", extractor.extract("a.jpg")["error"])
        assert server.asked == []

    def test_of_a_subclass_that_scales(self) -> None:
        (item,) = FakeExtractor("x").extract_multiple_bib_numbers(["a.jpg"], scale_width=300)
        assert re.search(r"^oversized: .* is over images.max_", item["result"]["error"])


class TestHooks:
    def test_two_methods_make_an_extractor(self, fake: FakeExtractor, photos: list[str]) -> None:
        assert fake.loads == 0
        assert fake.extract("a.jpg") == {
            "bib": 600,
            "bibs": [{"number": "600", "confidence": 0.5, "box": None, "verdict": "review"}],
        }
        results = [item["result"] for item in fake.extract_multiple_bib_numbers(photos, scale_width=256)]
        assert [result.get("bib") for result in results] == [256, None, None, 256]
        assert set(results[1]) == set(results[2]) == {"error"}
        assert fake.loads == 1
        assert fake.device == "cpu"

    def test_nothing_is_written_next_to_the_photo(
        self, fake: FakeExtractor, ocr: StageExtractor, photos: list[str], tmp_path: Path
    ) -> None:
        before = {path: path.read_bytes() for path in Path().iterdir()}
        for extractor in (fake.with_scaler(ImageScaler(300)), ocr.with_scaler(ImageScaler(300))):
            extractor.extract_multiple_bib_numbers(photos)
        assert {path: path.read_bytes() for path in Path().iterdir()} == before
        assert list((tmp_path / "temporary").iterdir()) == []

    def test_the_copy_is_removed_even_if_a_hook_fails(self, photos: list[str], tmp_path: Path) -> None:
        copies = []

        class Failing(FakeExtractor):
            def _process_image(self, image_path: str) -> dict[str, Any]:
                copies.append(Path(self._prepare_image(image_path)))
                assert copies[-1].is_relative_to(tmp_path / "temporary")
                assert copies[-1].exists()
                raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

        result = Failing("x", scaler=ImageScaler(scale_height=200)).extract("a.jpg")
        assert result == {"error": "CUDA out of memory. Tried to allocate 2 GiB"}
        assert not copies[0].exists()

    @pytest.mark.parametrize("answer", [None, "256", 256, {}, [{"bib": 256}], {"number": "256"}])
    def test_an_invalid_result_is_the_error_of_its_photo(self, answer: Any, photos: list[str]) -> None:
        class Careless(FakeExtractor):
            def _process_image(self, image_path: str) -> dict[str, Any]:
                wrong: dict[str, Any] = answer
                return wrong if image_path == "b.jpg" else super()._process_image(image_path)

        items = Careless("x").extract_multiple_bib_numbers(["a.jpg", "b.jpg", "d.jpg"])
        wrong = f"_process_image must return a dict with `bib` or `error`, not {answer!r}"
        assert [item["result"].get("bib") for item in items] == [600, None, 600]
        assert items[1]["result"] == Careless("x").extract("b.jpg") == {"error": wrong}

    @pytest.mark.parametrize("path", ["c2-123.png", b"c2-123.png", Path("c2-123.png")])
    @pytest.mark.parametrize("scale", [None, 300])
    def test_a_single_path_is_refused(self, fake: FakeExtractor, path: Any, scale: int | None) -> None:
        with pytest.raises(TypeError, match=r"^image_paths = .*c2-123\.png.* is one path: pass a list of paths, or "):
            fake.extract_multiple_bib_numbers(path, scale_width=scale)
        assert fake.loads == 0

    def test_a_model_that_does_not_load_is_one_line(self, photos: list[str]) -> None:
        class Absent(FakeExtractor):
            def _load_model(self) -> None:
                raise OSError("organization/model-name is not a local folder\nand not on the hub")

        with pytest.raises(ConfigurationError) as refused:
            Absent("organization/model-name").extract("a.jpg")
        assert str(refused.value) == (
            "Absent: the model cannot be loaded: organization/model-name is not a local folder and not on the hub"
        )

    @pytest.mark.parametrize(
        ("text", "bib"),
        [
            ('{"bib": 256}', 256),
            ('```json\n{"bib": "256"}\n```', 256),
            ('{"bib": 0042}', "0042"),
            ('The bib is {"bibs": [{"number": "M101"}]}.', "M101"),
            ('{"bib": null}', None),
        ],
    )
    def test_replies(self, fake: FakeExtractor, text: str, bib: int | str | None) -> None:
        assert fake._parse_json_response(text)["bib"] == bib

    @given(st.text())
    def test_any_reply_is_a_result(self, text: str) -> None:
        result = FakeExtractor("x")._parse_json_response(text)
        assert set(result) in ({"error"}, {"bib", "bibs"})


class TestScaling:
    @given(
        st.tuples(st.integers(1, 300), st.integers(1, 300)),
        st.none() | st.integers(1, 400),
        st.none() | st.integers(1, 400),
    )
    def test_it_fits_keeps_its_proportions_and_is_never_enlarged(
        self, size: tuple[int, int], width: int | None, height: int | None
    ) -> None:
        scaled = ImageScaler(width, height).scale(Image.new("RGB", size)).size
        bounds = (min(width or size[0], size[0]), min(height or size[1], size[1]))
        assert all(1 <= side <= most for side, most in zip(scaled, bounds, strict=True))
        factor = min(most / side for side, most in zip(size, bounds, strict=True))
        for side, whole in zip(scaled, size, strict=True):
            assert abs(side - whole * factor) < 1.501  # the longer side is rounded down, the other to the nearest pixel

    def test_a_scaler_of_a_whole_class_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"Own\.scaler: pass a scaler to the extractor"):
            type("Own", (FakeExtractor,), {"scaler": ImageScaler(100)})

    def test_a_scale_below_one_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="scale_height = 0"):
            get_extractor("rapidocr", scale_height=0)
        with pytest.raises(ConfigurationError, match="scale_width = -1"):
            ImageScaler(-1)

    @pytest.mark.parametrize("side", ["100", (100, 100), float("nan"), 100j])
    def test_a_scale_that_is_not_a_number_is_refused(self, side: Any, fake: FakeExtractor) -> None:
        message = re.escape(f"scale_width = {side!r} is not a number of pixels: use 1 or more, or None")
        with pytest.raises(ConfigurationError, match=f"^{message}$"):
            get_extractor("rapidocr", scale_width=side)
        with pytest.raises(ConfigurationError, match=f"^{message}$"):
            fake.extract_multiple_bib_numbers(["a.jpg"], scale_width=side)

    def test_a_photo_that_fits_is_not_copied(self, photos: list[str]) -> None:
        assert ImageScaler(600, 400).scale_file(photos[0]) == photos[0]
        assert FakeExtractor("x")._prepare_image("whatever") == "whatever"

    def test_a_copy_is_upright(self, encode: Callable[..., bytes]) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was held upright
        Path("turned.jpg").write_bytes(encode(Image.new("RGB", (600, 400)), "JPEG", exif=exif))
        with copies_removed(), Image.open(ImageScaler(scale_height=300).scale_file("turned.jpg")) as copied:
            assert copied.size == (200, 300)

    def test_outside_of_reading_the_caller_removes_the_copy(self, photos: list[str]) -> None:
        copied = Path(FakeExtractor("x", scaler=ImageScaler(300))._prepare_image(photos[0]))
        assert copied.stat().st_size > 0
        assert copied.parent != Path(photos[0]).parent
        copied.unlink()


class TestRemote:
    @pytest.fixture
    def remote(self, server: Server) -> Iterator[RemoteVLLMExtractor]:
        extractor = RemoteVLLMExtractor(server.url, "Qwen/Qwen2-VL-2B-Instruct")
        yield extractor
        extractor.close()

    @pytest.mark.heavy
    def test_photos_are_read_by_the_server(
        self, server: Server, remote: RemoteVLLMExtractor, photos: list[str]
    ) -> None:
        def answer(asked: Asked) -> Any:
            assert asked.body["model"] == "Qwen/Qwen2-VL-2B-Instruct"
            return chat(json.dumps({"bibs": [{"number": f"0{asked.picture.width}"}]}))

        server.answer = answer
        assert remote.extract("a.jpg")["bib"] == "0600"
        items = remote.extract_multiple_bib_numbers(photos, scale_width=300)
        assert [item["result"].get("bib") for item in items] == ["0300", None, None, "0300"]
        asked = [each.picture.width for each in server.asked]
        assert asked[0] == 600
        assert asked.count(300) == 2, (
            "the two photos that can be read, scaled; what was read is looked at from near, too"
        )

    def test_a_failing_server_is_the_error_of_each_photo(
        self, server: Server, remote: RemoteVLLMExtractor, photos: list[str]
    ) -> None:
        server.answer = lambda _: error(503, "loading")
        results = [item["result"] for item in remote.extract_multiple_bib_numbers(["a.jpg", "d.jpg"])]
        assert all("503: loading" in result["error"] for result in results)

    def test_an_invalid_reply_is_the_error_of_its_photo(
        self, server: Server, remote: RemoteVLLMExtractor, photos: list[str]
    ) -> None:
        server.answer = lambda asked: chat("I see a runner." if len(server.asked) == 1 else '{"bib": 256}')
        assert set(remote.extract("a.jpg")) == {"error"}
        assert remote.extract("a.jpg")["bib"] == 256

    def test_an_invalid_url_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match=r"presets.RemoteVLLMExtractor.api_url: .*not a URL"):
            RemoteVLLMExtractor("somewhere", "model")
