"""What a model is asked: by the stage, by its preset, and shortly for a warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from bibwatch.interpreters.plain_text import PlainText, PlainTextOptions
from bibwatch.registry import Registry
from bibwatch.runtimes.base import Constraint, FinishReason, ModelOptions, Prediction
from bibwatch.runtimes.generative import BatchRuntime, GenerativeOptions
from bibwatch.runtimes.ocr import VisionOcr, VisionOcrOptions
from bibwatch.stages.picture_description import PictureDescription, PictureDescriptionOptions

OWN = "Describe this picture in a few sentences."


class Asked(BatchRuntime[GenerativeOptions]):
    """Notes what it is asked, and how long the answer may be."""

    options_type = GenerativeOptions

    def load(self) -> None:
        self.questions: list[tuple[str, int]] = []

    def close(self) -> None:
        pass

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        del constraint
        self.questions.append((prompt, self.options.max_new_tokens))
        return [Prediction(text="a runner", finish_reason=FinishReason.STOP) for _ in images]


def options(prompt: str = "", **model: Any) -> PictureDescriptionOptions:
    return PictureDescriptionOptions.model_validate(
        {"model_options": GenerativeOptions(kind="asked", **model), "prompt": prompt}
    )


@pytest.mark.parametrize(
    ("prompt", "prompts", "asked"),
    [
        ("", {}, OWN),
        ("", {"bib_number": "Which bibs?"}, OWN),
        ("", {"picture_description": "What is there?"}, "What is there?"),
        ("Colours?", {"picture_description": "What is there?"}, "Colours?"),
    ],
)
def test_a_preset_knows_how_its_model_is_asked_best(prompt: str, prompts: dict[str, str], asked: str) -> None:
    assert options(prompt, prompts=prompts).question == asked


def test_only_the_question_that_is_asked_makes_another_result() -> None:
    plain = options().fingerprint()
    assert options(prompts={"bib_number": "Which bibs?"}).fingerprint() == plain
    assert options(prompts={"picture_description": "What is there?"}).fingerprint() != plain
    assert options(prompts={"picture_description": OWN}).fingerprint() == plain


def test_prompts_of_a_preset_come_from_the_configuration() -> None:
    presets = {"mine": {"base": "smolvlm-256m", "prompts": {"bib_number": "Which bibs?"}}}
    stage = Registry(presets=presets).stage_options("bib_number", "mine")
    assert stage.question == "Which bibs?"


@pytest.mark.parametrize(("most", "few"), [(1024, 4), (2, 2)])
def test_a_warm_up_asks_the_stages_question_for_a_few_tokens(most: int, few: int) -> None:
    made = options(max_new_tokens=most)
    runtime = Asked(made.model_options)
    PictureDescription(made, runtime, PlainText(PlainTextOptions())).warm_up()
    assert runtime.questions == [(OWN, few)]
    assert runtime.options == made.model_options


def test_a_runtime_that_writes_nothing_has_no_short_answers() -> None:
    runtime = VisionOcr(VisionOcrOptions())
    with runtime.short_answers():
        assert runtime.options == VisionOcrOptions()


def test_the_options_of_chance_are_bounded() -> None:
    for wrong in ({"top_p": 0}, {"top_p": 1.1}, {"seed": -1}, {"seed": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GenerativeOptions.model_validate({"kind": "x", **wrong})
    assert "seed" in GenerativeOptions(kind="x", seed=1).identity()
    assert isinstance(GenerativeOptions(kind="x"), ModelOptions)
