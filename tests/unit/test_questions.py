"""Prompts: of the stage, of its preset, and for warm-up."""

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
    """Records its prompts and the maximum length of replies."""

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
def test_a_preset_may_override_the_prompt(prompt: str, prompts: dict[str, str], asked: str) -> None:
    assert options(prompt, prompts=prompts).question == asked


def test_only_the_effective_prompt_changes_the_fingerprint() -> None:
    plain = options().fingerprint()
    assert options(prompts={"bib_number": "Which bibs?"}).fingerprint() == plain
    assert options(prompts={"picture_description": "What is there?"}).fingerprint() != plain
    assert options(prompts={"picture_description": OWN}).fingerprint() == plain


def test_prompts_of_a_preset_are_configurable() -> None:
    presets = {"mine": {"base": "smolvlm-256m", "prompts": {"bib_number": "Which bibs?"}}}
    stage = Registry(presets=presets).stage_options("bib_number", "mine")
    assert stage.question == "Which bibs?"


@pytest.mark.parametrize(("most", "few"), [(1024, 4), (2, 2)])
def test_warm_up_uses_the_stages_prompt_and_few_tokens(most: int, few: int) -> None:
    made = options(max_new_tokens=most)
    runtime = Asked(made.model_options)
    PictureDescription(made, runtime, PlainText(PlainTextOptions())).warm_up()
    assert runtime.questions == [(OWN, few)]
    assert runtime.options == made.model_options


def test_a_runtime_without_generation_ignores_short_answers() -> None:
    runtime = VisionOcr(VisionOcrOptions())
    with runtime.short_answers():
        assert runtime.options == VisionOcrOptions()


def test_sampling_options_are_bounded() -> None:
    for wrong in ({"top_p": 0}, {"top_p": 1.1}, {"seed": -1}, {"seed": 0.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GenerativeOptions.model_validate({"kind": "x", **wrong})
    assert "seed" in GenerativeOptions(kind="x", seed=1).identity()
    assert isinstance(GenerativeOptions(kind="x"), ModelOptions)
