"""The interpreter contract as tests: subclass `InterpreterConformance` in your tests and define `make`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bibwatch.domain.box import Box
from bibwatch.errors import ModelReplyError, ModelTruncatedError
from bibwatch.interpreters.base import Interpreter
from bibwatch.runtimes.base import BoxConvention, CoordinateSpace, FinishReason, OutputKind, Prediction, TextLine, Token

_COORDINATES = CoordinateSpace(BoxConvention.REL1000, 640, 480, sent=(640, 480))

# Fragments of replies, including those that break parsers.
_FRAGMENTS = (
    *(
        "```",
        "```json\n",
        "```markdown\n",
        "\n```\n",
        "~~~",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        "\\",
        ":",
        ",",
        ";",
        "|",
        "\n",
        "\t",
    ),
    *(
        '{"bibs":',
        '"number":',
        '"box":[0,0,',
        '"bib": 0042',
        "null",
        "none",
        "true",
        "NaN",
        "-Infinity",
        "1e999",
        "<number>",
    ),
    *('"\\ud800"', '"\\u0000"', "\ud800", "\x00", "\x85", "\ufeff", "\U0001f3c3", "\uff14\uff12", "\u0664\u0662"),
    *("<doctag>", "</doctag>", "<text>", "</text>", "<loc_1><loc_2><loc_300><loc_400>", "<loc_99999>", "<_Python_>"),
    *(
        "<otsl>",
        "</otsl>",
        "<ched>",
        "<fcel>",
        "<ecel>",
        "<lcel>",
        "<nl>",
        "<code>",
        "</code>",
        "<list_item>",
        "</list_item>",
    ),
    *(
        "<table>",
        "</table>",
        "<tr>",
        "<td colspan=999999999>",
        "<th rowspan='-1'>",
        "<!",
        "<!--",
        "<![CDATA[",
        "<?",
        "&#xD800;",
    ),
    *(
        "9" * 5000,
        "&#" + "9" * 5000 + ";",
        "[" * 3000,
        '{"a":' * 3000,
        "place,bib\n1,0042\n",
        "| a | b |\n|---|---|\n",
        "42",
        "0042",
    ),
    *("<think>", "</think>", "There is no table, sorry.\n", '"error": "too dark"'),
)
_ANY_CHARACTER = st.characters(
    exclude_categories=()
)  # including surrogates, which engines that decode token by token may emit
_ANY_TEXT = st.text(_ANY_CHARACTER, max_size=60)
_REPLIES = _ANY_TEXT | st.lists(st.sampled_from(_FRAGMENTS) | _ANY_TEXT, max_size=12).map("".join)
_SIDES = st.floats(-1e6, 1e6)
_BOXES = st.builds(Box, _SIDES, _SIDES, _SIDES, _SIDES)

# The number of examples is left to the Hypothesis profile.
_settings = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class InterpreterConformance:
    """What every interpreter must do, for any prediction.

    class TestMine(InterpreterConformance):
        good = ((Prediction(text="42"), 42),)

        def make(self):
            return Mine(MineOptions())
    """

    good: Sequence[tuple[Prediction, Any]] = ()
    bad: Sequence[str] = ("I am sorry, but I cannot see this image.",)  # replies without an answer
    prompt = "What is in this picture?"

    def make(self) -> Interpreter[Any, Any]:
        """Return the interpreter under test."""
        raise NotImplementedError(f"{type(self).__name__} does not define `make`")

    def is_empty(self, value: Any, prediction: Prediction) -> bool:
        """Return whether a value is empty although the prediction did not report an empty result."""
        del prediction
        return not value

    def test_good_predictions_have_the_expected_values(self) -> None:
        assert self.good, f"{type(self).__name__} defines no good prediction"
        for prediction, value in self.good:
            assert self.make().interpret(prediction, self.prompt) == value

    def test_the_same_prediction_always_has_the_same_value(self) -> None:
        interpreter = self.make()
        for prediction, value in (*self.good, *self.good):
            assert interpreter.interpret(prediction, self.prompt) == value

    @_settings
    @given(data=st.data())
    def test_any_prediction_has_a_value_or_raises_a_reply_error(self, data: st.DataObject) -> None:
        """No other exception is raised, and no value is empty."""
        prediction = data.draw(self._predictions())
        try:
            value = self.make().interpret(prediction, self.prompt)
        except ModelReplyError as exc:
            value = str(exc)  # stored as well
        else:
            assert not self.is_empty(value, prediction)
        for text in strings_of(value):
            assert "\x00" not in text
            text.encode()
        assert not any(map(math.isnan, numbers_of(value)))

    def test_a_truncated_reply_raises_a_truncation_error(self) -> None:
        if self._accepts is not OutputKind.TEXT:
            pytest.skip("lines of text are never cut off")
        for prediction, _ in self.good:
            with pytest.raises(ModelTruncatedError):
                self.make().interpret(replace(prediction, finish_reason=FinishReason.LENGTH), self.prompt)

    def test_a_reply_without_an_answer_is_an_error(self) -> None:
        if self._accepts is not OutputKind.TEXT:
            pytest.skip("OCR returns no replies")
        for text in self.bad:
            with pytest.raises(ModelReplyError):
                self.make().interpret(Prediction(text=text), self.prompt)

    @pytest.mark.parametrize("text", ["", " \n\t", "\x00", "What is in this picture?", " what is in\nthis picture? "])
    def test_a_blank_or_echoed_reply_is_an_error(self, text: str) -> None:
        if self._accepts is not OutputKind.TEXT:
            pytest.skip("OCR may find no text")
        with pytest.raises(ModelReplyError):
            self.make().interpret(Prediction(text=text), self.prompt)

    def test_options_survive_json(self) -> None:
        options = self.make().options
        assert type(options).model_validate_json(options.model_dump_json()) == options
        assert type(options).model_validate(json.loads(options.model_dump_json())) == options
        assert isinstance(options, self.make().options_type)

    @property
    def _accepts(self) -> OutputKind:
        return self.make().options_type.accepts

    def _predictions(self) -> st.SearchStrategy[Prediction]:
        if self._accepts is OutputKind.LINES:
            line = st.builds(TextLine, _REPLIES, st.floats(0, 1) | st.just(math.nan), _BOXES)
            return st.builds(Prediction, lines=st.lists(line, max_size=12).map(tuple))
        corrupted = st.one_of([_corrupted(prediction.text) for prediction, _ in self.good])
        return (_REPLIES | corrupted).flatmap(_predictions_of)


def _corrupted(text: str) -> st.SearchStrategy[str]:
    """Replace part of a good reply with something else."""
    place = st.integers(0, len(text))
    return st.builds(
        lambda one, other, new: text[: min(one, other)] + new + text[max(one, other) :], place, place, _REPLIES
    )


def _predictions_of(text: str) -> st.SearchStrategy[Prediction]:
    tokens = st.lists(st.floats(-50, 0) | st.sampled_from([math.nan, -math.inf, 1e-6]), min_size=1, max_size=8).map(
        lambda logprobs: tuple(
            Token(text[number :: len(logprobs)] if number else text, logprob) for number, logprob in enumerate(logprobs)
        )
    )
    return st.builds(
        Prediction,
        text=st.just(text),
        tokens=st.just(()) | tokens,
        coordinates=st.none() | st.just(_COORDINATES),
        finish_reason=st.sampled_from([FinishReason.STOP, FinishReason.UNKNOWN]),
    )


def strings_of(value: Any) -> Iterator[str]:
    """Yield every string in a nested value."""
    return (part for part in _parts(value) if isinstance(part, str))


def numbers_of(value: Any) -> Iterator[float]:
    """Yield every number in a nested value."""
    return (part for part in _parts(value) if isinstance(part, int | float))


def _parts(value: Any) -> Iterator[Any]:
    if is_dataclass(value):
        value = [getattr(value, part.name) for part in fields(value)]
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _parts(part)
    else:
        yield value
