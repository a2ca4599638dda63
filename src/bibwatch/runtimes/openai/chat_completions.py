"""A client for one server with OpenAI's chat completions API: a request in, a reply or a typed error out.

Knows HTTP and the ways in which servers fail. Does not know images, prompts or options, and never retries.
"""

from __future__ import annotations

import logging
import math
import re
import ssl
import time
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

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
    ModelUnreachableError,
    Retry,
    one_line,
)
from bibwatch.runtimes.base import FinishReason, Token, Usage
from bibwatch.runtimes.tokens import tokens_of

_MAX_BYTES = 16_000_000  # of a response
_MESSAGE_LENGTH = 300  # characters kept of a server's message
# Seconds an idle connection is kept. vLLM closes its end after 5, and a request sent at that moment is lost.
_KEEP_ALIVE = 2.0
_JSON = {"Content-Type": "application/json"}
_REFUSALS: tuple[tuple[Container[int], type[ModelError], str], ...] = (
    ({400, 413, 415, 422}, ModelRejectedError, "refuses the request"),
    ({429, 502, 503}, ModelBusyError, "is busy"),
    ({408, 504}, ModelTimeoutError, "timed out"),
    (range(500, 600), ModelFaultError, "failed"),
    (range(1000), ModelNotServedError, "does not accept the request; is api_url right?"),
)
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_ANY_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
_SUFFIX = re.compile(r"-\d[-\d]*|[@:].*")  # a server may append a date, a revision or a tag to a model's name

# Below WARNING, these also log what the server sent, which may include the key.
for _logger in ("httpx", "httpcore.http11"):
    logging.getLogger(_logger).setLevel(logging.WARNING)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: JsonValue = None  # validated separately: a reply without valid ones is still a reply


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Completion(BaseModel):
    choices: list[_Choice]
    model: str | None = None
    usage: JsonValue = None  # likewise


class _TokenLogprob(BaseModel):
    token: str
    logprob: float


class _Logprobs(BaseModel):
    content: list[_TokenLogprob]


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


@dataclass(frozen=True)
class HttpResponse:
    """A server's response, not interpreted yet."""

    status: int
    body: bytes
    retry_after: str | None


