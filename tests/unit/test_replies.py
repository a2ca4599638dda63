"""Replies: blank and truncated ones, fences, and embedded JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibwatch.errors import ModelReplyError, ModelTruncatedError
from bibwatch.interpreters.code_block import Code, CodeBlock, CodeBlockOptions
from bibwatch.interpreters.plain_text import PlainText, PlainTextOptions
from bibwatch.interpreters.replies import Fenced, Json, clean, fences, json_values, reply, unfenced
from bibwatch.runtimes.base import FinishReason, Prediction

_NO_VALUE = re.compile(r"no JSON in the reply|the JSON in the reply is incomplete")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A runner.", "A runner."),
        (" A runner.\r\nA dog.\r", "A runner.\nA dog."),
        ("<s> A runner.<end_of_utterance>", "A runner."),
        ("A runner.<|im_end|>\n<|endoftext|>", "A runner."),
        ("0042\x00 \x1b[0m", "0042 [0m"),
        ("\ufeffA\tB", "A\tB"),
        ("\ud83c\udfc3 \ud83c", "\U0001f3c3 \ufffd"),
        ("No. <s>42</s> is struck out", "No. <s>42</s> is struck out"),
    ],
)
def test_a_reply_is_text_that_can_be_stored(text: str, said: str) -> None:
    assert reply(Prediction(text=text), "What is there?") == said


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\x00\x01", "<end_of_utterance>", "<|im_end|>\n"])
def test_a_blank_reply_is_an_error(text: str) -> None:
    with pytest.raises(ModelReplyError, match="blank"):
        reply(Prediction(text=text), "What is there?")


def test_a_repeated_prompt_is_an_error() -> None:
    with pytest.raises(ModelReplyError, match="only repeats the prompt: 'what is  there"):
        reply(Prediction(text="what is  there?\n"), "What is there?")
    assert reply(Prediction(text="What is there? A runner."), "What is there?")


def test_the_error_for_a_truncated_reply_names_the_setting() -> None:
    prediction = Prediction(text='{"bib": "4', finish_reason=FinishReason.LENGTH)
    with pytest.raises(ModelTruncatedError, match=r"max_new_tokens.*\{\"bib\": \"4"):
        reply(prediction, "")


@pytest.mark.parametrize(
    "text",
    ["<think>| a | b |</think>A runner.", "<think>\n\n</think>\n\nA runner.", "Hm, a dog?</think>A runner.<|im_end|>"],
)
def test_reasoning_is_not_part_of_the_reply(text: str) -> None:
    assert reply(Prediction(text=text), "What is there?") == "A runner."


@pytest.mark.parametrize("text", ["<think>A runner.", "<think>A runner.</think>", "<think>a</think> What is there?"])
def test_reasoning_without_an_answer_is_an_error(text: str) -> None:
    with pytest.raises(ModelReplyError, match=r"reasoning but no answer|blank|repeats the prompt"):
        reply(Prediction(text=text), "What is there?")


def test_an_error_quotes_the_start_of_the_reply_on_one_line() -> None:
    with pytest.raises(ModelReplyError) as found:
        json_values("words\n" * 100)
    assert len(str(found.value)) < 150
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("plain", "plain"),
        ("```json\n{}\n```", "{}"),
        ("~~~\n{}\n~~~\n", "{}"),
        ("````\n```\n{}\n```\n````", "```\n{}\n```"),
        ("```\n{}", "{}"),
        ("```python\na\n```\nand\n```python\nb\n```", "```python\na\n```\nand\n```python\nb\n```"),
        ("```markdown\n# A\n```python\nb\n```\nC\n```", "# A\n```python\nb\n```\nC"),
        ("Here:\n```\n{}\n```", "Here:\n```\n{}\n```"),
    ],
)
def test_an_enclosing_fence_is_removed(text: str, inside: str) -> None:
    assert unfenced(text) == inside


def test_fences_have_a_language() -> None:
    text = "One:\n```python title=x\n  a\n\n```\nTwo:\n~~~\nb\n~~~"
    assert fences(text) == [Fenced("python", "  a"), Fenced("", "b")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"bib": "42"}', {"bib": "42"}),
        ('```json\n{"bib": "42"}\n```', {"bib": "42"}),
        ('```json {"bib": "42"}```', {"bib": "42"}),
        ('Sure! Here it is:\n\n```\n["42"]\n```\nDone [really].', ["42"]),
        ('The bib is {"bib": "42"}, I think.', {"bib": "42"}),
        ("It's 5\" wide: [42]", ["42"]),
        ('In {braces} or [brackets]: {"bib": "}42]"}', {"bib": "}42]"}),
        ('{"bib": "4\\"2"}', {"bib": '4"2'}),
        ('{"a": {"b": [1, {"c": null}]}} and more', {"a": {"b": ["1", {"c": None}]}}),
        ('{"text": "two\nlines"}', {"text": "two\nlines"}),
    ],
)
def test_json_is_found_anywhere(text: str, value: Any) -> None:
    assert json_values(text) == Json([value], scattered=False)


@pytest.mark.parametrize(
    ("text", "values", "scattered"),
    [
        ('{"bib": "42"}\n{"bib": "43"}', [{"bib": "42"}, {"bib": "43"}], False),
        ('Here:\n```\n{"bib": "42"},\n{"bib": "43"}\n```', [{"bib": "42"}, {"bib": "43"}], False),
        ('{"bib": "42"}\n{"bib": "42"}', [{"bib": "42"}, {"bib": "42"}], False),
        ("```\n[1]\n```\n```\n[2]\n```", [["1"], ["2"]], True),
        ("[1], no: [2]", [["1"], ["2"]], True),
        ("[1], yes: [1]", [["1"]], False),
        ("```\n[1]\n```\nOr:\n```\n[1]\n```", [["1"]], False),
    ],
)
def test_values_with_text_between_them_are_scattered(
    text: str,
    values: list[Any],
    scattered: bool,  # noqa: FBT001
) -> None:
    assert json_values(text) == Json(values, scattered)


@pytest.mark.parametrize("number", ["42", "0042", "00", "-7", "1.50", "1e5", "1e999", "9" * 5000])
def test_numbers_stay_as_printed(number: str) -> None:
    (value,) = json_values(f'{{"a": {number}, "b": "{number}", "c": [{number}]}}').values
    assert value == {"a": number, "b": number, "c": [number]}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "There is no bib.",
            "{bib: 42}",
            '{"bib": 42',
            '{"bibs": ["42", "43"',
            '[{"bib": 42}, {"bib": 43}',
            '{"bib": "42}',
        ),
        *('{"bib": NaN}', '{"bib": -Infinity}', '{"bib": 4 2}', '{"bib": +42}', "[" * 100_000, "[" * 5000 + "]" * 5000),
        '{"bib": "42", "bib": "43"}',
    ],
)
def test_invalid_json_is_an_error(text: str) -> None:
    with pytest.raises(ModelReplyError, match=_NO_VALUE):
        json_values(text)


def test_escaped_strings_are_cleaned() -> None:
    (value,) = json_values('{"a\\u0000": ["\\ud800", "4\\u00002", "\\ud83c\\udfc3"]}').values
    assert value == {"a": ["\ufffd", "42", "\U0001f3c3"]}


_JSON = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    _JSON.filter(lambda value: isinstance(value, list | dict)),
    st.sampled_from(["{}", "Well: {} Done.", "```json\n{}\n```"]),
)
def test_embedded_json_round_trips(value: Any, around: str) -> None:
    def cleaned(part: Any) -> Any:
        match part:
            case str():
                return clean(part)
            case list():
                return [cleaned(item) for item in part]
            case dict():
                return {clean(key): cleaned(item) for key, item in part.items()}
        return part

    assert json_values(around.replace("{}", json.dumps(value), 1)).values == [cleaned(value)]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_cleaning_is_idempotent_and_gives_utf_8_without_nul(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert "\x00" not in once
    once.encode()


@pytest.mark.parametrize("text", ["```\n```", "```markdown\n\n```"])
def test_an_empty_fence_is_an_error(text: str) -> None:
    for interpreter in (PlainText(PlainTextOptions()), CodeBlock(CodeBlockOptions())):
        with pytest.raises(ModelReplyError):
            interpreter.interpret(Prediction(text=text))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nif x:\n    y()\n```", Code("python", "if x:\n    y()")),
        ("Here you are:\n~~~ sql\nSELECT 1;\n~~~\nIt selects.", Code("sql", "SELECT 1;")),
        ("```\n    indented\n```", Code("", "    indented")),
        ("```c++\nint x;", Code("c++", "int x;")),
        ("<_Python_> print(42)", Code("Python", "print(42)")),
        ("<_C++_>\n  int x;\n", Code("C++", "  int x;")),
        ("<code><loc_1><loc_2><loc_3><loc_4><_Bash_>ls -l</code>", Code("Bash", "ls -l")),
        ("print(42)", Code("", "print(42)")),
        ("<code>ls -l</code>", Code("", "ls -l")),
        ("x = '<_y_>'", Code("", "x = '<_y_>'")),
    ],
)
def test_code_and_its_language(text: str, code: Code) -> None:
    assert CodeBlock(CodeBlockOptions()).interpret(Prediction(text=text)) == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("I cannot see any code.", "no code"),
        ("There is no code (only runners) here; sorry.", "no code"),
        ("A photo of runners", "no code"),
        ("```python\na = 1\n```\nOr:\n```python\na = 2\n```", "found 2"),
    ],
)
def test_prose_and_several_code_blocks_are_errors(text: str, message: str) -> None:
    with pytest.raises(ModelReplyError, match=message):
        CodeBlock(CodeBlockOptions()).interpret(Prediction(text=text))
