"""The conversation with a server that speaks OpenAI's chat completions: a request in, a reply or a typed error out.

Knows HTTP and what servers answer when they cannot. Does not know pictures, prompts or options.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from bibwatch.errors import ConfigurationError, ModelError, ModelReplyError, ModelUnavailableError, one_line
from bibwatch.runtimes.base import Finish, Token
from bibwatch.runtimes.tokens import tokens_of

_MOST_BYTES = 16_000_000  # of a reply
_MESSAGE_LENGTH = 300  # characters of a server's message that are kept
_KEEP_ALIVE = (
    2.0  # seconds an idle connection is kept; vLLM closes its own after 5, and a request sent just then is lost
)
_REQUEST_TO_BLAME = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
}
_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH}
_ANY_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: JsonValue = None  # read apart: a reply without them is still a reply


class _Completion(BaseModel):
    choices: list[_Choice]


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
class Reply:
    """What a model answered."""

    text: str
    finish: Finish
    tokens: tuple[Token, ...]


class ChatServer:
    """One server. May be asked from several threads at once."""

    def __init__(
        self,
        url: str,
        models_url: str,
        *,
        where: str,
        key: str | None,
        key_file: str,
        timeout_seconds: float,
        connect_seconds: float,
        connections: int,
        proxies: bool,
    ) -> None:
        """`where` names the server in messages, `key_file` the key; `proxies` allows those of the environment.

        Raises ConfigurationError for an address that is none.
        """
        try:
            self._url, self._models_url = httpx.URL(url), httpx.URL(models_url)
            _ = self._url.host  # an international name is looked at only now
        except (httpx.InvalidURL, ValueError) as exc:
            raise ConfigurationError(f"{where}: api_url: {one_line(exc)}") from exc
        self._where = where
        self._key = key
        self._key_file = key_file
        self._seconds = timeout_seconds
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=connect_seconds),
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=_KEEP_ALIVE),
            trust_env=proxies,
        )

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """Send one request and return its reply. Raises ModelUnavailableError, ModelReplyError or ModelError."""
        status, body = self._exchange("POST", self._url, request)
        if status != HTTPStatus.OK:
            raise self._refusal(status, body, str(request.get("model")))
        return self._reply(body)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _exchange(self, method: str, url: httpx.URL, request: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        """Return status and body; the whole of it within the time, however slowly the server drips."""
        deadline = time.monotonic() + self._seconds
        body = bytearray()
        try:
            with self._client.stream(method, url, json=request) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the reply drips", request=response.request)
                    if len(body) > _MOST_BYTES:
                        raise ModelReplyError(f"{self._where}: a reply of over {_MOST_BYTES} bytes")
                return response.status_code, bytes(body)
        except httpx.ConnectTimeout as exc:
            raise ModelUnavailableError(f"{self._where}: no connection within connect_seconds") from exc
        except httpx.TimeoutException as exc:
            raise ModelUnavailableError(
                f"{self._where}: no whole reply within timeout_seconds = {self._seconds:g}"
            ) from exc
        except httpx.ConnectError as exc:
            raise ModelUnavailableError(f"{self._where} cannot be reached ({one_line(exc)})") from exc
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise ModelUnavailableError(f"{self._where}: the connection broke ({one_line(exc)})") from exc

    def _reply(self, body: bytes) -> Reply:
        try:
            completion = _Completion.model_validate_json(body)
        except ValidationError as exc:
            said = self._message(body)
            raise ModelReplyError(f"{self._where}: the answer is no chat completion: {said}") from exc
        if not completion.choices:
            raise ModelReplyError(f"{self._where}: the answer has no choices")
        choice = completion.choices[0]
        reason = choice.finish_reason
        finish = _FINISH.get(reason or "", Finish.UNKNOWN)
        text = choice.message.content
        if reason in {"abort", "error"}:
            raise ModelUnavailableError(f"{self._where}: the server gave up on the answer (finish_reason {reason})")
        if reason == "content_filter" or (not text and finish is not Finish.LENGTH):
            raise ModelReplyError(f"{self._where}: the answer has no text (finish_reason {reason})")
        return Reply(text=text or "", finish=finish, tokens=_tokens(text or "", choice.logprobs))

    def _refusal(self, status: int, body: bytes, model: str) -> ModelError:
        """Return the error for an answer that is none."""
        said = self._message(body)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            # The server's own words are left out: some repeat the key.
            what = f"refuses the key in {self._key_file}" if self._key else "wants a key: set api_key_file"
            return ModelUnavailableError(f"{self._where} {what} ({status})")
        if status == HTTPStatus.NOT_FOUND:
            return ModelUnavailableError(f"{self._where} {self._not_found(model)} (404: {said})")
        if status in _REQUEST_TO_BLAME:
            return ModelError(f"{self._where} refuses the request ({status}: {said})")
        return ModelUnavailableError(f"{self._where} cannot answer now ({status}: {said})")

    def _not_found(self, model: str) -> str:
        try:
            status, body = self._exchange("GET", self._models_url)
            if status != HTTPStatus.OK:
                return f"has no model {model!r}, or api_url is not the right one"
            names = ", ".join(model.id for model in _Models.model_validate_json(body).data)
        except (ModelError, ValidationError):
            return f"has no model {model!r}"
        return f"has no model {model!r}; it lists: {names[:_MESSAGE_LENGTH] or 'none'}"

    def _message(self, body: bytes) -> str:
        """Return what an answer says in its `error`, `detail` or `message`, else its beginning; never the key."""
        try:
            said = _ANY_JSON.validate_json(body)
        except ValidationError:
            said = body[: 4 * _MESSAGE_LENGTH].decode(errors="replace")
        while isinstance(said, dict):
            said = next((said[name] for name in ("error", "detail", "message") if said.get(name)), str(said))
        text = " ".join("".join(char if char.isprintable() else " " for char in str(said)).split())
        return (text.replace(self._key, "***") if self._key else text)[:_MESSAGE_LENGTH] or "no message"


def _tokens(text: str, logprobs: JsonValue) -> tuple[Token, ...]:
    try:
        listed = _Logprobs.model_validate(logprobs)
    except ValidationError:
        return ()
    return tokens_of(text, (Token(each.token, each.logprob) for each in listed.content))
