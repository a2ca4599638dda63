"""Every exception of bibwatch, and the facts by which the code decides what to do about it.

Knows of each whether the same thing may be tried again, whose fault it is, and the exit code it ends a command with.
Does not know who raises or catches it.
"""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import ClassVar

from bibwatch.domain.states import State


class Retry(Enum):
    """Whether the same request may succeed when it is made again."""

    NEVER = "no"
    ELSEWHERE = "at another server"
    SOON = "yes, after a pause"
    LATER = "yes, after the time the server asks for"


class Blame(Enum):
    """Whose fault an error is. A photo that is to blame loses an attempt; all others wait."""

    PHOTO = "the photo"
    SERVER = "the server"
    UNCLEAR = "the photo or the server"
    CONFIGURATION = "the configuration"
    STORAGE = "the storage"


class Proof(Flag):
    """What it takes to blame the photo where that is unclear."""

    NONE = 0
    ALONE = auto()  # it fails when it is sent alone, too
    PROBE = auto()  # the server answers a probe


class BibwatchError(Exception):
    """Something bibwatch was asked to do could not be done; the message says what, where and what to do."""

    exit_code: ClassVar[int] = 1
    retry: ClassVar[Retry] = Retry.NEVER
    blame: ClassVar[Blame] = Blame.CONFIGURATION
    retry_after: float | None = None  # seconds to wait first, where somebody asks for that


class ConfigurationError(BibwatchError):
    """The configuration cannot work; nothing was started."""

    exit_code = 78


class AlreadyRunningError(BibwatchError):
    """Another bibwatch uses the same database."""

    exit_code = 75


class StoreError(BibwatchError):
    """The database cannot be read or written at the moment (locked, disk full, gone)."""

    retry = Retry.SOON
    blame = Blame.STORAGE


class ModelError(BibwatchError):
    """The model cannot read this image."""

    blame = Blame.PHOTO
    proof: ClassVar[Proof] = Proof.NONE

    @property
    def is_outage(self) -> bool:
        """Whether the model could not be used, as opposed to refusing this image or failing to read it."""
        return self.blame is not Blame.PHOTO and self.proof is not Proof.PROBE


class ModelRejectedError(ModelError):
    """The server refuses the request (400, 413, 415, 422): because of the image, or of something in every request."""

    retry = Retry.ELSEWHERE
    blame = Blame.UNCLEAR
    proof = Proof.PROBE


class ModelUnavailableError(ModelError):
    """The model cannot be used at the moment; the photo waits."""

    retry = Retry.SOON
    blame = Blame.SERVER


class ModelUnreachableError(ModelUnavailableError):
    """There is no connection to the server (refused, unknown host, TLS)."""


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
    """The reply is not one the interpreter can use: no text, a content filter, too many tokens."""


class ModelTruncatedError(ModelReplyError):
    """The reply was cut off at `max_new_tokens`."""


class PhotoError(BibwatchError):
    """This file cannot be read as a photo now; `state` is where it waits or ends."""

    blame = Blame.PHOTO
    state: ClassVar[State]


class PhotoEmptyError(PhotoError):
    """The file has no bytes yet."""

    retry = Retry.SOON
    state = State.EMPTY


class PhotoIncompleteError(PhotoError):
    """Part of the photo is still missing."""

    retry = Retry.SOON
    state = State.INCOMPLETE


class PhotoChangedError(PhotoError):
    """The file changed while it was loaded, or since it was found settled."""

    retry = Retry.SOON
    state = State.SETTLING


class PhotoUnreadableError(PhotoError):
    """The system refuses to give the file's bytes (permission, I/O error)."""

    retry = Retry.SOON
    blame = Blame.STORAGE
    state = State.UNREADABLE


class PhotoGoneError(PhotoError):
    """The file is no longer there."""

    state = State.GONE


class PhotoUndecodableError(PhotoError):
    """The bytes are not an image, or a broken one."""

    state = State.UNDECODABLE


class PhotoOversizedError(PhotoError):
    """The file or the image is larger than the limits allow."""

    state = State.OVERSIZED


class PhotoUnsupportedError(PhotoError):
    """A photo of a kind that this installation cannot read."""

    state = State.UNSUPPORTED


def one_line(exc: BaseException, length: int = 200) -> str:
    """Return an exception's message on one line of at most so many characters, its name if it says nothing."""
    return " ".join(str(exc).split())[:length] or type(exc).__name__
