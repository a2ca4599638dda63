"""Several servers with the same model, and when to ask again: the least busy one in good health is asked.

Knows which server failed lately, how many requests each has, and which errors are worth another try. Does not know
what is asked.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_after_attempt

from bibwatch.errors import (
    ModelBusyError,
    ModelError,
    ModelNotServedError,
    ModelRejectedError,
    ModelTimeoutError,
    ModelUnavailableError,
    ModelUnreachableError,
    one_line,
)
from bibwatch.runtimes.openai.chat_completions import ChatReply, ChatServer

log = structlog.get_logger()

_FIRST_PAUSE = 0.25  # seconds before a second try; each further one waits twice as long
_LONGEST_PAUSE = 5.0  # a server that asks for more patience than that has the photo wait in the ledger
_LONGEST_REST = 30.0  # seconds a server that failed is left alone while there are others


@dataclass(eq=False)
class _Member:
    server: ChatServer
    asked: int = 0  # requests under way
    failures: int = 0  # since it last answered
    rests_until: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether to ask it now. One that failed is asked one thing at a time until it has answered."""
        return not self.failures or (not self.asked and time.monotonic() >= self.rests_until)


_Failed = dict[_Member, ModelError]  # at one request: each server's last error


class Servers:
    """Asks one of several servers. May be asked from several threads at once."""

    def __init__(self, servers: Sequence[ChatServer], *, concurrency: int, retries: int) -> None:
        """`concurrency` is the most requests under way at each server, `retries` the further tries of one request."""
        self._members = [_Member(server) for server in servers]
        self._concurrency = concurrency
        self._retries = retries
        self._changed = threading.Condition()
        self._closed = threading.Event()

    def ask(self, body: bytes, most_tokens: int) -> ChatReply:
        """Send a request to one server, or, if that cannot answer now, to another. Raises ModelError."""
        failed: _Failed = {}

        def once() -> ChatReply:
            member = self._take(failed)
            held = True
            error: ModelError | None = None
            try:
                answer = member.server.send(body)
                # The next request is ready to go; it need not wait till this answer is looked into.
                if answer.status == HTTPStatus.OK and not member.failures:
                    held = False
                    self._give_back(member)
                reply = member.server.read(answer, most_tokens)
            except ModelRejectedError as exc:
                failed[member] = exc  # whose fault it is shows when another server is asked
                raise
            except ModelUnavailableError as exc:
                error = failed[member] = exc
                raise
            else:
                for refused_by, refusal in failed.items():
                    if isinstance(refusal, ModelRejectedError):
                        self._learn(refused_by, refusal)
                return reply
            finally:
                self._learn(member, error)
                if held:
                    self._give_back(member)

        retrying = Retrying(
            stop=stop_after_attempt(1 + self._retries),
            retry=retry_if_exception(lambda error: self._is_worth_another_try(error, failed)),
            wait=lambda state: self._pause(state, failed),
            sleep=sleep_using_event(self._closed),
            reraise=True,
        )
        return retrying(once)

    def close(self) -> None:
        """Close all connections; who waits for another try goes on at once."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        for member in self._members:
            member.server.close()

    def _take(self, failed: _Failed) -> _Member:
        """Return the best server, as soon as it may be asked one thing more."""
        with self._changed:
            while (member := self._best(failed)) is None and not self._closed.is_set():
                self._changed.wait()
            if member is None or self._closed.is_set():
                raise ModelUnreachableError("the connections to the model's servers were closed meanwhile")
            member.asked += 1
        return member

    def _give_back(self, member: _Member) -> None:
        with self._changed:
            member.asked -= 1
            if len(self._members) == 1:
                self._changed.notify()  # whoever it is can use the place
            else:
                self._changed.notify_all()

    def _learn(self, member: _Member, error: ModelError | None) -> None:
        """Take note of how a server is; of several, tell once that one fails, and that it no longer does."""
        with self._changed:
            changed = bool(member.failures) or error is not None
            if len(self._members) > 1 and error and not member.failures:
                log.warning("server.unavailable", server=member.server.place, error=one_line(error, 500))
            if len(self._members) > 1 and member.failures and not error:
                log.info("server.available", server=member.server.place)
            member.failures = member.failures + 1 if error else 0
            if error:
                rest = min(_LONGEST_REST, 2.0 ** min(member.failures, 10)) * random.uniform(0.5, 1)  # noqa: S311
                member.rests_until = time.monotonic() + max(rest, _patience(error))
            if changed:
                self._changed.notify_all()

    def _best(self, failed: _Failed) -> _Member | None:
        """Return the least busy of the servers in the best health; None if that one has enough to do."""

        def rank(member: _Member) -> tuple[bool, bool, int, int]:
            error = failed.get(member)
            return not _may_pass(error), error is not None, 0 if member.is_well else member.failures, member.asked

        best = min(self._members, key=rank)
        return best if best.asked < self._concurrency else None

    def _is_worth_another_try(self, error: BaseException, failed: _Failed) -> bool:
        """Tell whether the same request may get an answer soon: from another server, or from one that was hasty."""
        if not isinstance(error, (ModelUnavailableError, ModelRejectedError)) or self._closed.is_set():
            return False
        return self._has_another(failed) or any(map(_may_pass, failed.values()))

    def _has_another(self, failed: _Failed) -> bool:
        return any(member.is_well for member in self._members if member not in failed)

    def _pause(self, state: RetryCallState, failed: _Failed) -> float:
        """Return the seconds before another try: none where another server is well."""
        if self._has_another(failed):
            return 0.0
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (state.attempt_number - 1))
        patience = min((_patience(error) for error in failed.values() if _may_pass(error)), default=0.0)
        return max(pause * random.uniform(0.5, 1), patience)  # noqa: S311  # no secret


def _may_pass(error: ModelError | None) -> bool:
    """Tell whether the same server may answer the same request soon. One that took all its time had its try."""
    return (
        not isinstance(error, (ModelNotServedError, ModelTimeoutError, ModelRejectedError))
        and _patience(error) <= _LONGEST_PAUSE
    )


def _patience(error: BaseException | None) -> float:
    """Return the seconds a busy server asks for, 0 if it does not say."""
    return (error.retry_after or 0.0) if isinstance(error, ModelBusyError) else 0.0
