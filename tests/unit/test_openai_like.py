"""`vision_openailike_api` against a real HTTP server on this machine that answers well, badly or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from bibwatch.errors import ConfigurationError, ModelError, ModelReplyError, ModelUnavailableError
from bibwatch.runtimes.base import Constraint, Finish, Prediction, Token
from bibwatch.runtimes.openai_like import VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from bibwatch.runtimes.tokens import tokens_of
from bibwatch.testing import RuntimeConformance
from servers import Answer, Asked, Server, chat, error

_SECRET = "sk-never-to-be-seen"  # noqa: S105  # of nobody
_PATIENCE = 30  # seconds until a test that waits for another thread gives up; it never takes as long when all is well


@pytest.fixture
def ask(server: Server) -> Iterator[Callable[..., list[Prediction]]]:
    """Ask the server about pictures and return the predictions."""
    made = []

    def ask(*images: Image.Image, constraint: Constraint | None = None, **changed: Any) -> list[Prediction]:
        runtime = VisionOpenAILikeApi(options(server, **changed))
        made.append(runtime)
        return list(runtime.predict_batch(images or (picture(),), "Which number?", constraint=constraint))

    yield ask
    for runtime in made:
        runtime.close()


def options(server: Server, **changed: Any) -> VisionOpenAILikeApiOptions:
    usual: dict[str, Any] = {"name": "mine", "api_url": server.url, "model_name": "smol", "timeout_seconds": _PATIENCE}
    return VisionOpenAILikeApiOptions(**(usual | changed))


def picture(number: int = 0) -> Image.Image:
    """A picture that can be told from others by its width."""
    return Image.new("RGB", (32 + number, 32), "white")


def number_of(asked: Asked) -> int:
    return asked.picture.width - 32


# The contract


class TestContract(RuntimeConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def unloaded(cls) -> Iterator[VisionOpenAILikeApi]:
        running = Server()
        running.answer = cls.obedient
        yield VisionOpenAILikeApi(
            options(running, batch_size=2, structured="structured_outputs", extra_body={"seed": 1, "top_p": 0.5})
        )
        running.stop()

    @staticmethod
    def obedient(asked: Asked) -> Answer:
        """Answer by what the picture looks like, in the form that is asked for."""
        form = asked.body.get("structured_outputs", {})
        if "json" in form:
            return chat('{"legible": "yes"}')
        number = str(int(hashlib.sha256(asked.picture.tobytes()).hexdigest(), 16))[:4]
        return chat(number, logprobs={"content": [{"token": digit, "logprob": -0.5} for digit in number]})


# What is sent


def test_the_request(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """The picture first, then the question, the temperature always; a JPEG no larger than the model has use for."""
    ask(Image.new("RGBA", (4000, 2000), "red"), longest_side=1000, max_new_tokens=77)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    (message,) = asked.body.pop("messages")
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1]["text"] == "Which number?"
    assert asked.body == {"model": "smol", "max_tokens": 77, "temperature": 0, "logprobs": True}
    assert "Authorization" not in asked.headers


def test_the_picture_that_is_sent(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    (prediction,) = ask(Image.new("RGBA", (4000, 2000), "red"), longest_side=1000)
    (asked,) = server.asked
    assert (asked.picture.format, asked.picture.size, asked.picture.mode) == ("JPEG", (1000, 500), "RGB")
    assert prediction.frame is not None
    assert (prediction.frame.width, prediction.frame.height) == (4000, 2000)
    assert prediction.frame.sent == (1000, 500)


def test_jpeg_quality_is_what_it_says(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    noise = Image.effect_noise((200, 200), 90)
    for quality in (30, 90):
        ask(noise, jpeg_quality=quality)
    poor, good = (asked.picture.fp.getbuffer().nbytes for asked in server.asked)  # type: ignore[union-attr]
    assert poor < good


def test_only_what_is_wanted_is_sent_to_servers_that_may_not_know_it(
    server: Server, ask: Callable[..., list[Prediction]]
) -> None:
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
def test_extra_body_may_not_replace_what_is_ours(server: Server, taken: str) -> None:
    with pytest.raises(ValidationError, match=f"may not set {taken}"):
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
def test_constraints_are_sent_in_the_words_of_the_server(
    server: Server,
    ask: Callable[..., list[Prediction]],
    structured: str,
    constraint: Constraint | None,
    sent: dict[str, Any],
) -> None:
    ask(structured=structured, constraint=constraint)
    body = server.asked[0].body
    assert {name: body[name] for name in body.keys() & {"response_format", "structured_outputs"}} == sent


def test_a_pattern_that_cannot_be_sent_is_an_error_and_not_left_out(
    server: Server, ask: Callable[..., list[Prediction]]
) -> None:
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
def test_the_address_that_is_asked(server: Server, api_url: str, asked: str) -> None:
    assert options(server, api_url=api_url).url("/chat/completions") == asked


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


# Several at once


def test_answers_are_in_order_whichever_comes_first(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """Each answer waits for that of the next picture, so the last comes first."""
    given = [threading.Event() for _ in range(5)]
    given[4].set()

    def answer(asked: Asked) -> Answer:
        number = number_of(asked)
        assert given[number + 1].wait(_PATIENCE)
        given[number].set()
        return chat(f"picture {number}")

    server.answer = answer
    predictions = ask(*map(picture, range(4)), concurrency=4, batch_size=4)
    assert [each.text for each in predictions] == [f"picture {number}" for number in range(4)]


def test_no_more_at_once_than_concurrency_and_no_fewer(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """Two wait for each other; a third is never there."""
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
        pair.wait()  # neither is answered, and so no third asked, before both have been counted out
        return chat("1")

    server.answer = answer
    assert len(ask(*map(picture, range(8)), concurrency=2, batch_size=8)) == 8
    assert most == 2


def test_one_that_fails_costs_its_neighbours_nothing(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    server.answer = lambda asked: error(400) if number_of(asked) == 1 else chat(str(number_of(asked)))
    before, failed, after = ask(*map(picture, range(3)))
    assert (before.text, after.text) == ("0", "2")
    assert isinstance(failed.error, ModelError)
    assert failed.text == ""
    assert len(server.asked) == 3  # and is not asked again


# What comes back


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", Finish.STOP), ("length", Finish.LENGTH), (None, Finish.UNKNOWN), ("eos", Finish.UNKNOWN)],
)
def test_why_the_model_stopped(
    server: Server, ask: Callable[..., list[Prediction]], reason: str | None, finish: Finish
) -> None:
    server.answer = lambda _: chat("42", reason)
    (prediction,) = ask()
    assert (prediction.text, prediction.finish, prediction.error) == ("42", finish, None)
    assert prediction.device == f"127.0.0.1:{server.port}"


def test_a_reply_that_was_cut_off_before_it_began_is_one_that_was_cut_off(
    server: Server, ask: Callable[..., list[Prediction]]
) -> None:
    """As of a model that thinks for too long."""
    server.answer = lambda _: chat(None, "length")
    (prediction,) = ask()
    assert (prediction.text, prediction.finish, prediction.error) == ("", Finish.LENGTH, None)


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
def test_tokens_are_believed_if_they_are_the_text(
    server: Server, ask: Callable[..., list[Prediction]], logprobs: Any, tokens: tuple[Token, ...]
) -> None:
    server.answer = lambda _: chat("1042", logprobs=logprobs)
    (prediction,) = ask()
    assert (prediction.text, prediction.tokens, prediction.error) == ("1042", tokens, None)


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)), st.text(max_size=5))
def test_tokens_are_the_text_or_none(texts: list[str], more: list[str], other: str) -> None:
    whole = "".join(texts)
    tokens = [Token(text, -1.0) for text in texts + more]
    assert "".join(token.text for token in tokens_of(whole, tokens)) == whole
    for text in (other, whole + other):
        assert "".join(token.text for token in tokens_of(text, tokens)) in {text, ""}


@pytest.mark.parametrize(
    "body",
    [
        {
            "object": "chat.completion",
            "system_fingerprint": "fp_ollama",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "42", "reasoning": "hm"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        },
        {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "logprobs": None,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "42", "tool_calls": []},
                }
            ],
            "stats": {},
        },
        {
            "object": "chat.completion",
            "choices": [
                {
                    "finish_reason": "stop",
                    "index": 0,
                    "logprobs": None,
                    "message": {"content": "42", "refusal": None, "role": "assistant", "tool_calls": None},
                }
            ],
            "service_tier": None,
            "usage": None,
        },
    ],
    ids=["ollama", "lmstudio", "transformers"],
)
def test_the_replies_of_other_servers(server: Server, ask: Callable[..., list[Prediction]], body: object) -> None:
    server.answer = lambda _: Answer(json.dumps(body).encode())
    (prediction,) = ask()
    assert (prediction.text, prediction.finish, prediction.tokens) == ("42", Finish.STOP, ())


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (Answer(b"<html>hello</html>"), ModelReplyError, "no chat completion: <html>hello"),
        (Answer(b""), ModelReplyError, "no message"),
        (Answer(b"\xff\x00\x1b[31m\n{"), ModelReplyError, "no chat completion"),
        (Answer(b"[]"), ModelReplyError, "no chat completion"),
        (Answer(b'{"error": "model crashed"}'), ModelReplyError, "no chat completion: model crashed"),
        (Answer(b'{"choices": []}'), ModelReplyError, "no choices"),
        (Answer(b'{"choices": [{"message": {"content": [1]}}]}'), ModelReplyError, "no chat completion"),
        (chat(None), ModelReplyError, "no text"),
        (chat(""), ModelReplyError, "no text"),
        (chat("I cannot", "content_filter"), ModelReplyError, "content_filter"),
        (chat("half an ans", "abort"), ModelUnavailableError, "gave up"),
        (error(400, "max_tokens is too large"), ModelError, "400: max_tokens is too large"),
        (error(413), ModelError, "413: because"),
        (Answer(b'{"detail": [{"msg": "extra"}]}', 422), ModelError, "422: .*extra"),
        (error(401), ModelUnavailableError, r"wants a key: set api_key_file \(401\)"),
        (error(403), ModelUnavailableError, "wants a key"),
        (error(429, "slow down"), ModelUnavailableError, "429: slow down"),
        (error(500), ModelUnavailableError, "500: because"),
        (Answer(b"<html>\n Bad\n gateway", 502), ModelUnavailableError, "502: <html> Bad gateway"),
        (error(503, "The engine is currently busy"), ModelUnavailableError, "503: The engine is currently busy"),
        (Answer(b'{"error": "loading"}', 504), ModelUnavailableError, "504: loading"),
        (Answer(b"", 307, {"Location": "https://elsewhere"}), ModelUnavailableError, "307"),
        (Answer(b"no gzip", 200, {"Content-Encoding": "gzip"}), ModelUnavailableError, "broke"),
        (None, ModelUnavailableError, "broke"),
    ],
)
def test_what_is_no_answer_is_a_typed_error_on_one_line(
    server: Server, ask: Callable[..., list[Prediction]], answer: Answer | None, kind: type[ModelError], says: str
) -> None:
    server.answer = lambda _: answer
    (prediction,) = ask()
    assert type(prediction.error) is kind
    message = str(prediction.error)
    assert message.startswith(f"mine at 127.0.0.1:{server.port}")
    assert re.search(says, message)
    assert message.isprintable()
    assert (prediction.text, prediction.tokens) == ("", ())


def test_a_reply_that_breaks_off_is_none(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    def broken_off() -> Iterator[bytes]:
        yield chat("42").body
        raise BrokenPipeError

    server.answer = lambda _: Answer(b"", 200, {"Content-Length": "999"}, pieces=broken_off())
    (prediction,) = ask()
    assert type(prediction.error) is ModelUnavailableError
    assert "broke" in str(prediction.error)


def test_a_reply_without_end_is_given_up(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 1_000_000

    server.answer = lambda _: Answer(b"", 200, {"Content-Length": str(10**12)}, pieces=endless())
    (prediction,) = ask()
    assert isinstance(prediction.error, ModelReplyError)


@pytest.mark.parametrize("first", [b"", b" "])
def test_a_server_that_is_silent_or_drips_is_given_up(
    server: Server, ask: Callable[..., list[Prediction]], first: bytes
) -> None:
    """A drop every now and then is no answer: the time is for all of it."""

    def drops() -> Iterator[bytes]:
        while not server.stopped.wait(0.01):
            yield first

    server.answer = lambda _: Answer(b"", 200, {"Content-Length": str(10**9)}, pieces=drops())
    (prediction,) = ask(timeout_seconds=0.2)
    assert isinstance(prediction.error, ModelUnavailableError)
    assert "no whole reply within timeout_seconds = 0.2" in str(prediction.error)


def test_a_server_that_is_not_there(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    """It must not keep the daemon from starting, and costs no photo."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        first, second = ask(picture(1), picture(2), api_url=url)
        assert options(server, api_url=url).obstacle() == f"no server answers at {url[7:-3]}"
    for each in (first, second):
        assert type(each.error) is ModelUnavailableError
        assert "cannot be reached" in str(each.error)


