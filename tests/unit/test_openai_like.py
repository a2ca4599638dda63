"""`vision_openailike_api` with a real HTTP server on this machine that replies correctly, wrongly or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from bibwatch.errors import (
    ConfigurationError,
    ModelBusyError,
    ModelDisconnectedError,
    ModelError,
    ModelFaultError,
    ModelNotServedError,
    ModelRejectedError,
    ModelReplyError,
    ModelTimeoutError,
    ModelUnavailableError,
    ModelUnreachableError,
)
from bibwatch.runtimes.base import Constraint, FinishReason, Prediction, Token, Usage
from bibwatch.runtimes.generative import SHORT_ANSWER_TOKENS
from bibwatch.runtimes.openai import Address, VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from bibwatch.runtimes.tokens import tokens_of
from bibwatch.testing import RuntimeConformance
from servers import Answer, Asked, Server, chat, error, lm_studio, ollama, picture, transformers_serve

_SECRET = "sk-never-to-be-seen"  # noqa: S105  # not a real key
_PATIENCE = 30  # seconds until a test stops waiting for another thread


@pytest.fixture
def ask(server: Server) -> Iterator[Callable[..., list[Prediction]]]:
    """Send images to the server and return the predictions."""
    made = []

    def ask(*images: Image.Image, constraint: Constraint | None = None, **changed: Any) -> list[Prediction]:
        runtime = VisionOpenAILikeApi(options(server, **changed))
        made.append(runtime)
        return list(runtime.predict_batch(images or (picture(),), "Which number?", constraint=constraint))

    yield ask
    for runtime in made:
        runtime.close()


def options(server: Server, **changed: Any) -> VisionOpenAILikeApiOptions:
    usual: dict[str, Any] = {
        "name": "mine",
        "api_url": server.url,
        "model_name": "smol",
        "timeout_seconds": _PATIENCE,
        "retries": 0,
    }
    return VisionOpenAILikeApiOptions(**(usual | changed))


# The contract


class TestContract(RuntimeConformance):
    @pytest.fixture(scope="class", params=["vllm", "ollama", "lm_studio", "transformers_serve"])
    @classmethod
    def unloaded(cls, request: pytest.FixtureRequest) -> Iterator[VisionOpenAILikeApi]:
        """Yield a runtime for each of these servers, which differ in requests and replies."""
        running = Server()
        match request.param:
            case "vllm":
                running.answer = cls.vllm
                usual: dict[str, Any] = {"structured": "structured_outputs", "extra_body": {"seed": 1, "top_p": 0.5}}
            case "ollama":
                running.answer = lambda asked: ollama(cls.schema_or_number(asked), asked.body["model"])
                usual = {"model_name": "qwen2.5vl:3b"}
            case "lm_studio":
                running.answer = lambda asked: lm_studio(cls.schema_or_number(asked), asked.body["model"])
                usual = {"model_name": "qwen/qwen2.5-vl-3b"}
            case _:
                running.answer = cls.transformers
                usual = {"model_name": "HuggingFaceTB/SmolVLM-Instruct", "logprobs": False}
        yield VisionOpenAILikeApi(options(running, batch_size=2, **usual))
        running.stop()

    @staticmethod
    def number(asked: Asked) -> str:
        """Return a number that depends on the image's pixels."""
        return str(int(hashlib.sha256(asked.picture.tobytes()).hexdigest(), 16))[:4]

    @classmethod
    def vllm(cls, asked: Asked) -> Answer:
        """Reply in the requested format, with probabilities."""
        if "json" in asked.body.get("structured_outputs", {}):
            return chat('{"legible": "yes"}', model="smol")
        number = cls.number(asked)
        listed = {"content": [{"token": digit, "logprob": -0.5} for digit in number]}
        return chat(number, model="smol", completion_tokens=4, logprobs=listed)

    @classmethod
    def schema_or_number(cls, asked: Asked) -> str:
        """Reply in the requested format."""
        return '{"legible": "yes"}' if "response_format" in asked.body else cls.number(asked)

    @classmethod
    def transformers(cls, asked: Asked) -> Answer:
        """Refuse unsupported fields."""
        if unknown := {"logprobs", "response_format"} & asked.body.keys():
            return Answer(json.dumps({"detail": f"Unsupported fields in the request: {unknown}"}).encode(), 422)
        return transformers_serve(cls.number(asked), asked.body["model"])


# Requests


