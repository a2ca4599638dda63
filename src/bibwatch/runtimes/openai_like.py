"""`vision_openailike_api`: a model behind a server that speaks OpenAI's chat completions.

vLLM, Ollama, LM Studio, `transformers serve` and others. Knows how a picture and a prompt become a request.
"""

from __future__ import annotations

import base64
import io
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import SplitResult, urlsplit

from PIL import Image
from pydantic import Field, JsonValue, field_validator

from bibwatch.errors import ConfigurationError, ModelError, ModelUnavailableError, one_line
from bibwatch.runtimes.base import Constraint, ModelOptions, Prediction
from bibwatch.runtimes.batches import BatchRuntime, GenerativeOptions

if TYPE_CHECKING:
    from bibwatch.runtimes.chat_completions import ChatServer

_COMPLETIONS = "/chat/completions"
_PORTS = {"http": 80, "https": 443}
_KNOCK_SECONDS = 0.3
_OWN = {"messages", "model", "stream"}  # of a request; nobody else may set them


class VisionOpenAILikeApiOptions(GenerativeOptions):
    """A model on a server. Photos are sent to `api_url` and nowhere else; writing it is the consent."""

    hardware_fields: ClassVar[frozenset[str]] = GenerativeOptions.hardware_fields | {
        "api_url",  # another server with the same model gives the same answers
        "api_key_file",
        "timeout_seconds",
        "connect_seconds",
        "concurrency",
    }

    kind: Literal["vision_openailike_api"] = "vision_openailike_api"
    api_url: str = Field(
        description="Such as http://127.0.0.1:8000/v1; one ending in /chat/completions is taken as it is."
    )
    model_name: str = Field(min_length=1, description="The name the server knows the model by.")
    api_key_file: Path | None = Field(
        default=None, description="File with the key; ${CREDENTIALS_DIRECTORY} in it is replaced."
    )
    timeout_seconds: float = Field(default=60, gt=0, description="Seconds an answer may take.")
    connect_seconds: float = Field(default=5, gt=0, description="Seconds a connection may take.")
    concurrency: int = Field(default=8, ge=1, le=256, description="Requests under way at once, within a batch.")
    longest_side: int | None = Field(
        default=1536, ge=32, description="Photos are made smaller than this many pixels before they are sent."
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="Of the pictures that are sent.")
    logprobs: bool = Field(default=True, description="Ask how sure the model is of each token; some servers tell.")
    structured: Literal["response_format", "structured_outputs"] = Field(
        default="response_format",
        description="How a reply is held to a form: OpenAI's way (JSON only), or vLLM's (patterns too).",
    )
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Added to every request last, over what is there: what a server takes beyond."
    )

    @field_validator("api_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("not a URL such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("a password does not belong into the URL; put the key into a file and set api_key_file")
        _ = parts.port  # raises ValueError itself for one that is none
        return url

    @field_validator("extra_body")
    @classmethod
    def _leaves_ours(cls, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_OWN & body.keys()):
            raise ValueError(f"may not set {', '.join(taken)}: bibwatch does")
        return body

    @property
    def model(self) -> str:
        return self.model_name

    @property
    def place(self) -> str:
        """Host and port; each prediction names it as its device."""
        host, port = self._address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def url(self, path: str) -> str:
        """Return the URL of one of the server's services, such as `/chat/completions`."""
        parts = urlsplit(self.api_url)
        base = parts.path.rstrip("/").removesuffix(_COMPLETIONS)
        return parts._replace(path=base + path).geturl()

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = self._address[0]
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def is_elsewhere(self) -> bool:
        return not self.is_local

    def obstacle(self) -> str | None:
        """Knock at a server on this machine; others are not asked unless there is something to read."""
        if self.refused or not self.is_local:
            return self.refused
        try:
            socket.create_connection(self._address, timeout=_KNOCK_SECONDS).close()
        except OSError:
            return f"no server answers at {self.place}"
        return None

    @property
    def _address(self) -> tuple[str, int]:
        parts: SplitResult = urlsplit(self.api_url)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]


