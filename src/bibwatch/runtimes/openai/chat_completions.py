"""The conversation with a server that speaks OpenAI's chat completions: a request in, a reply or a typed error out.

Knows HTTP and what servers answer when they cannot; one server, asked once. Does not know pictures, prompts or
options, nor when to ask again.
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

_MOST_BYTES = 16_000_000  # of a reply
_MESSAGE_LENGTH = 300  # characters of a server's message that are kept
_KEEP_ALIVE = (
    2.0  # seconds an idle connection is kept; vLLM closes its own after 5, and a request sent just then is lost
)
_JSON = {"Content-Type": "application/json"}
_REFUSALS: tuple[tuple[Container[int], type[ModelError], str], ...] = (
    ({400, 413, 415, 422}, ModelRejectedError, "refuses the request"),
    ({429, 502, 503}, ModelBusyError, "has no time now"),
    ({408, 504}, ModelTimeoutError, "was not in time"),
    (range(500, 600), ModelFaultError, "failed"),
    (range(1000), ModelNotServedError, "does not take the request; is api_url right?"),
)
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
_ANY_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)
_MORE_EXACTLY = re.compile(r"-\d[-\d]*|[@:].*")  # what a server may add to a model's name: a date, a revision, a tag

# What these two log are the server's own words too, and some servers repeat the key.
for _talkative in ("httpx", "httpcore.http11"):
    logging.getLogger(_talkative).setLevel(logging.WARNING)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: JsonValue = None  # read apart: a reply without them is still a reply


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Completion(BaseModel):
    choices: list[_Choice]
    model: str | None = None
    usage: JsonValue = None  # as above


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
class HttpAnswer:
    """What a server sent back, before anybody has looked into it."""

    status: int
    body: bytes
    retry_after: str | None


@dataclass(frozen=True)
class ChatReply:
    """What a model answered."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[Token, ...]
    usage: Usage | None
    place: str  # the server's


@dataclass(frozen=True)
class Access:
    """How a server is reached: the key and the name of its file, the authority to trust, seconds, proxies or none."""

    key: str | None = field(repr=False)
    key_file: str
    ca_file: Path | None
    timeout_seconds: float
    connect_seconds: float
    connections: int
    proxies: bool  # those of the environment