def test_the_request(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """The image before the prompt, and always a temperature; the JPEG is no larger than the model can use."""
    ask(Image.new("RGBA", (4000, 2000), "red"), longest_side=1000, max_new_tokens=77)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    (message,) = asked.body.pop("messages")
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1]["text"] == "Which number?"
    assert asked.body == {"model": "smol", "max_tokens": 77, "temperature": 0, "logprobs": True}
    assert "Authorization" not in asked.headers


def test_the_image_that_is_sent(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    (prediction,) = ask(Image.new("RGBA", (4000, 2000), "red"), longest_side=1000)
    (asked,) = server.asked
    assert (asked.picture.format, asked.picture.size, asked.picture.mode) == ("JPEG", (1000, 500), "RGB")
    assert prediction.coordinates is not None
    assert (prediction.coordinates.width, prediction.coordinates.height) == (4000, 2000)
    assert prediction.coordinates.sent == (1000, 500)


def test_jpeg_quality_is_applied(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    noise = Image.effect_noise((200, 200), 90)
    for quality in (30, 90):
        ask(noise, jpeg_quality=quality)
    poor, good = (len(asked.jpeg) for asked in server.asked)
    assert poor < good


def test_optional_fields_are_sent_only_if_set(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    ask(logprobs=False)
    ask(stop=("</doctag>",), skip_special_tokens=False, temperature=0.7, top_p=0.9, seed=0)
    plain, more = (asked.body for asked in server.asked)
    assert plain.keys() == {"model", "messages", "max_tokens", "temperature"}
    assert (more["stop"], more["skip_special_tokens"]) == (["</doctag>"], False)
    assert (more["temperature"], more["top_p"], more["seed"]) == (0.7, 0.9, 0)


def test_extra_body_comes_last(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    extra = {"max_tokens": 5, "top_k": 1, "chat_template_kwargs": {"enable_thinking": False}}
    ask(extra_body=extra)
    assert server.asked[0].body.items() >= extra.items()


@pytest.mark.parametrize("taken", ["messages", "model", "stream"])
def test_extra_body_cannot_set_reserved_fields(server: Server, taken: str) -> None:
    with pytest.raises(ValidationError, match=f"cannot set {taken}"):
        options(server, extra_body={taken: "x"})


_SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("structured", "constraint", "sent"),
    [
        ("response_format", None, {}),
        ("response_format", Constraint(), {}),
        (
            "response_format",
            Constraint(json_schema=_SCHEMA),
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "reply", "schema": _SCHEMA, "strict": True},
                }
            },
        ),
        ("structured_outputs", Constraint(json_schema=_SCHEMA), {"structured_outputs": {"json": _SCHEMA}}),
        ("structured_outputs", Constraint(regex="[0-9]+"), {"structured_outputs": {"regex": "[0-9]+"}}),
    ],
)
def test_constraints_are_sent_in_the_format_of_the_server(
    server: Server,
    ask: Callable[..., list[Prediction]],
    structured: str,
    constraint: Constraint | None,
    sent: dict[str, Any],
) -> None:
    ask(structured=structured, constraint=constraint)
    body = server.asked[0].body
    assert {name: body[name] for name in body.keys() & {"response_format", "structured_outputs"}} == sent


