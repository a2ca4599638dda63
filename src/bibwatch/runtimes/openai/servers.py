"""Several servers with the same model, and when to ask again: the least busy one in good health is asked.

Knows which server failed lately, how many requests each has, and which errors are worth another try. Does not know
what is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_after_attempt

from bibwatch import backoff
from bibwatch.backoff import CircuitBreaker
from bibwatch.errors import ModelError, ModelUnreachableError, Retry, one_line
from bibwatch.runtimes.openai.chat_completions import ChatReply, ChatServer

log = structlog.get_logger()

_FIRST_PAUSE = 0.25  # seconds before a second try; each further one waits twice as long
_LONGEST_PAUSE = 5.0  # a server that asks for more patience than that has the photo wait in the ledger
_FIRST_REST = 2.0
_LONGEST_REST = 30.0  # seconds a server that failed is left alone while there are others


@dataclass(eq=False)
class _Member:
    server: ChatServer
    asked: int = 0  # requests under way
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    @property
    def is_well(self) -> bool:
        """Whether to send it a request now. One that failed gets one at a time until it has answered."""
        return not self.breaker.failures or (not self.asked and self.breaker.is_due)


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
                if answer.status == HTTPStatus.OK and not member.breaker.failures:
                    held = False
                    self._give_back(member)
                reply = member.server.read(answer, most_tokens)
            except ModelError as exc:
                if exc.retry is not Retry.NEVER:
                    failed[member] = exc
                if exc.is_outage:
                    error = exc
                raise
            else:
                # What one server refused and another answers was the first one's fault.
                for refused_by, refusal in failed.items():
                    if not refusal.is_outage:
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
            failures = member.breaker.failures
            changed = bool(failures) or error is not None
            if len(self._members) > 1 and error and not failures:
                log.warning("server.unavailable", server=member.server.place, error=one_line(error, 500))
            if len(self._members) > 1 and failures and not error:
                log.info("server.available", server=member.server.place)
            if error:
                member.breaker.fail(first=_FIRST_REST, longest=_LONGEST_REST, at_least=error.retry_after or 0.0)
            else:
                member.breaker.succeed()
            if changed:
                self._changed.notify_all()

    def _best(self, failed: _Failed) -> _Member | None:
        """Return the least busy of the servers in the best health; None if that one has enough to do."""

        def rank(member: _Member) -> tuple[bool, bool, int, int]:
            error = failed.get(member)
            return (
                not _may_pass(error),
                error is not None,
                0 if member.is_well else member.breaker.failures,
                member.asked,
            )

        best = min(self._members, key=rank)
        return best if best.asked < self._concurrency else None

    def _is_worth_another_try(self, error: BaseException, failed: _Failed) -> bool:
        """Tell whether the same request may get an answer soon: from another server, or from one that was hasty."""
        if not isinstance(error, ModelError) or error.retry is Retry.NEVER or self._closed.is_set():
            return False
        return self._has_another(failed) or any(map(_may_pass, failed.values()))

    def _has_another(self, failed: _Failed) -> bool:
        return any(member.is_well for member in self._members if member not in failed)

    def _pause(self, state: RetryCallState, failed: _Failed) -> float:
        """Return the seconds before another try: none where another server is well."""
        if self._has_another(failed):
            return 0.0
        asked_for = min((error.retry_after or 0.0 for error in failed.values() if _may_pass(error)), default=0.0)
        return max(backoff.pause(state.attempt_number, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE), asked_for)


def _may_pass(error: ModelError | None) -> bool:
    """Return whether the same server may soon answer the same request."""
    if error is None:
        return True
    return error.retry in {Retry.SOON, Retry.LATER} and (error.retry_after or 0.0) <= _LONGEST_PAUSE