def test_a_name_that_nobody_knows(
    server: Server, ask: Callable[..., list[Prediction]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    (prediction,) = ask(api_url="http://finish-gpu:8000/v1")
    assert type(prediction.error) is ModelUnavailableError
    assert "finish-gpu:8000 cannot be reached" in str(prediction.error)


def test_a_server_that_speaks_no_tls(server: Server, ask: Callable[..., list[Prediction]]) -> None:
    (prediction,) = ask(api_url=server.url.replace("http:", "https:"))
    assert type(prediction.error) is ModelUnavailableError


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (Answer(b'{"data": [{"id": "qwen"}, {"id": "llava"}]}'), "has no model 'smol'; it lists: qwen, llava"),
        (Answer(b'{"data": []}'), "it lists: none"),
        (Answer(b"?"), "has no model 'smol' "),
        (error(404), "has no model 'smol', or api_url is not the right one"),
        (None, "has no model 'smol' "),
    ],
)
def test_a_model_the_server_does_not_have(
    server: Server, ask: Callable[..., list[Prediction]], models: Answer | None, says: str
) -> None:
    """It is not the photo's fault, and the message helps to find the right name."""
    server.answer = lambda asked: models if asked.method == "GET" else error(404, "no such model")
    (prediction,) = ask()
    assert type(prediction.error) is ModelUnavailableError
    assert says in str(prediction.error)
    assert "404: no such model" in str(prediction.error)
    assert [asked.path for asked in server.asked] == ["/v1/chat/completions", "/v1/models"]