@dataclass(frozen=True)
class ChatReply:
    """A model's reply."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[Token, ...]
    usage: Usage | None
    place: str  # host and port of the server


@dataclass(frozen=True)
class Access:
    """How to connect to a server."""

    key: str | None = field(repr=False)
    key_file: str  # for messages
    ca_file: Path | None  # certificates to trust
    timeout_seconds: float
    connect_seconds: float
    connections: int
    proxies: bool  # whether to use the proxies set in the environment


class ChatServer:
    """A client for one server. Thread-safe."""

    def __init__(self, url: str, models_url: str, *, name: str, place: str, model: str, access: Access) -> None:
        """Create a client for `model`; `name` (the preset's) and `place` (the server's) are for messages.

        Raises ConfigurationError for an invalid URL or certificate file.
        """
        self.place = place
        self._where = f"{name} at {place}"
        self._model = model
        try:
            self._url, self._models_url = httpx.URL(url), httpx.URL(models_url)
            _ = self._url.host  # validates an international host name
        except (httpx.InvalidURL, ValueError) as exc:
            raise ConfigurationError(f"{self._where}: api_url: {one_line(exc)}") from exc
        self._access = access
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {access.key}"} if access.key else {},
            timeout=httpx.Timeout(access.timeout_seconds, connect=access.connect_seconds),
            limits=httpx.Limits(max_connections=access.connections, keepalive_expiry=_KEEP_ALIVE),
            trust_env=access.proxies,
            verify=_trust(access.ca_file, self._where),
        )

    def send(self, body: bytes) -> HttpResponse:
        """Send one request, already encoded as JSON, and return the response. Raises ModelUnavailableError."""
        return self._exchange("POST", self._url, body)

    def parse(self, response: HttpResponse, max_tokens: int) -> ChatReply:
        """Return the reply in a response. Raises ModelError, also for a reply of more than `max_tokens` tokens."""
        if response.status == HTTPStatus.NOT_FOUND:
            raise ModelNotServedError(f"{self._where} {self._not_found()} (404: {self._message(response.body)})")
        if response.status != HTTPStatus.OK:
            raise self._error(response)
        return self._reply(response.body, max_tokens)

    def models(self) -> list[str]:
        """Return the names of the models that the server lists. Raises ModelError."""
        response = self._exchange("GET", self._models_url)
        if response.status != HTTPStatus.OK:
            raise self._error(response)
        try:
            return [self._masked(model.id) for model in _Models.model_validate_json(response.body).data]
        except ValidationError as exc:
            raise ModelFaultError(
                f"{self._where}: the list of models is invalid: {self._message(response.body)}"
            ) from exc

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _exchange(self, method: str, url: httpx.URL, body: bytes | None = None) -> HttpResponse:
        """Return the complete response. Raises ModelTimeoutError after `timeout_seconds`, even mid-response."""
        seconds = self._access.timeout_seconds
        deadline = time.monotonic() + seconds
        received = bytearray()
        try:
            with self._client.stream(method, url, content=body, headers=_JSON if body else None) as response:
                for chunk in response.iter_bytes():
                    received += chunk
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("too slow", request=response.request)
                    if len(received) > _MAX_BYTES:
                        raise ModelFaultError(f"{self._where}: the response is larger than {_MAX_BYTES} bytes")
                return HttpResponse(response.status_code, bytes(received), response.headers.get("Retry-After"))
        except httpx.ConnectTimeout as exc:
            raise ModelUnreachableError(f"{self._where}: no connection within connect_seconds") from exc
        except httpx.TimeoutException as exc:
            raise ModelTimeoutError(
                f"{self._where}: no complete response within timeout_seconds = {seconds:g}"
            ) from exc
        except httpx.ConnectError as exc:
            hint = "; set ca_file to the authority that signed it" if "CERTIFICATE_VERIFY_FAILED" in str(exc) else ""
            raise ModelUnreachableError(f"{self._where} cannot be reached ({self._excerpt(exc)}{hint})") from exc
        except httpx.DecodingError as exc:
            raise ModelFaultError(f"{self._where}: the response cannot be decompressed ({self._excerpt(exc)})") from exc
        except RuntimeError as exc:  # the client has been closed
            raise ModelUnreachableError(f"{self._where}: the connection was closed ({self._excerpt(exc)})") from exc
        except httpx.HTTPError as exc:
            raise ModelDisconnectedError(f"{self._where}: the connection broke ({self._excerpt(exc)})") from exc

    def _reply(self, body: bytes, max_tokens: int) -> ChatReply:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError as exc:
            raise ModelFaultError(
                f"{self._where}: the response is not a chat completion: {self._message(body)}"
            ) from exc
        self._check_model(completion.model)
        if len(completion.choices) != 1:
            raise ModelFaultError(f"{self._where}: the response has {len(completion.choices) or 'no'} choices, not one")
        choice = completion.choices[0]
        reason = choice.finish_reason
        why = f"finish_reason {self._excerpt(reason)}"
        finish = _FINISH.get(reason or "", FinishReason.UNKNOWN)
        text = self._masked(choice.message.content or "")
        usage = _usage(completion.usage)
        if reason in {"abort", "error"}:
            raise ModelFaultError(f"{self._where}: the server aborted the reply ({why})")
        if reason == "content_filter" or (not text and finish is not FinishReason.LENGTH):
            raise ModelReplyError(f"{self._where}: the reply has no text ({why})")
        if usage and usage.completion_tokens > max_tokens:
            raise ModelReplyError(
                f"{self._where}: the reply has {usage.completion_tokens} tokens, more than the {max_tokens} allowed"
            )
        tokens = _tokens(text, choice.logprobs)
        return ChatReply(text=text, finish_reason=finish, tokens=tokens, usage=usage, place=self.place)

    def _check_model(self, named: str | None) -> None:
        """Raise ModelNotServedError if another model replied: its results would be recorded under the wrong name."""
        if not named:
            return
        wanted, replied = (name.rpartition("/")[2].casefold() for name in (self._model, named))
        if not replied.startswith(wanted) or not (replied == wanted or _SUFFIX.fullmatch(replied.removeprefix(wanted))):
            raise ModelNotServedError(
                f"{self._where}: {self._excerpt(named)} replied, not {self._model}; "
                "if that is the model you want, set model_name to it"
            )

    def _error(self, response: HttpResponse) -> ModelError:
        """Return the error for an unsuccessful response."""
        status, message = response.status, self._message(response.body)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            # The server's message is left out: it may contain the key.
            refused = f"refuses the key in {self._access.key_file}"
            what = refused if self._access.key else "requires a key: set api_key_file"
            return ModelNotServedError(f"{self._where} {what} ({status})")
        kind, what = next((kind, what) for statuses, kind, what in _REFUSALS if status in statuses)
        error = kind(f"{self._where} {what} ({status}: {message})")
        if error.retry is Retry.LATER:
            error.retry_after = _seconds(response.retry_after)
        return error

    def _not_found(self) -> str:
        try:
            names = self._excerpt(", ".join(self.models()))
        except ModelNotServedError:
            return f"has no model {self._model!r}, or api_url is wrong"
        except ModelError:
            return f"has no model {self._model!r}"
        return f"has no model {self._model!r}; it lists: {names or 'none'}"

    def _message(self, body: bytes) -> str:
        """Return the `error`, `detail` or `message` of a response, otherwise its beginning."""
        message: object
        try:
            message = _ANY_JSON.validate_json(body)
        except ValidationError:
            message = body.decode(errors="replace")
        while isinstance(message, dict):
            message = next(
                (message[name] for name in ("error", "detail", "message") if message.get(name)), str(message)
            )
        return self._excerpt(message) or "no message"

    def _excerpt(self, message: object) -> str:
        """Return the beginning of a server's message on one line, without the key."""
        text = self._masked(str(message))  # before truncation: part of a key is secret, too
        text = "".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE_LENGTH])
        return " ".join(text.split())[:_MESSAGE_LENGTH]

    def _masked(self, text: str) -> str:
        """Return a server's text without the key, which some servers repeat."""
        return text.replace(self._access.key, "***") if self._access.key else text


def _tokens(text: str, logprobs: JsonValue) -> tuple[Token, ...]:
    try:
        listed = _Logprobs.model_validate(logprobs)
    except ValidationError:
        return ()
    return tokens_of(text, (Token(each.token, each.logprob) for each in listed.content))


def _usage(usage: JsonValue) -> Usage | None:
    try:
        counted = _Usage.model_validate(usage)
    except ValidationError:
        return None
    return Usage(counted.prompt_tokens, counted.completion_tokens)


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which may be a number or a date; None if it is neither."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # not a date, or a date without a time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _trust(ca_file: Path | None, where: str) -> ssl.SSLContext | bool:
    """Return the `verify` argument for httpx. Raises ConfigurationError."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"{where}: ca_file {ca_file}: {one_line(exc)}") from exc