class VisionOpenAILikeApi(BatchRuntime[VisionOpenAILikeApiOptions]):
    """Asks a server. One that is not there is the error of each image, and no reason not to start."""

    options_type: ClassVar[type[ModelOptions]] = VisionOpenAILikeApiOptions

    def __init__(self, options: VisionOpenAILikeApiOptions) -> None:
        super().__init__(options)
        self._server: ChatServer | None = None
        self._workers: ThreadPoolExecutor | None = None

    def load(self) -> None:
        """Read the key and make the client; the network is not touched yet."""
        if self._server is not None:
            return
        from bibwatch.runtimes.chat_completions import ChatServer

        options = self.options
        self._server = ChatServer(
            options.url(_COMPLETIONS),
            options.url("/models"),
            where=f"{options.name} at {options.place}",
            key=self._key(),
            key_file=str(options.api_key_file),
            timeout_seconds=options.timeout_seconds,
            connect_seconds=options.connect_seconds,
            connections=options.concurrency,
            proxies=not options.is_local,
        )
        self._workers = ThreadPoolExecutor(options.concurrency, thread_name_prefix=f"bibwatch-{options.name}")

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        server, workers = self._server, self._workers
        assert server is not None and workers is not None  # noqa: S101, PT018  # predict_batch loads
        form = self._form(constraint)
        return list(workers.map(lambda image: self._ask(server, image, prompt, form), images))

    def close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
        if self._server is not None:
            self._server.close()
        self._server = self._workers = None

    def _ask(self, server: ChatServer, image: Image.Image, prompt: str, form: dict[str, Any]) -> Prediction:
        device = self.options.place
        try:
            reply = server.ask(self._request(image, prompt) | form | self.options.extra_body)
        except ModelError as exc:
            return Prediction(device=device, error=exc)
        except Exception as exc:  # noqa: BLE001  # whatever goes wrong is this image's error, not its neighbours'
            return Prediction(device=device, error=ModelError(f"{self.options.name}: {one_line(exc)}"))
        return Prediction(text=reply.text, finish=reply.finish, tokens=reply.tokens, device=device)

    def _request(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        # The picture first: a server that keeps prefixes then has it ready for the next question about it.
        picture = {"type": "image_url", "image_url": {"url": _data_url(image, self.options.jpeg_quality)}}
        content = [picture, {"type": "text", "text": prompt}]
        options = self.options
        request: dict[str, Any] = {
            "model": options.model_name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,  # always: without it a server takes the model's own, seldom 0
        }
        # What not every server knows is sent only where it is wanted.
        if options.top_p < 1:
            request["top_p"] = options.top_p
        if options.seed is not None:
            request["seed"] = options.seed
        if options.logprobs:
            request["logprobs"] = True
        if options.stop:
            request["stop"] = list(options.stop)
        if not options.skip_special_tokens:
            request["skip_special_tokens"] = False
        return request

    def _form(self, constraint: Constraint | None) -> dict[str, Any]:
        """Return what holds a reply to a form, in the server's words."""
        if constraint is None or constraint == Constraint():
            return {}
        schema, regex = constraint.json_schema, constraint.regex
        if self.options.structured == "structured_outputs":
            return {"structured_outputs": {"json": schema} if schema is not None else {"regex": regex}}
        if schema is None:
            raise ModelUnavailableError(
                f"{self.options.name}: response_format takes no regular expression; "
                'for a vLLM server set structured = "structured_outputs"'
            )
        json_schema = {"name": "reply", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}

    def _key(self) -> str | None:
        if self.options.api_key_file is None:
            return None
        path = Path(os.path.expandvars(self.options.api_key_file)).expanduser()
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise ConfigurationError(f"preset {self.options.name}: api_key_file {path}: {reason}") from exc
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigurationError(
                f"preset {self.options.name}: api_key_file {path}: not one line of plain characters"
            )
        return key


def _data_url(image: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
