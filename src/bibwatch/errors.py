"""Every exception of bibwatch: a name and a sentence.

Knows the exit code an error ends a command with, and the state a photo's error puts its file in.
Does not know who raises or catches them.
"""

from __future__ import annotations

from typing import ClassVar

from bibwatch.domain.states import State


class BibwatchError(Exception):
    """Something bibwatch was asked to do could not be done; the message says what, where and what to do."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(BibwatchError):
    """The configuration cannot work; nothing was started."""

    exit_code = 78


class AlreadyRunningError(BibwatchError):
    """Another bibwatch works on the same database."""

    exit_code = 75


class StoreError(BibwatchError):
    """The database could not be read or written just now (locked, disk full, gone)."""


class ModelError(BibwatchError):
    """The model answered, and the answer is that this image cannot be read."""


class ModelRejectedError(ModelError):
    """The model's server refuses the request: for the image in it, or for what is asked of every image."""


class ModelUnavailableError(ModelError):
    """The model could not be asked; the image is not to blame and is tried again."""


class ModelUnreachableError(ModelUnavailableError):
    """There is no connection to the model's server, or it broke."""


class ModelDisconnectedError(ModelUnavailableError):
    """The connection to the model's server broke when the request had been sent: by chance, or because of it."""


class ModelBusyError(ModelUnavailableError):
    """The model's server has too much to do, or is still starting; `retry_after` are the seconds it asks for."""

    retry_after: float | None = None


class ModelNotServedError(ModelUnavailableError):
    """The model's server does not give us this model: the key or the name is wrong, or it answers with another."""


class ModelFaultError(ModelUnavailableError):
    """The model's server failed at the request, answered no chat completion, or not in time.

    That may be the server's fault or the image's: what it answers to another image tells.
    """


class ModelTimeoutError(ModelFaultError):
    """The model's server gave no whole answer in the time it has."""


class ModelReplyError(ModelError):
    """The model's answer is not one the interpreter can use."""


class ModelTruncatedError(ModelReplyError):
    """The model's answer was cut off before it had said all."""


class PhotoError(BibwatchError):
    """This file cannot be read as a photo now; `state` is where it waits or ends."""

    state: ClassVar[State]


class PhotoEmptyError(PhotoError):
    """The file has no bytes yet."""

    state = State.EMPTY


class PhotoIncompleteError(PhotoError):
    """Part of the photo is still missing."""

    state = State.INCOMPLETE


class PhotoChangedError(PhotoError):
    """The file changed while it was read, or since it was found settled."""

    state = State.SETTLING


class PhotoUnreadableError(PhotoError):
    """The system refused to give the file's bytes (permission, I/O error)."""

    state = State.UNREADABLE


class PhotoGoneError(PhotoError):
    """The file is no longer there."""

    state = State.GONE


class PhotoUndecodableError(PhotoError):
    """The bytes are not a picture, or a broken one."""

    state = State.UNDECODABLE


class PhotoOversizedError(PhotoError):
    """The file or the picture is larger than the limits allow."""

    state = State.OVERSIZED


class PhotoUnsupportedError(PhotoError):
    """A photo of a kind that this installation cannot read."""

    state = State.UNSUPPORTED


def one_line(exc: BaseException, length: int = 200) -> str:
    """Return an exception's message on one line of at most so many characters, its name if it says nothing."""
    return " ".join(str(exc).split())[:length] or type(exc).__name__
