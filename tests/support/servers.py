"""A small real HTTP server that stands where a model's server would, and answers what a test tells it to."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def picture(self) -> Image.Image:
        url: str = self.body["messages"][0]["content"][0]["image_url"]["url"]
        return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))


@dataclass
class Answer:
    """What the server says; `pieces`, if there are any, are sent one by one for as long as they come."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None


def chat(content: str | None, finish: str | None = "stop", **choice: Any) -> Answer:
    """Write a chat completion the way vLLM does."""
    said = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish, **choice}
    return Answer(json.dumps({"id": "1", "object": "chat.completion", "choices": [said], "usage": {}}).encode())


def error(status: int, message: str = "because") -> Answer:
    return Answer(json.dumps({"error": {"message": message, "type": "x", "code": status}}).encode(), status)


class Server:
    """A server that records what it is asked and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Callable[[Asked], Answer | None] = lambda asked: chat("1024")
        self.stopped = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._take("null")

            def do_POST(self) -> None:
                self._take(self.rfile.read(int(self.headers["Content-Length"])))

            def _take(self, body: bytes | str) -> None:
                asked = Asked(self.command, self.path, dict(self.headers), json.loads(body))
                server.asked.append(asked)
                answer = server.answer(asked)
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
