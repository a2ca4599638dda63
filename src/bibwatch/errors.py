"""All of bibwatch's exceptions, and the properties that decide how they are handled.

Knows whether each may be retried, whose fault it is, and its exit code. Does not know who raises or catches it.
"""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import ClassVar

from bibwatch.domain.states import State


class Retry(Enum):
    """Whether the same request may succeed if repeated."""

    NEVER = "no"
    ELSEWHERE = "at another server"
    SOON = "yes, after a pause"
    LATER = "yes, after the time the server asks for"


class Blame(Enum):
    """Whose fault an error is. It costs the photo an attempt only if the photo is to blame."""

    PHOTO = "the photo"
    SERVER = "the server"
    UNCLEAR = "the photo or the server"
    CONFIGURATION = "the configuration"
    STORAGE = "the storage"


class Proof(Flag):
    """The evidence needed to blame the photo if the blame is unclear."""

    NONE = 0
    ALONE = auto()  # the photo also fails when sent alone
    PROBE = auto()  # the server answers a probe


class BibwatchError(Exception):
    """Base class; the message says what failed, where, and what to do about it."""

    exit_code: ClassVar[int] = 1
    retry: ClassVar[Retry] = Retry.NEVER
    blame: ClassVar[Blame] = Blame.CONFIGURATION
    retry_after: float | None = None  # seconds to wait, if the server asks for a pause


class ConfigurationError(BibwatchError):
    """The configuration is wrong; nothing was started."""

    exit_code = 78


class AlreadyRunningError(BibwatchError):
    """Another bibwatch is using the same database."""

    exit_code = 75


class StoreError(BibwatchError):
    """The database is temporarily unavailable (locked, disk full, gone)."""

    retry = Retry.SOON
    blame = Blame.STORAGE


class ModelError(BibwatchError):
    """The model cannot read this image."""

    blame = Blame.PHOTO
    proof: ClassVar[Proof] = Proof.NONE

    @property
    def is_outage(self) -> bool:
        """Whether the model is unavailable, as opposed to refusing or failing on this image."""
        return self.blame is not Blame.PHOTO and self.proof is not Proof.PROBE


class ModelRejectedError(ModelError):
    """The server rejects the request (400, 413, 415, 422), because of the image or of something in every request."""

    retry = Retry.ELSEWHERE
    blame = Blame.UNCLEAR
    proof = Proof.PROBE


class ModelUnavailableError(ModelError):
    """The model is temporarily unavailable; the photo waits."""

    retry = Retry.SOON
    blame = Blame.SERVER


class ModelUnreachableError(ModelUnavailableError):
    """The server cannot be connected to (refused, unknown host, TLS)."""


class ModelDisconnectedError(ModelUnavailableError):
    """The connection broke after the request was sent."""

    blame = Blame.UNCLEAR
    proof = Proof.ALONE | Proof.PROBE


class ModelBusyError(ModelUnavailableError):
    """The server is overloaded or still starting (429, 502, 503)."""

    retry = Retry.LATER


class ModelNotServedError(ModelUnavailableError):
    """The server does not serve this model: wrong key or name, or another model answers."""

    retry = Retry.ELSEWHERE


class ModelFaultError(ModelUnavailableError):
    """The server failed (500 and other 5xx), or its answer is not a chat completion."""

    blame = Blame.UNCLEAR
    proof = Proof.ALONE


class ModelTimeoutError(ModelFaultError):
    """No complete reply within `timeout_seconds` (also 408, 504)."""

    retry = Retry.ELSEWHERE


class ModelReplyError(ModelError):
    """The reply is unusable: no text, a content filter, too many tokens."""


class ModelTruncatedError(ModelReplyError):
    """The reply was cut off at `max_new_tokens`."""


class PhotoError(BibwatchError):
    """The file cannot be read as a photo now; `state` is its resulting state."""

    blame = Blame.PHOTO
    state: ClassVar[State]


class PhotoEmptyError(PhotoError):
    """The file is still empty."""

    retry = Retry.SOON
    state = State.EMPTY


class PhotoIncompleteError(PhotoError):
    """Part of the photo is still missing."""

    retry = Retry.SOON
    state = State.INCOMPLETE


class PhotoChangedError(PhotoError):
    """The file changed while it was loaded, or since it was found complete."""

    retry = Retry.SOON
    state = State.SETTLING


class PhotoUnreadableError(PhotoError):
    """The file cannot be loaded (permission, I/O error)."""

    retry = Retry.SOON
    blame = Blame.STORAGE
    state = State.UNREADABLE


class PhotoGoneError(PhotoError):
    """The file does not exist, or no longer."""

    state = State.GONE


class PhotoUndecodableError(PhotoError):
    """The file is not an image, or a corrupt one."""

    state = State.UNDECODABLE


class PhotoOversizedError(PhotoError):
    """The file or the image exceeds the limits."""

    state = State.OVERSIZED


class PhotoUnsupportedError(PhotoError):
    """A photo in a format that this installation cannot read."""

    state = State.UNSUPPORTED


def one_line(exc: BaseException, length: int = 200) -> str:
    """Return an exception's message as one line of at most `length` characters; its class name if it has none."""
    return " ".join(str(exc).split())[:length] or type(exc).__name__
