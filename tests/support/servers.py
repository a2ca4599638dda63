"""A small real HTTP server that stands where a model's server would, and answers what a test tells it to."""

from __future__ import annotations

import base64
import io
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

_WIDTH = 32


def picture(number: int = 0) -> Image.Image:
    """Make a picture that can be told from others by its width."""
    return Image.new("RGB", (_WIDTH + number, _WIDTH), "white")


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def jpeg(self) -> bytes:
        url: str = self.body["messages"][0]["content"][0]["image_url"]["url"]
        return base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))

    @property
    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.jpeg))

    @property
    def number(self) -> int:
        """That of its `picture`."""
        return self.picture.width - _WIDTH


@dataclass
class Answer:
    """What the server says; `pieces`, if there are any, are sent one by one for as long as they come."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None


def chat(
    content: str | None,
    finish: str | None = "stop",
    *,
    model: str | None = None,
    completion_tokens: int | None = None,
    choices: int = 1,
    **choice: Any,
) -> Answer:
    """Write a chat completion the way vLLM does; `completion_tokens` are the tokens it says it wrote."""
    said = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish, **choice}
    body: dict[str, Any] = {"id": "1", "object": "chat.completion", "choices": [said] * choices, "usage": {}}
    if model is not None:
        body["model"] = model
    if completion_tokens is not None:
        body["usage"] = {
            "prompt_tokens": 700,
            "completion_tokens": completion_tokens,
            "total_tokens": 700 + completion_tokens,
        }
    return Answer(json.dumps(body).encode())


def error(status: int, message: str = "because", **headers: str) -> Answer:
    """Write an error the way vLLM does; in the name of a header a hyphen is written as an underscore."""
    body = {"error": {"message": message, "type": "x", "param": None, "code": status}}
    return Answer(json.dumps(body).encode(), status, {name.replace("_", "-"): text for name, text in headers.items()})


def ollama(content: str, model: str) -> Answer:
    """Write a chat completion the way Ollama does (`ToChatCompletion` in its openai/openai.go)."""
    said = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 700, "completion_tokens": 3, "total_tokens": 703}
    about = {"id": "chatcmpl-529", "object": "chat.completion", "created": 1760000000, "model": model}
    return Answer(
        json.dumps({**about, "system_fingerprint": "fp_ollama", "choices": [said], "usage": usage}).encode(),
    )


def transformers_serve(content: str, model: str) -> Answer:
    """Write a chat completion the way `transformers serve` does: what is None is left out."""
    said = {"finish_reason": "stop", "index": 0, "message": {"content": content, "role": "assistant"}}
    usage = {"completion_tokens": 3, "prompt_tokens": 700, "total_tokens": 703}
    about = {"id": "8e2f", "created": 1760000000, "model": f"{model}@main", "object": "chat.completion"}
    return Answer(json.dumps({**about, "choices": [said], "usage": usage}).encode())


def lm_studio(content: str, model: str) -> Answer:
    """Write a chat completion the way LM Studio does."""
    message = {"role": "assistant", "content": content, "tool_calls": []}
    said = {"index": 0, "logprobs": None, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 700, "completion_tokens": 3, "total_tokens": 703}
    about = {"id": "chatcmpl-a1", "object": "chat.completion", "created": 1760000000, "model": model}
    more = {"stats": {}, "system_fingerprint": model}
    return Answer(json.dumps({**about, "choices": [said], "usage": usage, **more}).encode())


class Server:
    """A server that records what it is asked and answers what it is told to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.most_under_way = 0  # requests at once
        self._under_way = 0
        self._count = threading.Lock()
        self.answer: Callable[[Asked], Answer | None] = lambda asked: chat("1024")
        self.stopped = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if tls:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_port
        self.place = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.place}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def posts(self) -> int:
        """How often it was asked for an answer, and not which models it has."""
        return sum(asked.method == "POST" for asked in self.asked)

    def answer_counted(self, asked: Asked) -> Answer | None:
        """Answer, and count how many are answered at once."""
        with self._count:
            self._under_way += 1
            self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            return self.answer(asked)
        finally:
            with self._count:  # before the answer is sent: when the client has it, this one is over
                self._under_way -= 1

    def stop(self) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are written apart; the second must not wait for the client

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._take("null")

            def do_POST(self) -> None:
                self._take(self.rfile.read(int(self.headers["Content-Length"])))

            def _take(self, body: bytes | str) -> None:
                asked = Asked(self.command, self.path, dict(self.headers), json.loads(body))
                server.asked.append(asked)
                answer = server.answer_counted(asked)
                if answer is None:  # hang up
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(answer.body)
                    for piece in answer.pieces or ():
                        self.wfile.write(piece)
                except OSError:  # the client had enough
                    self.close_connection = True

        return Handler