def test_an_unsupported_regular_expression_is_an_error(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    predictions = ask(picture(1), picture(2), constraint=Constraint(regex="[0-9]+"))
    assert [type(each.error) for each in predictions] == [ModelUnavailableError] * 2
    assert 'structured = "structured_outputs"' in str(predictions[0].error)
    assert server.asked == []


@pytest.mark.parametrize(
    ("api_url", "asked"),
    [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions"),
        ("http://h", "http://h/chat/completions"),
        ("https://h/openai/chat/completions", "https://h/openai/chat/completions"),
        ("https://h/a/chat/completions?api-version=3", "https://h/a/chat/completions?api-version=3"),
    ],
)
def test_the_url_of_the_request(api_url: str, asked: str) -> None:
    assert Address(api_url).endpoint("/chat/completions") == asked


@pytest.mark.parametrize(
    ("api_url", "place"),
    [
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
        ("http://server/v1", "server:80"),
        ("https://server/v1", "server:443"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
    ],
)
def test_a_prediction_names_the_server_as_its_device(server: Server, api_url: str, place: str) -> None:
    assert options(server, api_url=api_url).place == place


# Concurrency


def test_predictions_are_in_order_whichever_reply_comes_first(
    server: Server, ask: Callable[..., list[Prediction]]
) -> None:
    """Each reply waits for that of the next image, so the last comes first."""
    given = [threading.Event() for _ in range(5)]
    given[4].set()

    def answer(asked: Asked) -> Answer:
        number = asked.number
        assert given[number + 1].wait(_PATIENCE)
        given[number].set()
        return chat(f"picture {number}")

    server.answer = answer
    predictions = ask(*map(picture, range(4)), concurrency=4, batch_size=4)
    assert [each.text for each in predictions] == [f"picture {number}" for number in range(4)]


def test_exactly_concurrency_requests_are_in_flight(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """Two wait for each other; there is never a third."""
    pair = threading.Barrier(2, timeout=_PATIENCE)
    lock = threading.Lock()
    under_way = most = 0

    def answer(_: Asked) -> Answer:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        pair.wait()
        with lock:
            under_way -= 1
        pair.wait()  # neither gets a reply, so no third is sent, until both have been counted
        return chat("1")

    server.answer = answer
    assert len(ask(*map(picture, range(8)), concurrency=2, batch_size=8)) == 8
    assert most == 2


def test_a_failed_image_does_not_affect_the_others(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    server.answer = lambda asked: error(400) if asked.number == 1 else chat(str(asked.number))
    before, failed, after = ask(*map(picture, range(3)))
    assert (before.text, after.text) == ("0", "2")
    assert isinstance(failed.error, ModelError)
    assert failed.text == ""
    assert len(server.asked) == 3  # and the request is not sent again


def test_short_answers_apply_to_the_calling_thread_only(server: Server) -> None:
    """A warm-up must not cut off the replies to other threads, which may be reading photos."""

    def ask(runtime: VisionOpenAILikeApi) -> int:
        list(runtime.predict_batch([picture()], "?"))
        most: int = server.asked[-1].body["max_tokens"]
        return most

    with ThreadPoolExecutor(1) as other, VisionOpenAILikeApi(options(server, max_new_tokens=77)) as runtime:
        assert ask(runtime) == 77
        with runtime.short_answers():
            assert ask(runtime) == SHORT_ANSWER_TOKENS
            assert other.submit(ask, runtime).result() == 77
        assert ask(runtime) == 77


def test_short_answers_do_not_exceed_max_new_tokens(server: Server) -> None:
    with VisionOpenAILikeApi(options(server, max_new_tokens=2)) as runtime, runtime.short_answers():
        list(runtime.predict_batch([picture()], "?"))
    assert server.asked[0].body["max_tokens"] == 2


# Replies


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        (None, FinishReason.UNKNOWN),
        ("eos", FinishReason.UNKNOWN),
    ],
)
def test_why_the_model_stopped(
    server: Server, ask: Callable[..., list[Prediction]], reason: str | None, finish: FinishReason
) -> None:
    server.answer = lambda _: chat("42", reason)
    (prediction,) = ask()
    assert (prediction.text, prediction.finish_reason, prediction.error) == ("42", finish, None)
    assert prediction.device == server.place


def test_an_empty_reply_that_was_cut_off_is_not_an_error(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """As from a model that reasons for too long."""
    server.answer = lambda _: chat(None, "length")
    (prediction,) = ask()
    assert (prediction.text, prediction.finish_reason, prediction.error) == ("", FinishReason.LENGTH, None)


def listed(*tokens: tuple[str, float]) -> dict[str, Any]:
    return {
        "content": [{"token": token, "logprob": logprob, "bytes": [], "top_logprobs": []} for token, logprob in tokens]
    }


@pytest.mark.parametrize(
    ("logprobs", "tokens"),
    [
        (listed(("10", -0.1), ("42", -0.2)), (Token("10", -0.1), Token("42", -0.2))),
        (listed(("1042", -0.1), ("<|im_end|>", 0.0)), (Token("1042", -0.1),)),
        (listed(("10", -0.1)), ()),
        (listed(("10", -0.1), ("43", -0.2)), ()),
        (listed(("1042", float("nan"))), ()),
        ({"content": None}, ()),
        ({"content": [{"token": 3}]}, ()),
        ({"tokens": ["1042"]}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_tokens_are_kept_only_if_they_match_the_text(
    server: Server, ask: Callable[..., list[Prediction]], logprobs: Any, tokens: tuple[Token, ...]
) -> None:
    server.answer = lambda _: chat("1042", logprobs=logprobs)
    (prediction,) = ask()
    assert (prediction.text, prediction.tokens, prediction.error) == ("1042", tokens, None)


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.text(max_size=5))
def test_tokens_match_the_text_or_are_empty(texts: list[str], more: list[str], other: str) -> None:
    whole = "".join(texts)
    tokens = [Token(text, -1.0) for text in texts + more]
    assert "".join(token.text for token in tokens_of(whole, tokens)) == whole
    for text in (other, whole + other):
        assert "".join(token.text for token in tokens_of(text, tokens)) in {text, ""}


@pytest.mark.parametrize("shape", [ollama, lm_studio, transformers_serve])
def test_the_replies_of_other_servers(
    server: Server, ask: Callable[..., list[Prediction]], shape: Callable[[str, str], Answer]
) -> None:
    server.answer = lambda asked: shape("42", asked.body["model"])
    (prediction,) = ask(model_name="HuggingFaceTB/SmolVLM-Instruct")
    assert (prediction.text, prediction.finish_reason, prediction.tokens) == ("42", FinishReason.STOP, ())
    assert (prediction.usage, prediction.error) == (Usage(prompt_tokens=700, completion_tokens=3), None)


def test_reasoning_is_not_part_of_the_reply(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    server.answer = lambda _: chat("42", message={"role": "assistant", "content": "42", "reasoning": "1024?"})
    assert ask()[0].text == "42"


def said(status: int, body: dict[str, Any]) -> Answer:
    return Answer(json.dumps(body).encode(), status)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        # vLLM
        (
            said(404, {"error": {"message": "The model `smol` does not exist.", "type": "NotFoundError", "code": 404}}),
            ModelNotServedError,
            "The model `smol` does not exist",
        ),
        (
            said(
                400,
                {"error": {"message": "The prompt is longer than the maximum model length", "type": "BadRequestError"}},
            ),
            ModelRejectedError,
            "400: The prompt is longer",
        ),
        (
            said(
                400,
                {"object": "error", "message": "cannot identify image file", "type": "BadRequestError", "code": 400},
            ),
            ModelRejectedError,
            "400: cannot identify image file",
        ),
        (
            said(
                500,
                {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}},
            ),
            ModelFaultError,
            "500: EngineCore encountered an issue",
        ),
        # Ollama
        (
            said(
                404, {"error": {"message": 'model "smol" not found, try pulling it first', "type": "not_found_error"}}
            ),
            ModelNotServedError,
            'model "smol" not found, try pulling it first',
        ),
        (said(404, {"error": "model 'smol' not found"}), ModelNotServedError, "model 'smol' not found"),
        (
            said(
                400,
                {
                    "error": {
                        "message": "invalid image input",
                        "type": "invalid_request_error",
                        "param": None,
                        "code": None,
                    }
                },
            ),
            ModelRejectedError,
            "400: invalid image input",
        ),
        (
            said(
                500, {"error": {"message": "model runner has unexpectedly stopped", "type": "api_error", "param": None}}
            ),
            ModelFaultError,
            "500: model runner has unexpectedly stopped",
        ),
        (
            said(503, {"error": {"message": "server busy, please try again.", "type": "api_error", "param": None}}),
            ModelBusyError,
            "503: server busy",
        ),
        # LM Studio
        (
            said(200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
            ModelFaultError,
            "Unexpected end",
        ),
        (
            said(
                404,
                {"error": {"message": "No models loaded.", "type": "invalid_request_error", "code": "model_not_found"}},
            ),
            ModelNotServedError,
            "No models loaded",
        ),
        # transformers serve
        (
            said(422, {"detail": "Unsupported fields in the request: {'logprobs'}"}),
            ModelRejectedError,
            "fields.*'logprobs'",
        ),
        (said(200, {}), ModelFaultError, "not a chat completion"),
    ],
)
def test_the_errors_of_other_servers(
    server: Server, ask: Callable[..., list[Prediction]], answer: Answer, kind: type[ModelError], says: str
) -> None:
    server.answer = lambda _: answer
    (prediction,) = ask()
    assert type(prediction.error) is kind
    assert re.search(says, str(prediction.error))


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("smol", None),
        ("smol", ""),
        ("smol", "smol"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gemini-2.0-flash", "gemini-2.0-flash-001"),
        ("HuggingFaceTB/SmolVLM-Instruct", "HuggingFaceTB/SmolVLM-Instruct@main"),
        ("llava", "llava:latest"),
        ("Qwen/Qwen2.5-VL-3B", "qwen2.5-vl-3b"),
        ("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B"),
        ("/models/tiny", "/models/tiny"),
    ],
)
def test_a_server_may_report_a_more_exact_model_name_or_none(
    server: Server, ask: Callable[..., list[Prediction]], asked: str, answered: str | None
) -> None:
    server.answer = lambda _: chat("42", model=answered)
    assert [each.error for each in ask(model_name=asked)] == [None]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("smol", "qwen"),
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4"),
        ("qwen2.5vl:3b", "qwen2.5vl:7b"),
        ("smol", "smoller"),
        ("smol", "smol/other"),
        ("smol", "two\nlines " + "x" * 1_000_000),
    ],
)
def test_a_reply_from_another_model_is_an_error(
    server: Server, ask: Callable[..., list[Prediction]], asked: str, answered: str
) -> None:
    """Its results would be recorded under the wrong name."""
    server.answer = lambda _: chat("42", model=answered)
    (prediction,) = ask(model_name=asked)
    assert type(prediction.error) is ModelNotServedError
    assert f"replied, not {asked}; if that is the model you want, set model_name to it" in str(prediction.error)
    assert str(prediction.error).isprintable()
    assert len(str(prediction.error)) < 500


@pytest.mark.parametrize(("written", "kind"), [(3, None), (4, None), (5, ModelReplyError)])
def test_a_reply_may_not_exceed_max_new_tokens(
    server: Server, ask: Callable[..., list[Prediction]], written: int, kind: type[ModelError] | None
) -> None:
    server.answer = lambda _: chat("1024", completion_tokens=written)
    (prediction,) = ask(max_new_tokens=4)
    if kind is None:
        assert (prediction.usage, prediction.error) == (Usage(prompt_tokens=700, completion_tokens=written), None)
    else:
        assert (prediction.text, type(prediction.error)) == ("", kind)
        assert "the reply has 5 tokens, more than the 4 allowed" in str(prediction.error)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (Answer(b"<html>hello</html>"), ModelFaultError, "not a chat completion: <html>hello"),
        (Answer(b""), ModelFaultError, "no message"),
        (Answer(b"\xff\x00\x1b[31m\n{"), ModelFaultError, "not a chat completion"),
        (Answer(b"[" * 100_000), ModelFaultError, "not a chat completion"),
        (Answer(b"9" * 100_000), ModelFaultError, "not a chat completion"),
        (Answer(b"[]"), ModelFaultError, "not a chat completion"),
        (Answer(b'{"error": "model crashed"}'), ModelFaultError, "not a chat completion: model crashed"),
        (Answer(b'{"choices": []}'), ModelFaultError, "no choices, not one"),
        (chat("42", choices=2), ModelFaultError, "2 choices, not one"),
        (Answer(b'{"choices": [{"message": {"content": [1]}}]}'), ModelFaultError, "not a chat completion"),
        (chat(None), ModelReplyError, "no text"),
        (chat(""), ModelReplyError, "no text"),
        (chat("", "x\n" * 1000), ModelReplyError, r"no text \(finish_reason x x"),
        (chat("I cannot", "content_filter"), ModelReplyError, "content_filter"),
        (chat("half an ans", "abort"), ModelFaultError, "aborted"),
        (error(400, "max_tokens is too large"), ModelRejectedError, "400: max_tokens is too large"),
        (error(413), ModelRejectedError, "413: because"),
        (error(415), ModelRejectedError, "415: because"),
        (Answer(b'{"detail": [{"msg": "extra"}]}', 422), ModelRejectedError, "422: .*extra"),
        (error(401), ModelNotServedError, r"requires a key: set api_key_file \(401\)"),
        (error(403), ModelNotServedError, "requires a key"),
        (error(405), ModelNotServedError, "is api_url right"),
        (Answer(b"", 307, {"Location": "https://elsewhere"}), ModelNotServedError, "307"),
        (error(429, "slow down"), ModelBusyError, "429: slow down"),
        (Answer(b"<html>\n Bad\n gateway", 502), ModelBusyError, "502: <html> Bad gateway"),
        (error(503, "The engine is currently busy"), ModelBusyError, "503: The engine is currently busy"),
        (error(408), ModelTimeoutError, "timed out"),
        (Answer(b'{"error": "loading"}', 504), ModelTimeoutError, "504: loading"),
        (error(500), ModelFaultError, "500: because"),
        (error(529), ModelFaultError, "529: because"),
        (Answer(b"no gzip", 200, {"Content-Encoding": "gzip"}), ModelFaultError, "cannot be decompressed"),
        (Answer(b"", 200, {"no header": "x"}), ModelDisconnectedError, "broke"),
        (None, ModelDisconnectedError, "broke"),
    ],
)
def test_an_invalid_response_is_a_typed_error_on_one_line(
    server: Server, ask: Callable[..., list[Prediction]], answer: Answer | None, kind: type[ModelError], says: str
) -> None:
    server.answer = lambda _: answer
    (prediction,) = ask()
    assert type(prediction.error) is kind
    message = str(prediction.error)
    assert message.startswith(f"mine at {server.place}")
    assert re.search(says, message)
    assert message.isprintable()
    assert len(message) < 500
    assert (prediction.text, prediction.tokens) == ("", ())


