"""The plugin keeps bibwatch's contracts."""

from __future__ import annotations

from typing import Any

import pytest
from bibwatch_exposure.interpreter import Percentage, PercentageOptions
from bibwatch_exposure.runtime import LightMeter, LightMeterOptions
from bibwatch_exposure.stage import Exposure

from bibwatch.runtimes.base import FinishReason, Prediction
from bibwatch.testing import InterpreterConformance, RuntimeConformance, StageConformance


class TestLightMeter(RuntimeConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls) -> LightMeter:
        return LightMeter(LightMeterOptions(name="light-meter", batch_size=2))


class TestExposure(StageConformance):
    stage = Exposure
    interpreter = Percentage
    good = Prediction(text="41.5 %", finish_reason=FinishReason.STOP)


class TestPercentage(InterpreterConformance):
    good = (
        (Prediction(text="41.5 %"), 0.415),
        (Prediction(text="It is about 8% bright."), 0.08),
    )

    def make(self) -> Percentage:
        return Percentage(PercentageOptions())

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        return value is None  # 0 % is an answer
