"""`vision_openailike_api`: a model on one or more servers with OpenAI's chat completions API.

vLLM, Ollama, LM Studio, `transformers serve` and others. Knows how to make a request of an image and a prompt.
"""

from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from bibwatch.errors import ConfigurationError, ModelError, ModelUnavailableError, one_line
from bibwatch.runtimes.base import Constraint, ModelOptions, Prediction
from bibwatch.runtimes.generative import SHORT_ANSWER_TOKENS, BatchRuntime
from bibwatch.runtimes.openai.options import COMPLETIONS, Address, VisionOpenAILikeApiOptions

if TYPE_CHECKING:
    from bibwatch.runtimes.openai.chat_completions import ChatServer
    from bibwatch.runtimes.openai.servers import Servers


class VisionOpenAILikeApi(BatchRuntime[VisionOpenAILikeApiOptions]):
    """A model on a server. If the server is down, each image gets an error; `load` still succeeds."""

    options_type: ClassVar[type[ModelOptions]] = VisionOpenAILikeApiOptions

    def __init__(self, options: VisionOpenAILikeApiOptions) -> None:
        super().__init__(options)
        self._servers: Servers | None = None
        self._workers: ThreadPoolExecutor | None = None
        self._per_thread = threading.local()

    def load(self) -> None:
        """Load the key and create the clients, without sending any request."""
        if self._servers is not None:
            return
        from bibwatch.runtimes.openai.servers import Servers

        options = self.options
        servers = [self.server(address) for address in options.addresses]
        self._servers = Servers(servers, concurrency=options.concurrency, retries=options.retries)
        # Twice the requests in flight, to encode the next images in the meantime.
        self._workers = ThreadPoolExecutor(2 * self._max_in_flight, thread_name_prefix=f"bibwatch-{options.name}")

    def server(self, address: Address) -> ChatServer:
        """Return a client for one of the servers. Raises ConfigurationError for an invalid key, URL or certificate."""
        from bibwatch.runtimes.openai.chat_completions import Access, ChatServer

        options = self.options
        access = Access(
            key=self._key(),
            key_file=str(options.api_key_file),
            ca_file=_expanded(options.ca_file) if options.ca_file else None,
            timeout_seconds=options.timeout_seconds,
            connect_seconds=options.connect_seconds,
            connections=options.concurrency,
            proxies=not address.is_local,
        )
        return ChatServer(
            address.endpoint(COMPLETIONS),
            address.endpoint("/models"),
            name=options.name,
            place=address.place,
            model=options.model_name,
            access=access,
        )

    def served_models(self) -> list[str]:
        """Return the names of the models that the first server lists. Raises ModelError."""
        server = self.server(self.options.addresses[0])
        try:
            return server.models()
        finally:
            server.close()

    @property
    def concurrent_calls(self) -> int:
        # One more than needed to keep the servers busy: one batch can be recorded while the next is read.
        return 1 + -(-self._max_in_flight // self.options.batch_size)

    @property
    def _max_in_flight(self) -> int:
        return self.options.concurrency * len(self.options.addresses)

    @contextmanager
    def short_answers(self) -> Iterator[None]:
        """Cut short the replies for the calling thread only: other threads may be reading photos."""
        self._per_thread.short = True
        try:
            yield
        finally:
            self._per_thread.short = False

    def generate(
        self, images: Sequence[Image.Image], prompt: str, constraint: Constraint | None
    ) -> Sequence[Prediction]:
        servers, workers = self._servers, self._workers
        if servers is None or workers is None:
            raise ModelUnavailableError(f"{self.options.name} has been closed")
        is_short = getattr(self._per_thread, "short", False)
        limit = min(SHORT_ANSWER_TOKENS, self.options.max_new_tokens) if is_short else None
        fields = self._constrained(constraint) | self.options.extra_body | ({"max_tokens": limit} if limit else {})
        try:
            return list(workers.map(lambda image: self._ask(servers, image, prompt, fields), images))
        except (CancelledError, RuntimeError) as exc:  # the executor was shut down
            raise ModelUnavailableError(f"{self.options.name} has been closed") from exc

    def close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
        if self._servers is not None:
            self._servers.close()
        self._servers = self._workers = None

    def _ask(self, servers: Servers, image: Image.Image, prompt: str, fields: dict[str, Any]) -> Prediction:
        device = self.options.place
        try:
            request = self._request(image, prompt) | fields
            # Encoded once, even if it is retried.
            reply = servers.ask(json.dumps(request).encode(), int(request["max_tokens"]))
        except ModelError as exc:
            return Prediction(device=device, error=exc)
        except Exception as exc:  # noqa: BLE001  # it must not affect the other images
            return Prediction(device=device, error=ModelError(f"{self.options.name}: {one_line(exc)}"))
        return Prediction(
            text=reply.text,
            finish_reason=reply.finish_reason,
            tokens=reply.tokens,
            usage=reply.usage,
            device=reply.place,
        )

    def _request(self, image: Image.Image, prompt: str) -> dict[str, Any]:
        # The image comes first: a server that caches prefixes can then reuse it for the next prompt.
        image_part = {"type": "image_url", "image_url": {"url": _data_url(image, self.options.jpeg_quality)}}
        content = [image_part, {"type": "text", "text": prompt}]
        options = self.options
        request: dict[str, Any] = {
            "model": options.model_name,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,  # always sent: the server's default is the model's, rarely 0
        }
        # Not every server supports these: they are sent only if set.
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

    def _constrained(self, constraint: Constraint | None) -> dict[str, Any]:
        """Return the request fields that constrain the reply."""
        if constraint is None or constraint == Constraint():
            return {}
        schema, regex = constraint.json_schema, constraint.regex
        if self.options.structured == "structured_outputs":
            return {"structured_outputs": {"json": schema} if schema is not None else {"regex": regex}}
        if schema is None:
            raise ModelUnavailableError(
                f"{self.options.name}: response_format does not support regular expressions; "
                'for a vLLM server set structured = "structured_outputs"'
            )
        json_schema = {"name": "reply", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}

    def _key(self) -> str | None:
        if self.options.api_key_file is None:
            return None
        path = _expanded(self.options.api_key_file)
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not text"
            raise ConfigurationError(f"preset {self.options.name}: api_key_file {path}: {reason}") from exc
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigurationError(
                f"preset {self.options.name}: api_key_file {path}: not one line of printable ASCII"
            )
        return key


def _data_url(image: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _expanded(path: Path) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