# Keys


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "api-key"
    path.write_text(f"{_SECRET}\n")
    return path


def test_the_key_is_sent_and_seen_nowhere(
    server: Server, key_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the server repeats it. It comes from a file in the folder that systemd names."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key_file.parent))
    runtime = VisionOpenAILikeApi(options(server, api_key_file="${CREDENTIALS_DIRECTORY}/api-key"))
    seen = [repr(runtime.options), runtime.options.model_dump_json(), json.dumps(runtime.options.identity())]
    with caplog.at_level(logging.DEBUG), runtime:
        for status in (200, 400, 401, 404, 500):
            server.answer = lambda _, status=status: error(status, f"Incorrect API key: {_SECRET}")
            (prediction,) = runtime.predict_batch([picture()], "?")
            seen += [str(prediction.error), repr(prediction)]
        seen += [repr(runtime), str(vars(runtime)), str(vars(runtime.options))]
    assert {asked.headers["Authorization"] for asked in server.asked} == {f"Bearer {_SECRET}"}
    assert caplog.text
    assert _SECRET not in "\n".join([*seen, caplog.text])


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_named_by_its_file(
    server: Server, ask: Callable[..., list[Prediction]], key_file: Path, status: int
) -> None:
    server.answer = lambda _: error(status)
    (prediction,) = ask(api_key_file=key_file)
    assert type(prediction.error) is ModelUnavailableError
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


def test_loading_asks_nobody(server: Server) -> None:
    with VisionOpenAILikeApi(options(server)):
        pass
    assert server.asked == []


def test_a_proxy_is_not_asked_about_a_server_on_this_machine(
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


def test_only_a_server_on_this_machine_is_knocked_at(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options(server).obstacle() is None

    def refused(*_: object, **__: object) -> NoReturn:
        raise AssertionError("somebody was asked")

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
        ({"model_name": ""}, "model_name"),
        ({"concurrency": 0}, "concurrency"),
        ({"jpeg_quality": 101}, "jpeg_quality"),
        ({"structured": "guided_json"}, "structured"),
        ({"api_key": "x"}, "api_key"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_options_that_cannot_be(server: Server, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        options(server, **changed)


@pytest.mark.parametrize("api_url", ["http://xn--/v1", "http://ex·/v1", "http://h/\x01"])
def test_an_address_that_is_none_after_all_is_a_configuration_error(server: Server, api_url: str) -> None:
    with pytest.raises(ConfigurationError, match="api_url"):
        VisionOpenAILikeApi(options(server, api_url=api_url)).load()


def test_the_same_model_elsewhere_gives_the_same_answers(server: Server, key_file: Path) -> None:
    """So results are not made again; of another model, or with other sampling, they are."""
    here = options(server)
    elsewhere = options(server, api_url="https://h/v1", api_key_file=key_file, concurrency=64, timeout_seconds=5)
    assert here.identity() == elsewhere.identity()
    assert here.identity() != options(server, model_name="other").identity()
    assert here.identity() != options(server, extra_body={"top_k": 1}).identity()
    assert here.model == "smol"
