"""The options of `vision_openailike_api`: its servers, and how to send requests to them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from bibwatch.runtimes.generative import GenerativeOptions

COMPLETIONS = "/chat/completions"
_PORTS = {"http": 80, "https": 443}
_CONNECT_SECONDS = 0.3
_RESERVED = {"messages", "model", "stream"}  # request fields that only bibwatch sets


@dataclass(frozen=True)
class Address:
    """The address of a server, from the URL in the configuration."""

    url: str

    @property
    def place(self) -> str:
        """Host and port."""
        host, port = self._host_and_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def endpoint(self, path: str) -> str:
        """Return the URL of an endpoint, such as `/chat/completions`."""
        parts = urlsplit(self.url)
        base = parts.path.rstrip("/").removesuffix(COMPLETIONS)
        return parts._replace(path=base + path).geturl()

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = self._host_and_port[0]
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def is_listening(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            socket.create_connection(self._host_and_port, timeout=_CONNECT_SECONDS).close()
        except OSError:
            return False
        return True

    @property
    def _host_and_port(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]


class VisionOpenAILikeApiOptions(GenerativeOptions):
    """A model on a server. Photos are sent to `api_url` and nowhere else; setting it is consent."""

    is_remote: ClassVar[bool] = True
    hardware_fields: ClassVar[frozenset[str]] = GenerativeOptions.hardware_fields | {
        "api_url",  # another server with the same model gives the same replies
        "api_key_file",
        "ca_file",
        "timeout_seconds",
        "connect_seconds",
        "concurrency",
        "retries",
    }

    kind: Literal["vision_openailike_api"] = "vision_openailike_api"
    api_url: str | tuple[str, ...] = Field(
        description="Such as http://127.0.0.1:8000/v1; a URL ending in /chat/completions is used as is. With a list of "
        "servers with the same model, each request goes to the least busy."
    )
    model_name: str = Field(min_length=1, description="Name of the model on the server.")
    api_key_file: Path | None = Field(
        default=None,
        description="File with the API key; its path may contain variables: ${CREDENTIALS_DIRECTORY}.",
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file with certificates to trust, for a server with a private one."
    )
    timeout_seconds: float = Field(default=60, gt=0, le=86400, description="Maximum seconds for a response.")
    connect_seconds: float = Field(default=5, gt=0, le=86400, description="Maximum seconds to connect.")
    concurrency: int = Field(default=8, ge=1, le=256, description="Maximum requests in flight at each server.")
    retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Retries of a request, at the same server or another, before the photo waits.",
    )
    longest_side: int | None = Field(
        default=1536,
        ge=32,
        description="Longest side in pixels of the photos that are sent; larger ones are reduced.",
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="JPEG quality of the photos that are sent.")
    logprobs: bool = Field(
        default=True, description="Request the probability of each token; not every server returns them."
    )
    structured: Literal["response_format", "structured_outputs"] = Field(
        default="response_format",
        description="How to constrain a reply: OpenAI's way (JSON only), or vLLM's (regular expressions, too).",
    )
    extra_body: dict[str, JsonValue] = Field(
        default_factory=dict, description="Fields to add to every request; they replace fields of the same name."
    )

    @field_validator("api_url")
    @classmethod
    def _are_urls(cls, api_url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (api_url,) if isinstance(api_url, str) else api_url
        for url in urls:
            _check_url(url)
        if not urls:
            raise ValueError("the list of servers is empty")
        if len({Address(url).endpoint("") for url in urls}) < len(urls):
            raise ValueError("the same server is listed twice")
        return api_url

    @field_validator("extra_body")
    @classmethod
    def _is_not_reserved(cls, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_RESERVED & body.keys()):
            raise ValueError(f"cannot set {', '.join(taken)}: bibwatch sets it")
        return body

    @property
    def model(self) -> str:
        return self.model_name

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The address of each server."""
        urls = (self.api_url,) if isinstance(self.api_url, str) else self.api_url
        return tuple(Address(url) for url in urls)

    @property
    def place(self) -> str:
        """Host and port of each server; a prediction's `device` names the one that made it."""
        return ", ".join(address.place for address in self.addresses)

    @property
    def is_on_another_machine(self) -> bool:
        return not all(address.is_local for address in self.addresses)

    def each_server(self) -> Iterable[Self]:
        for address in self.addresses:
            yield self.model_copy(update={"api_url": address.url})

    def obstacle(self) -> str | None:
        """Try to connect to servers on this machine; others are not contacted until there is something to read."""
        if self.refused or self.is_on_another_machine or any(address.is_listening() for address in self.addresses):
            return self.refused
        return f"no server answers at {self.place}"


def _check_url(url: str) -> None:
    """Raise ValueError for an invalid URL of a server."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ValueError("the URL must not contain a password; put the key in a file and set api_key_file")
    _ = parts.port  # raises ValueError if it is invalid
