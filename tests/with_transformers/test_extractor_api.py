"""The extractor API with models in transformers, and the examples in docs/extractors.md."""

from __future__ import annotations

import gc
import json
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bibwatch.drawing import bib_closeup
from bibwatch.errors import ConfigurationError
from bibwatch.images import open_photo
from bibwatch.judging import judge
from image_rec_mod import main
from image_rec_mod.backends.vlm import (
    ImageScaler,
    LocalQwenExtractor,
    LocalSmolVLMExtractor,
    LocalVLMExtractor,
    StageExtractor,
    VLMExtractor,
)
from image_rec_mod.main import get_extractor
from image_rec_mod.results import result_of
from servers import Server, chat

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.local

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "extractors.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
TRAINED = {"smol": TESTS / "checkpoints" / "smolvlm", "qwen": TESTS / "checkpoints" / "qwen2vl"}
CLASSES = {"smol": LocalSmolVLMExtractor, "qwen": LocalQwenExtractor}
BIBS = ("256", "47", "803", "19", "664", "310", "92", "585")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Isolate each test from extractors, configuration and downloaded models of others."""
    kept: dict[str, VLMExtractor] = {}
    monkeypatch.setattr(main, "_EXTRACTOR_CACHE", kept)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    yield
    for extractor in kept.values():
        extractor.close()


@pytest.fixture(params=TRAINED)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Configure a trained model under its family's two names."""
    family: str = request.param
    configure(monkeypatch, family, TRAINED[family])
    return family


@pytest.fixture
def photos() -> list[str]:
    """Write photos of bibs."""
    return [write(f"photo-{number}.jpg", bib, seed=number) for number, bib in enumerate(BIBS)]