@pytest.fixture(scope="module")
def steady() -> Iterator[tuple[Server, VisionOpenAILikeApi]]:
    """Start a server and a runtime for many requests."""
    server = Server()
    with VisionOpenAILikeApi(options(server, longest_side=32)) as runtime:
        yield server, runtime
    server.stop()


_NAMES = "choices message content finish_reason logprobs usage completion_tokens model error detail token data id"
_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES.split()), inner, max_size=4),
    max_leaves=12,
)
_NEARLY = st.fixed_dictionaries(
    {"choices": st.lists(st.fixed_dictionaries({"message": _ANY_JSON}), min_size=1, max_size=2)},
    optional={"model": _ANY_JSON, "usage": _ANY_JSON},
)
_STATUSES = [200, 200, 200, 307, 400, 401, 404, 408, 418, 422, 429, 500, 502, 503, 504, 599]


@settings(max_examples=60)
@given(
    st.binary() | (_ANY_JSON | _NEARLY).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(_STATUSES),
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=40),
)
def test_any_response_is_a_reply_or_a_typed_error(
    steady: tuple[Server, VisionOpenAILikeApi], body: bytes, status: int, retry_after: str
) -> None:
    server, runtime = steady
    server.answer = lambda _: Answer(body, status, {"Retry-After": retry_after})
    (prediction,) = runtime.predict_batch([picture()], "?")
    server.asked.clear()
    error = prediction.error
    assert type(error) is not ModelError  # only unexpected errors have this type
    if error is None:
        assert prediction.text or prediction.finish_reason is FinishReason.LENGTH
    else:
        assert (prediction.text, prediction.tokens) == ("", ())
        assert str(error).isprintable()
    if isinstance(error, ModelBusyError):
        assert error.retry_after is None or error.retry_after >= 0