class ChatServer:
    """One server. May be asked from several threads at once."""

    def __init__(self, url: str, models_url: str, *, name: str, place: str, model: str, access: Access) -> None:
        """`name` and `place` name preset and server in messages, `model` is what is asked for.

        Raises ConfigurationError for an address or a file of certificates that is none.
        """
        self.place = place
        self._where = f"{name} at {place}"
        self._model = model
        try:
            self._url, self._models_url = httpx.URL(url), httpx.URL(models_url)
            _ = self._url.host  # an international name is looked at only now
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

    def send(self, body: bytes) -> HttpAnswer:
        """Send one request, written as JSON, and return what comes back. Raises ModelUnavailableError."""
        return self._exchange("POST", self._url, body)

    def read(self, answer: HttpAnswer, most_tokens: int) -> ChatReply:
        """Return the reply in an answer. Raises ModelError, of the kind that fits.

        A reply of more than `most_tokens` is none: the server did not do what it was asked.
        """
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ModelNotServedError(f"{self._where} {self._not_found()} (404: {self._message(answer.body)})")
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer)
        return self._reply(answer.body, most_tokens)

    def models(self) -> list[str]:
        """Return the names of the models the server lists. Raises ModelError."""
        answer = self._exchange("GET", self._models_url)
        if answer.status != HTTPStatus.OK:
            raise self._refusal(answer)
        try:
            return [self._masked(model.id) for model in _Models.model_validate_json(answer.body).data]
        except ValidationError as exc:
            raise ModelFaultError(f"{self._where}: the list of models is none: {self._message(answer.body)}") from exc

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _exchange(self, method: str, url: httpx.URL, body: bytes | None = None) -> HttpAnswer:
        """Return the whole answer within the time, however slowly the server drips."""
        seconds = self._access.timeout_seconds
        deadline = time.monotonic() + seconds
        answer = bytearray()
        try:
            with self._client.stream(method, url, content=body, headers=_JSON if body else None) as response:
                for chunk in response.iter_bytes():
                    answer += chunk
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the reply drips", request=response.request)
                    if len(answer) > _MOST_BYTES:
                        raise ModelFaultError(f"{self._where}: a reply of over {_MOST_BYTES} bytes")
                return HttpAnswer(response.status_code, bytes(answer), response.headers.get("Retry-After"))
        except httpx.ConnectTimeout as exc:
            raise ModelUnreachableError(f"{self._where}: no connection within connect_seconds") from exc
        except httpx.TimeoutException as exc:
            raise ModelTimeoutError(f"{self._where}: no whole reply within timeout_seconds = {seconds:g}") from exc
        except httpx.ConnectError as exc:
            hint = "; set ca_file to who signed it" if "CERTIFICATE_VERIFY_FAILED" in str(exc) else ""
            raise ModelUnreachableError(f"{self._where} cannot be reached ({self._said(exc)}{hint})") from exc
        except httpx.DecodingError as exc:
            raise ModelFaultError(f"{self._where}: the answer cannot be unpacked ({self._said(exc)})") from exc
        except RuntimeError as exc:  # the client was closed meanwhile
            raise ModelUnreachableError(f"{self._where}: the connection was closed ({self._said(exc)})") from exc
        except httpx.HTTPError as exc:
            raise ModelDisconnectedError(f"{self._where}: the connection broke ({self._said(exc)})") from exc

    def _reply(self, body: bytes, most_tokens: int) -> ChatReply:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError as exc:
            raise ModelFaultError(f"{self._where}: the answer is no chat completion: {self._message(body)}") from exc
        self._check_model(completion.model)
        if len(completion.choices) != 1:
            raise ModelFaultError(f"{self._where}: the answer has {len(completion.choices) or 'no'} choices, not one")
        choice = completion.choices[0]
        reason = choice.finish_reason
        why = f"finish_reason {self._said(reason)}"
        finish = _FINISH.get(reason or "", FinishReason.UNKNOWN)
        text = self._masked(choice.message.content or "")
        usage = _usage(completion.usage)
        if reason in {"abort", "error"}:
            raise ModelFaultError(f"{self._where}: the server gave up on the answer ({why})")
        if reason == "content_filter" or (not text and finish is not FinishReason.LENGTH):
            raise ModelReplyError(f"{self._where}: the answer has no text ({why})")
        if usage and usage.completion_tokens > most_tokens:
            raise ModelReplyError(
                f"{self._where}: an answer of {usage.completion_tokens} tokens where {most_tokens} are allowed"
            )
        tokens = _tokens(text, choice.logprobs)
        return ChatReply(text=text, finish_reason=finish, tokens=tokens, usage=usage, place=self.place)

    def _check_model(self, answered: str | None) -> None:
        """Raise ModelNotServedError if another model answered than was asked: its numbers would go by a wrong name."""
        if not answered:
            return
        asked, told = (name.rpartition("/")[2].casefold() for name in (self._model, answered))
        if not told.startswith(asked) or (told != asked and not _MORE_EXACTLY.fullmatch(told.removeprefix(asked))):
            raise ModelNotServedError(
                f"{self._where}: {self._said(answered)} answers, not {self._model}; "
                "if that is the one you want, name it in model_name"
            )

    def _refusal(self, answer: HttpAnswer) -> ModelError:
        """Return the error for an answer that is no reply."""
        status, said = answer.status, self._message(answer.body)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            # The server's own words are left out: some repeat the key.
            what = (
                f"refuses the key in {self._access.key_file}" if self._access.key else "wants a key: set api_key_file"
            )
            return ModelNotServedError(f"{self._where} {what} ({status})")
        kind, what = next((kind, what) for statuses, kind, what in _REFUSALS if status in statuses)
        error = kind(f"{self._where} {what} ({status}: {said})")
        if error.retry is Retry.LATER:
            error.retry_after = _seconds(answer.retry_after)
        return error

    def _not_found(self) -> str:
        try:
            names = self._said(", ".join(self.models()))
        except ModelNotServedError:
            return f"has no model {self._model!r}, or api_url is not the right one"
        except ModelError:
            return f"has no model {self._model!r}"
        return f"has no model {self._model!r}; it lists: {names or 'none'}"

    def _message(self, body: bytes) -> str:
        """Return what an answer says in its `error`, `detail` or `message`, else its beginning."""
        said: object
        try:
            said = _ANY_JSON.validate_json(body)
        except ValidationError:
            said = body.decode(errors="replace")
        while isinstance(said, dict):
            said = next((said[name] for name in ("error", "detail", "message") if said.get(name)), str(said))
        return self._said(said) or "no message"

    def _said(self, words: object) -> str:
        """Return words of the server on one line, the first of them; never the key."""
        text = self._masked(str(words))  # before anything is cut off: half a key is one too
        text = "".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE_LENGTH])
        return " ".join(text.split())[:_MESSAGE_LENGTH]

    def _masked(self, text: str) -> str:
        """Return what a server says without the key, which some repeat."""
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
    """Return what a Retry-After header asks for, which is seconds or a date; None if it is neither."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, or one without a time zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _trust(ca_file: Path | None, where: str) -> ssl.SSLContext | bool:
    """Return whose certificates to trust. Raises ConfigurationError."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"{where}: ca_file {ca_file}: {one_line(exc)}") from exc
