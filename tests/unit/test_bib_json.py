"""`bib_json`: bib candidates in a reply, with confidence and position."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.errors import ModelReplyError
from bibwatch.interpreters.bib_json import BibJson, BibJsonOptions
from bibwatch.judging import Race, judge
from bibwatch.judging.race import form
from bibwatch.runtimes.base import BoxConvention, CoordinateSpace, Prediction, Token

_PROMPT = 'Which bibs are in this photo? Answer such as {"bib": "256"}.'


def interpret(
    text: str, prompt: str = "", coordinates: CoordinateSpace | None = None, **options: object
) -> tuple[Candidate, ...]:
    return BibJson(BibJsonOptions(**options)).interpret(Prediction(text=text, coordinates=coordinates), prompt)


def scores(text: str, prompt: str = "", **options: object) -> dict[str, float]:
    return {candidate.text: candidate.score for candidate in interpret(text, prompt, **options)}


def bibs_in(text: str, prompt: str = "", pattern: str | None = None) -> list[str]:
    """Return the bibs judged from a reply, for any race or for one with bibs of this form."""
    race = Race(forms=(form(pattern),)) if pattern else Race()
    return [reading.bib for reading in judge(interpret(text, prompt), race)]


@pytest.mark.parametrize(
    ("text", "bibs"),
    [
        ('{"bibs": [{"number": "42"}, {"number": "0042"}]}', ["42", "0042"]),
        ('{"bibs": ["42", 43]}', ["42", "43"]),
        ('{"bib": "42"}', ["42"]),
        ('{"bib": 42}', ["42"]),
        ('{"bib": 0042}', ["0042"]),
        ('{"bib": ["42", "43"]}', ["42", "43"]),
        ('{"bib": {"number": "42"}}', ["42"]),
        ('{"bib": "42, 43 and 44"}', ["42", "43", "44"]),
        ('{"bib_number": "m1234"}', ["M1234"]),
        ('{"bib_numbers": [42]}', ["42"]),
        ('["42", {"bib": 43}, null]', ["42", "43"]),
        ('{"bib": "42"}\n{"bib": "43"}', ["42", "43"]),
        ('{"bibs": [{"number": "42", "colour": "red", "runner": {"name": "Anna"}}]}', ["42"]),
        ('{"bibs": ["42", "7", "123456"]}', ["42"]),
        ('{"bibs": ["#42", "Bib 43", "No. 44", "1 2 3 4"]}', ["42", "43", "44", "1234"]),
        ("42", ["42"]),
        ("I can see ```json\n{\"bib\": \"42\"}\n```", ["42"]),
    ],
)  # fmt: skip
def test_bibs_are_found_in_every_known_format(text: str, bibs: list[str]) -> None:
    assert bibs_in(text) == bibs


@pytest.mark.parametrize(
    "text",
    [
        *(
            '{"bibs": []}',
            "[]",
            '{"bib": null}',
            '{"bib": "none"}',
            '{"bib": ""}',
            '{"bib": " "}',
            "None.",
            "null",
            '"none"',
        ),
        *('{"bibs": null}', '{"bibs": [{"number": null}]}', '```json\n{"bibs": []}\n```'),
    ],
)
def test_a_reply_may_report_no_bibs(text: str) -> None:
    assert interpret(text) == ()


def test_every_value_is_a_candidate_as_written() -> None:
    """Including numbers that are not bibs in most races, and words next to a number; the judge decides."""
    text = '{"bibs": ["7", "14:32", "Bib 43", "unreadable", "m 1234"]}'
    assert [candidate.text for candidate in interpret(text)] == ["7", "14:32", "Bib 43", "unreadable", "m 1234"]
    assert {candidate.source for candidate in interpret(text)} == {Source.VALUE}
    assert bibs_in(text) == ["43", "M1234"]
    assert bibs_in('{"bibs": ["7", "14:32"]}') == []


def test_a_number_with_a_label_may_be_the_bare_number() -> None:
    assert [candidate.alternatives for candidate in interpret('["No. 44", "45"]')] == [("44",), ()]


@pytest.mark.parametrize("bib", ["A1B2", "TEAM7", "12-A-3"])
def test_a_bib_may_be_any_word_with_a_digit(bib: str) -> None:
    """The race determines what its bibs look like."""
    assert bibs_in(f'{{"bib": "{bib}"}}', pattern=r"[A-Z0-9-]+") == [bib]
    assert bibs_in(f'{{"bib": "{bib}"}}') == []


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "true", '{"runners": 3}', '{"answer": {"bibs": ["42"]}}', "[true]", '{"bibs": true}', '{"bib": true}'),
        *(
            '{"bibs": [{"box": [1, 2, 3, 4]}]}',
            "There are no bibs here.",
            "The bib is 42.",
            '"',
            "```\n```",
            '{"bibs": ["42"',
        ),
        *('{"bibs": ["<number>"]}', '{"bib": "bib number"}', '{"bib": "unreadable"}', '{"bib": "4 of 10 runners"}'),
    ],
)
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises(ModelReplyError):
        interpret(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"bibs": [], "error": "image too dark"}',
        '{"bib": null, "message": "image too dark"}',
        '```json\n{"bibs": [], "reason": "image too dark"}\n```',
    ],
)
def test_no_bibs_with_a_message_is_an_error_with_that_message(text: str) -> None:
    with pytest.raises(ModelReplyError, match="image too dark"):
        interpret(text)
    assert bibs_in('{"bibs": ["42"], "message": "image too dark"}') == ["42"]


def test_reasoning_is_ignored() -> None:
    text = '<think>{"bibs": [{"number": "1111"}]}? no</think>{"bibs": [{"number": "77"}]}'
    assert bibs_in(text) == ["77"]


@pytest.mark.parametrize(
    ("text", "confidences"),
    [
        ('{"bibs": ["1111"]} no, {"bibs": ["77"]}', {"1111": 0.5, "77": 0.5}),
        ('{"bibs": ["1111"]}\n{"bibs": ["77"]}', {"1111": 0.5, "77": 0.5}),
        ('```\n{"bib": "1111"}\n```\nor\n```\n{"bib": "77"}\n```', {"1111": 0.5, "77": 0.5}),
        ('{"bibs": ["77"]} or {"bibs": []}', {"77": 0.5}),
        ('{"bib": "1111"}\n{"bib": "77"}', {"1111": 0.9, "77": 0.9}),
        ('{"bibs": ["77"]} Again: {"bibs": ["77"]}', {"77": 0.9}),
    ],
)
def test_contradictory_answers_limit_the_confidence(text: str, confidences: dict[str, float]) -> None:
    assert scores(text, unknown_confidence=0.9) == confidences
    doubts = {candidate.doubt for candidate in interpret(text)}
    assert doubts == ({"the reply contradicts itself"} if 0.5 in confidences.values() else {None})


def test_the_example_in_the_prompt_is_not_an_answer() -> None:
    with pytest.raises(ModelReplyError, match="the reply repeats the example in the prompt: 256"):
        interpret('{"bib": 256}', _PROMPT)
    sure = scores('{"bibs": ["256", "42"]}', _PROMPT, unknown_confidence=0.9)
    assert sure == {"256": 0.5, "42": 0.9}, "it may be worn, too"
    assert bibs_in('{"bib": "2560"}', _PROMPT) == ["2560"]
    assert bibs_in('{"bib": "25"}', _PROMPT) == ["25"]


def test_other_numbers_in_the_prompt_limit_the_confidence() -> None:
    found = interpret('{"bibs": ["123", "888"]}', "Bibs here are 100 to 123 and 800 to 888.", unknown_confidence=0.99)
    assert [(each.text, each.score, each.doubt) for each in found] == [
        ("123", 0.5, "a word from the prompt"),
        ("888", 0.5, "a word from the prompt"),
    ]
    assert bibs_in('{"bibs": ["7"]}', "Read up to 7 bibs. JSON.", pattern=r"\d{1,3}") == ["7"]


def test_the_bib_format_applies_to_the_whole_number() -> None:
    assert bibs_in('{"bibs": ["AB-12", "42", "AB-123"]}', pattern=r"AB-\d\d") == ["AB-12"]


def test_digits_of_other_scripts_make_the_same_bib() -> None:
    assert bibs_in('{"bibs": ["\uff14\uff12", "\u0664\u0662"]}') == ["42"]


@pytest.mark.parametrize(
    ("entry", "confidence"),
    [
        ({}, 0.4),
        ({"confidence": 0.99}, 0.4),
        ({"confidence": 0.2}, 0.2),
        ({"confidence": "0.2"}, 0.2),
        ({"confidence": "high"}, 0.4),
        ({"confidence": 95}, 0.4),
        ({"confidence": -1}, 0.4),
        ({"legible": True}, 0.4),
        ({"legible": False}, 0.4),
    ],
)
def test_a_self_reported_confidence_can_only_lower_the_score(entry: dict[str, Any], confidence: float) -> None:
    (bib,) = interpret(json.dumps({"bibs": [{"number": "42", **entry}]}), unknown_confidence=0.4)
    assert bib.score == confidence


def test_an_illegible_bib_has_a_limited_confidence() -> None:
    (bib,) = interpret('{"bibs": [{"number": "42", "legible": false}]}', unknown_confidence=0.9)
    assert (bib.score, bib.doubt) == (0.5, "the model calls it illegible")


def test_a_repeated_number_is_two_candidates_and_one_bib() -> None:
    text = '[{"bib": "42", "confidence": 0.1}, {"bib": "43"}, {"bib": "42", "confidence": 0.3}]'
    found = interpret(text)
    assert [(each.text, each.score) for each in found] == [("42", 0.1), ("43", 0.5), ("42", 0.3)]
    assert [(each.bib, each.probability) for each in judge(found)] == [("42", 0.3), ("43", 0.5)]


def told(*tokens: tuple[str, float]) -> tuple[Candidate, ...]:
    prediction = Prediction(
        text="".join(text for text, _ in tokens), tokens=tuple(Token(text, math.log(p)) for text, p in tokens)
    )
    return BibJson(BibJsonOptions()).interpret(prediction)


def test_the_confidence_is_the_probability_of_the_bibs_tokens() -> None:
    (bib,) = told(('{"', 0.1), ('bib": "', 0.2), ("00", 0.9), ("4", 0.8), ('2"', 0.5), ("}", 0.3))
    assert bib.text == "0042"
    assert bib.score == pytest.approx(0.9 * 0.8 * 0.5)


def test_a_token_that_extends_beyond_the_bib_counts_in_full() -> None:
    (bib,) = told(('{"bib": "4', 0.6), ("2", 0.5), ('"}', 0.1))
    assert bib.score == pytest.approx(0.3)


def test_each_bib_has_its_own_occurrence() -> None:
    """Not the digits of a box, of a longer number, or of an earlier bib."""
    tokens = (
        ('{"bibs":[{"number":"', 1), ("142", 0.1), ('"},{"box":[', 1), ("42", 0.2), (',1,2,3],"number":"', 1),
        ("42", 0.9), ('"},{"number": ', 1), ("43", 0.7), ("}]}", 1),
    )  # fmt: skip
    assert [(bib.text, round(bib.score, 6)) for bib in told(*tokens)] == [("142", 0.1), ("42", 0.9), ("43", 0.7)]


def test_tokens_of_the_reasoning_are_ignored() -> None:
    (bib,) = told(('<think>{"bib": "', 1), ("42", 0.1), ('"}?</think>{"bib": "', 1), ("42", 0.9), ('"}', 1))
    assert bib.score == pytest.approx(0.9)


def test_tokens_without_the_bib_are_ignored() -> None:
    prediction = Prediction(text='{"bib": "42"}', tokens=(Token("something else", -0.1),))
    assert BibJson(BibJsonOptions()).interpret(prediction)[0].score == 0.5


@pytest.mark.parametrize(("logprob", "confidence"), [(math.nan, 0.5), (-math.inf, 0.0), (1e-6, 1.0), (math.inf, 1.0)])
def test_an_invalid_probability_never_exceeds_one(logprob: float, confidence: float) -> None:
    prediction = Prediction(text='{"bib": "42"}', tokens=(Token('{"bib": "42"}', logprob),))
    assert BibJson(BibJsonOptions()).interpret(prediction)[0].score == confidence


@pytest.mark.parametrize(
    ("name", "written"),
    [
        *((name, [100, 200, 300, 400]) for name in ("box", "bbox", "bbox_2d")),
        ("box", ["100", "200", "300", "400.0"]),
        ("box", "[100, 200, 300, 400]"),
        ("box", {"x1": 100, "y1": 200, "x2": 300, "y2": 400}),
        ("box", {"xmin": 100, "ymin": 200, "xmax": 300, "ymax": 400}),
    ],
)
def test_boxes_are_in_pixels_of_the_image(name: str, written: object) -> None:
    coordinates = CoordinateSpace(BoxConvention.REL1000, 2000, 1000, sent=(1000, 500))
    (bib,) = interpret(json.dumps({"bibs": [{"number": "42", name: written}]}), coordinates=coordinates)
    assert bib.box == Box(200, 200, 600, 400)


@pytest.mark.parametrize(
    "written",
    [None, [], [1, 2, 3], [1, 2, "x", 4], [300, 200, 100, 400], "left", {"x1": 1}, [[1, 2], [3, 4]], 7, "1e999"],
)
def test_an_invalid_box_does_not_affect_its_bib(written: object) -> None:
    coordinates = CoordinateSpace(BoxConvention.REL1000, 2000, 1000, sent=(1000, 500))
    assert interpret(json.dumps({"bib": "42", "box": written}), coordinates=coordinates) == (Candidate("42", 0.5),)


def test_boxes_are_ignored_without_a_convention() -> None:
    text = '{"bib": "42", "box": [100, 200, 300, 400]}'
    assert interpret(text)[0].box is None
    assert interpret(text, coordinates=CoordinateSpace(BoxConvention.NONE, 2000, 1000, sent=(1000, 500)))[0].box is None


def test_the_schema_describes_the_reply() -> None:
    schema = BibJson(BibJsonOptions()).schema
    entry = schema["properties"]["bibs"]["items"]
    assert entry["required"] == ["number"]
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("number", ["7", "42", "0042", "123456", "M10151", "ABC12", "12B"])
def test_the_schema_allows_bibs_of_any_race(number: str) -> None:
    """But no words: a constrained model cannot write `unreadable` in place of a number."""
    written = BibJson(BibJsonOptions()).schema["properties"]["bibs"]["items"]["properties"]["number"]["pattern"]
    assert re.search(written, number)
    assert not any(re.search(written, word) for word in ("unreadable", "none", "", f"bib {number}", f"{number} "))


@pytest.mark.parametrize("options", [{"pattern": r"\d+"}, {"unknown_confidence": 1.1}, {"patern": "x"}])
def test_invalid_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BibJsonOptions(**options)


@settings(deadline=None)
@given(
    st.lists(st.from_regex(r"\d{2,5}|[A-Z]\d{3,5}", fullmatch=True).filter(str.isascii), unique=True),
    st.lists(st.floats(-20, 0), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_every_reported_bib_has_a_confidence(bibs: list[str], logprobs: list[float], step: int) -> None:
    text = json.dumps({"bibs": [{"number": bib} for bib in bibs]})
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    tokens = tuple(Token(piece, logprobs[number % len(logprobs)]) for number, piece in enumerate(pieces))
    found = BibJson(BibJsonOptions()).interpret(Prediction(text=text, tokens=tokens))
    assert [bib.text for bib in found] == bibs
    for bib in found:
        # A bib spans several tokens, each with one of the given probabilities.
        assert math.exp(6 * min(logprobs)) <= bib.score <= math.exp(max(logprobs))