def test_a_reply_that_breaks_off_is_an_error(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    def broken_off() -> Iterator[bytes]:
        yield chat("42").body
        raise BrokenPipeError

    server.answer = lambda _: Answer(b"", 200, {"Content-Length": "999"}, pieces=broken_off())
    (prediction,) = ask()
    assert type(prediction.error) is ModelDisconnectedError
    assert "broke" in str(prediction.error)


def test_an_endless_reply_is_aborted(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 1_000_000

    server.answer = lambda _: Answer(b"", 200, {"Content-Length": str(10**12)}, pieces=endless())
    (prediction,) = ask()
    assert type(prediction.error) is ModelFaultError
    assert "the response is larger than 16000000 bytes" in str(prediction.error)


@pytest.mark.parametrize("first", [b"", b" "])
def test_a_silent_or_dripping_server_times_out(
    server: Server, ask: Callable[..., list[Prediction]], first: bytes
) -> None:
    """The timeout is for the complete response, even if bytes keep arriving."""

    def drops() -> Iterator[bytes]:
        while not server.stopped.wait(0.01):
            yield first

    server.answer = lambda _: Answer(b"", 200, {"Content-Length": str(10**9)}, pieces=drops())
    (prediction,) = ask(timeout_seconds=0.2)
    assert type(prediction.error) is ModelTimeoutError
    assert "no complete response within timeout_seconds = 0.2" in str(prediction.error)


def test_an_unreachable_server(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """It must not prevent the daemon from starting, and loses no photo."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        first, second = ask(picture(1), picture(2), api_url=url)
        assert options(server, api_url=url).obstacle() == f"no server answers at {url[7:-3]}"
    for each in (first, second):
        assert type(each.error) is ModelUnreachableError
        assert "cannot be reached" in str(each.error)


def test_an_unknown_host_name(
    server: Server, ask: Callable[..., list[Prediction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    (prediction,) = ask(api_url="http://finish-gpu:8000/v1")
    assert type(prediction.error) is ModelUnreachableError
    assert "finish-gpu:8000 cannot be reached" in str(prediction.error)


def test_a_server_without_tls(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    (prediction,) = ask(api_url=server.url.replace("http:", "https:"))
    assert type(prediction.error) is ModelUnreachableError
    assert "ca_file" not in str(prediction.error)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Create a self-signed certificate for this machine; return its file and that of its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "server.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=finish-gpu"]
    to = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run([*command, *to], check=True, capture_output=True)
    return made, key


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    running = Server(context)
    yield running
    running.stop()


def test_a_self_signed_certificate_is_not_trusted(tls_server: Server, ask: Callable[..., list[Prediction]]) -> None:
    (prediction,) = ask(api_url=tls_server.url)
    assert type(prediction.error) is ModelUnreachableError
    assert "set ca_file to the authority that signed it" in str(prediction.error)
    assert tls_server.asked == []


def test_a_certificate_in_ca_file_is_trusted(
    tls_server: Server,
    ask: Callable[..., list[Prediction]],
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(certificate[0].parent))
    (prediction,) = ask(api_url=tls_server.url, ca_file="${CREDENTIALS_DIRECTORY}/server.pem")
    assert (prediction.text, prediction.error, prediction.device) == ("1024", None, tls_server.place)


def test_a_certificate_for_another_name_is_not_trusted(
    tls_server: Server, ask: Callable[..., list[Prediction]], certificate: tuple[Path, Path]
) -> None:
    (prediction,) = ask(api_url=tls_server.url.replace("127.0.0.1", "localhost"), ca_file=certificate[0])
    assert type(prediction.error) is ModelUnreachableError
    assert tls_server.asked == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n\xff\n", "folder"])
def test_a_file_without_certificates_is_a_configuration_error(
    server: Server, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / "ca.pem"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(ConfigurationError, match=f"^mine at {server.place}: ca_file {path}: .") as raised:
        VisionOpenAILikeApi(options(server, ca_file=path)).load()
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (Answer(b'{"data": [{"id": "qwen"}, {"id": "llava"}]}'), "has no model 'smol'; it lists: qwen, llava"),
        (Answer(b'{"data": []}'), "it lists: none"),
        (Answer(b"?"), "has no model 'smol' "),
        (error(404), "has no model 'smol', or api_url is wrong"),
        (error(500), "has no model 'smol' "),
        (Answer(json.dumps({"data": [{"id": "two\nlines" * 1000}]}).encode()), "it lists: two lines"),
        (None, "has no model 'smol' "),
    ],
)
def test_a_model_the_server_does_not_have(
    server: Server, ask: Callable[..., list[Prediction]], models: Answer | None, says: str
) -> None:
    """The photo is not at fault, and the message lists the available names."""
    server.answer = lambda asked: models if asked.method == "GET" else error(404, "no such model")
    (prediction,) = ask()
    assert type(prediction.error) is ModelNotServedError
    assert says in str(prediction.error)
    assert "404: no such model" in str(prediction.error)
    assert str(prediction.error).isprintable()
    assert [asked.path for asked in server.asked] == ["/v1/chat/completions", "/v1/models"]


# Keys


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "api-key"
    path.write_text(f"{_SECRET}\n")
    return path


def test_the_key_is_sent_and_never_exposed(
    server: Server, key_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even if the server repeats it. It is loaded from systemd's credentials directory."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key_file.parent))
    runtime = VisionOpenAILikeApi(options(server, api_key_file="${CREDENTIALS_DIRECTORY}/api-key"))
    seen = [repr(runtime.options), runtime.options.model_dump_json(), json.dumps(runtime.options.identity())]
    with caplog.at_level(logging.DEBUG), runtime:
        for status in (200, 400, 401, 404, 500):
            answer = error(status, f"Incorrect API key: {_SECRET}")
            server.answer = lambda _, answer=answer: answer  # type: ignore[misc]
            (prediction,) = runtime.predict_batch([picture()], "?")
            seen += [str(prediction.error), repr(prediction)]
        seen += [repr(runtime), str(vars(runtime)), str(vars(runtime.options))]
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {_SECRET}"}
    assert caplog.text
    assert _SECRET not in "\n".join([*seen, caplog.text])


@pytest.mark.parametrize(
    "repeats",
    [
        lambda key: Answer(f"<p>{key}</p>".encode()),
        lambda key: Answer((" " * 1190 + key).encode()),
        lambda key: Answer(f'{{"error": "{"x" * 290}{key}"}}'.encode()),
        lambda key: Answer(json.dumps({key: {"x": [key]}}).encode()),
        lambda key: Answer(json.dumps({"detail": [{"input": {"headers": {"authorization": key}}}]}).encode(), 422),
        lambda key: chat("42", model=key),
        lambda key: chat("", key),
        lambda key: Answer(b"{}", 500, {"X-Repeats": key}),
        lambda key: Answer(b"", 200, {f"no header {key}": "x"}),
        lambda key: Answer(json.dumps({"data": [{"id": key}]}).encode(), 404),
    ],
)
def test_a_key_that_a_server_repeats_is_never_exposed(
    server: Server,
    key_file: Path,
    repeats: Callable[[str], Answer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even part of it, nor in the logs of libraries."""
    server.answer = lambda asked: repeats(asked.headers["Authorization"].removeprefix("Bearer "))
    with caplog.at_level(logging.DEBUG), VisionOpenAILikeApi(options(server, api_key_file=key_file)) as runtime:
        (prediction,) = runtime.predict_batch([picture()], "?")
    assert isinstance(prediction.error, ModelError)
    assert caplog.text
    assert _SECRET[:9] not in repr(prediction) + caplog.text


def test_a_key_in_the_list_of_models_is_masked(
    server: Server, ask: Callable[..., list[Prediction]], key_file: Path
) -> None:
    listed = Answer(json.dumps({"data": [{"id": _SECRET}]}).encode())
    server.answer = lambda asked: listed if asked.method == "GET" else error(404)
    (prediction,) = ask(api_key_file=key_file)
    assert "it lists: ***" in str(prediction.error)


@pytest.mark.parametrize("status", [401, 403])
def test_the_error_for_a_refused_key_names_its_file(
    server: Server, ask: Callable[..., list[Prediction]], key_file: Path, status: int
) -> None:
    server.answer = lambda _: error(status)
    (prediction,) = ask(api_key_file=key_file)
    assert type(prediction.error) is ModelNotServedError
    assert f"refuses the key in {key_file} ({status})" in str(prediction.error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "not one line"),
        (b"two\nlines", "not one line"),
        (b"caf\xc3\xa9", "not one line"),
        (b"\xff", "not text"),
    ],
)
def test_a_file_without_a_key_is_a_configuration_error(
    server: Server, tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^preset mine: api_key_file {path}: .*{says}"):
        VisionOpenAILikeApi(options(server, api_key_file=path)).load()


# The network


def test_loading_sends_no_request(server: Server) -> None:
    with VisionOpenAILikeApi(options(server)):
        pass
    assert server.asked == []


def test_no_proxy_is_used_for_a_local_server(
    server: Server, ask: Callable[..., list[Prediction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Server()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{other.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    here, there = ask(), ask(api_url="http://finish-gpu.invalid/v1")
    other.stop()
    assert [len(server.asked), len(other.asked)] == [1, 1]
    assert here[0].error is there[0].error is None


def test_only_local_servers_are_contacted_for_the_obstacle(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options(server).obstacle() is None

    def refused(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a server was contacted")

    monkeypatch.setattr(socket, "create_connection", refused)
    assert options(server, api_url="http://192.0.2.1/v1").obstacle() is None
    assert options(server, api_url="http://finish-gpu/v1").obstacle() is None
    assert options(server, refused="not yet").obstacle() == "not yet"


# Options


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"api_url": "127.0.0.1:8000"}, "not a URL"),
        ({"api_url": "ftp://h/v1"}, "not a URL"),
        ({"api_url": "http://"}, "not a URL"),
        ({"api_url": "http://h:port/v1"}, "[Pp]ort"),
        ({"api_url": "http://me:secret@h/v1"}, "api_key_file"),
        ({"api_url": ()}, "api_url"),
        ({"api_url": ("http://h/v1", "h")}, "not a URL"),
        ({"api_url": ("http://h/v1", "http://h/v1")}, "listed twice"),
        ({"retries": 11}, "retries"),
        ({"model_name": ""}, "model_name"),
        ({"concurrency": 0}, "concurrency"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"structured": "guided_json"}, "structured"),
        ({"api_key": "x"}, "api_key"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_invalid_options(server: Server, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        options(server, **changed)


@pytest.mark.parametrize("api_url", ["http://xn--/v1", "http://ex·/v1", "http://h/\x01"])
def test_an_address_that_fails_later_validation_is_a_configuration_error(server: Server, api_url: str) -> None:
    with pytest.raises(ConfigurationError, match="api_url"):
        VisionOpenAILikeApi(options(server, api_url=api_url)).load()


def test_the_server_does_not_change_the_identity(server: Server, key_file: Path) -> None:
    """So photos are not read again; with another model or other sampling, they are."""
    here = options(server)
    elsewhere = options(server, api_url="https://h/v1", api_key_file=key_file, concurrency=64, timeout_seconds=5)
    assert here.identity() == elsewhere.identity()
    assert here.identity() != options(server, model_name="other").identity()
    assert here.identity() != options(server, extra_body={"top_k": 1}).identity()
    assert here.model == "smol"