def configure(monkeypatch: pytest.MonkeyPatch, family: str, folder: Path) -> None:
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not trained yet: tests/checkpoints/train.py")
    size = dict(transformers.AutoImageProcessor.from_pretrained(folder).size)
    # The image size the model was trained with, instead of that of the published model.
    knobs = (
        {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        if family == "qwen"
        else {"image_longest_edge": size["longest_edge"]}
    )
    presets = {
        name: {"base": name, "repo_id": str(folder), **knobs}
        for name in (f"{family}-inline-cpu", f"{family}-inline-gpu")
    }
    monkeypatch.setenv("BIBWATCH_PRESETS", json.dumps(presets))


def write(path: str, bib: str, *, seed: int = 0, size: tuple[int, int] = (160, 112)) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    bib_closeup(bib, size=size, seed=seed).save(path, quality=95)
    return path


def stage_of(extractor: VLMExtractor) -> Any:
    assert isinstance(extractor, StageExtractor)
    return extractor.stage


class TestTrainedModels:
    def test_bibs_are_read(self, family: str, photos: list[str]) -> None:
        extractor = get_extractor(f"{family}-inline-cpu")
        assert isinstance(extractor, CLASSES[family])
        results = [item["result"] for item in extractor.extract_multiple_bib_numbers(photos)]
        right = [result.get("bib") == int(bib) for result, bib in zip(results, BIBS, strict=True)]
        assert sum(right) >= len(BIBS) - 1  # trained to 97 %
        assert all(0 < bib["confidence"] <= 1 for result in results for bib in result["bibs"])

    def test_single_photos_batches_and_the_stage_give_the_same_results(self, family: str, photos: list[str]) -> None:
        extractor = get_extractor(f"{family}-inline-cpu")
        items = extractor.extract_multiple_bib_numbers([*photos, "gone.jpg"])
        assert [item["image"] for item in items] == [*photos, "gone.jpg"]
        assert items.pop()["result"]["error"].startswith("gone: ")
        together = [item["result"].get("bib") for item in items]
        assert [extractor.extract(path).get("bib") for path in photos] == together
        outcomes = stage_of(extractor).read(map(open_photo, photos))
        assert [result_of(judge(outcome.candidates))["bib"] for outcome in outcomes] == together

    def test_missing_cuda_falls_back_to_the_cpu(self, family: str, photos: list[str]) -> None:
        extractor = get_extractor(f"{family}-inline-gpu")
        assert isinstance(extractor, LocalVLMExtractor)
        with capture_logs() as logs:
            assert extractor.device is None
            assert extractor.extract(photos[0]) == get_extractor(f"{family}-inline-cpu").extract(photos[0])
            there = torch.cuda.is_available()
            assert extractor.device == ("cuda:0" if there else "cpu")
        assert [log["event"] for log in logs].count("device.fallback") == (not there), "it is told once"

    def test_direct_construction_gives_the_same_results(self, family: str, photos: list[str]) -> None:
        made = CLASSES[family](str(TRAINED[family]), device="cpu", scaler=ImageScaler(150))
        scaled = get_extractor(f"{family}-inline-cpu", scale_width=150)
        assert made.extract(photos[0]) == scaled.extract(photos[0])
        made.close()

    def test_the_guides_examples(self, family: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        """The examples in docs/extractors.md, for SmolVLM and, with the name replaced, for Qwen."""
        server.answer = lambda _: chat('{"bibs": [{"number": "256"}]}')
        there = {
            "smol-inline": f"{family}-inline",
            "LocalSmolVLMExtractor": CLASSES[family].__name__,
            "HuggingFaceTB/SmolVLM-Instruct": str(TRAINED[family]),
            "organization/model-name": str(TRAINED[family]),
            "http://127.0.0.1:8000/v1": server.url,
        }
        for written in EXAMPLES:
            example = re.sub("|".join(there), lambda found: there[found[0]], written)
            for name in re.findall(r'"([\w/]+\.jpg)"', example):
                write(name, "256", size=(1000, 700))
            exec(compile(example, PAGE.name, "exec"), {})  # noqa: S102
            said = capsys.readouterr().out
            assert said.count("'bib': 256") == said.count("'bib': ") >= 1
            assert "'error'" not in said


class TestWithoutTraining:
    """A model whose nonsense replies show that it ran."""

    def test_the_guides_class_of_your_own(self, tiny_vlm: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write("image1.jpg", "256", size=(1000, 700))
        exec(compile(EXAMPLES[-1].replace("organization/model-name", str(tiny_vlm)), PAGE.name, "exec"), {})  # noqa: S102
        assert re.match(r"\{'error': .no JSON in the reply: ", capsys.readouterr().out)
        own = main._EXTRACTOR_CACHE["newmodel-inline-cpu"]
        assert isinstance(own, LocalVLMExtractor)
        assert type(own.model).__name__ == "Idefics3ForConditionalGeneration"
        own.close()
        assert own.model is None

    def test_model_and_processor_are_available_while_loaded(
        self, monkeypatch: pytest.MonkeyPatch, tiny_vlm: Path
    ) -> None:
        configure(monkeypatch, "smol", tiny_vlm)
        extractor = get_extractor("smol-inline-cpu")
        assert isinstance(extractor, LocalSmolVLMExtractor)
        assert (extractor.model, extractor.processor, extractor.device) == (None, None, None)
        extractor.load()
        assert type(extractor.model).__name__ == "Idefics3ForConditionalGeneration"
        assert type(extractor.processor).__name__ == "Idefics3Processor"
        assert extractor.model.device.type == extractor.device == "cpu"
        model = weakref.ref(extractor.model)
        extractor.close()
        assert (extractor.model, extractor.processor, extractor.device) == (None, None, None)
        gc.collect()
        assert model() is None, "who only asked for it must not keep its memory"

    def test_an_invalid_reply_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tiny_vlm: Path) -> None:
        configure(monkeypatch, "smol", tiny_vlm)
        monkeypatch.setenv("BIBWATCH_PRESETS__SMOL-INLINE-CPU__MAX_NEW_TOKENS", "12")
        path = write("a.jpg", "256")
        result = get_extractor("smol-inline-cpu").extract(path)
        assert re.match("no JSON in the reply: |the reply was cut off", result["error"])

    def test_the_error_for_a_missing_model_explains_how_to_get_it(self) -> None:
        for name in ("HuggingFaceTB/SmolVLM-Instruct", "HuggingFaceTB/SmolVLM-2.2B-Instruct"):
            with pytest.raises(ConfigurationError, match="hf download HuggingFaceTB/SmolVLM-Instruct`"):
                LocalSmolVLMExtractor(name).extract("a.jpg")
        with pytest.raises(
            ConfigurationError, match=r"^preset qwen-inline-gpu: .*hf download Qwen/Qwen2-VL-2B-Instruct`"
        ):
            get_extractor("qwen-inline-gpu").extract("a.jpg")
