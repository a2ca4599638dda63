"""Load balancing and retries across servers with the same model: a request goes to the least busy healthy one.

Knows which servers failed recently and how many requests each has. Does not know what is in a request.
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

# Seconds between attempts of a request; if a server asks for a longer pause, the photo waits in the ledger instead.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
# Seconds without requests for a failed server while others are healthy; the last limits its own Retry-After.
_FIRST_COOLDOWN, _LONGEST_COOLDOWN, _LONGEST_RETRY_AFTER = 2.0, 30.0, 300.0


@dataclass(eq=False)
class _Member:
    server: ChatServer
    in_flight: int = 0
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    @property
    def is_healthy(self) -> bool:
        """Whether to send it a request now. One that failed gets one at a time until it has replied."""
        return not self.breaker.failures or (not self.in_flight and self.breaker.is_due)


_Failed = dict[_Member, ModelError]  # the last error of each server for one request


class Servers:
    """Sends each request to one of several servers. Thread-safe."""

    def __init__(self, servers: Sequence[ChatServer], *, concurrency: int, retries: int) -> None:
        """`concurrency` limits the requests in flight at each server, `retries` the retries of each request."""
        self._members = [_Member(server) for server in servers]
        self._concurrency = concurrency
        self._retries = retries
        self._changed = threading.Condition()
        self._closed = threading.Event()

    def ask(self, body: bytes, max_tokens: int) -> ChatReply:
        """Send a request to one server, or to another if that one fails. Raises ModelError."""
        failed: _Failed = {}

        def once() -> ChatReply:
            member = self._acquire(failed)
            held = True
            error: ModelError | None = None
            try:
                response = member.server.send(body)
                # The next request need not wait until this response has been parsed.
                if response.status == HTTPStatus.OK and not member.breaker.failures:
                    held = False
                    self._release(member)
                reply = member.server.parse(response, max_tokens)
            except ModelError as exc:
                if exc.retry is not Retry.NEVER:
                    failed[member] = exc
                if exc.is_outage:
                    error = exc
                raise
            else:
                # If one server rejects a request that another accepts, the first is at fault.
                for refused_by, refusal in failed.items():
                    if not refusal.is_outage:
                        self._record(refused_by, refusal)
                return reply
            finally:
                self._record(member, error)
                if held:
                    self._release(member)

        retrying = Retrying(
            stop=stop_after_attempt(1 + self._retries),
            retry=retry_if_exception(lambda error: self._should_retry(error, failed)),
            wait=lambda state: self._pause(state, failed),
            sleep=sleep_using_event(self._closed),
            reraise=True,
        )
        return retrying(once)

    def close(self) -> None:
        """Close all connections and wake all waiting threads."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        for member in self._members:
            member.server.close()

    def _acquire(self, failed: _Failed) -> _Member:
        """Wait until the best server has room for a request, count the request as in flight and return the server."""
        with self._changed:
            while (member := self._best(failed)) is None and not self._closed.is_set():
                self._changed.wait()
            if member is None or self._closed.is_set():
                raise ModelUnreachableError("the connections to the model's servers have been closed")
            member.in_flight += 1
        return member

    def _release(self, member: _Member) -> None:
        with self._changed:
            member.in_flight -= 1
            if len(self._members) == 1:
                self._changed.notify()  # any thread will do
            else:
                self._changed.notify_all()

    def _record(self, member: _Member, error: ModelError | None) -> None:
        """Record how a request ended; with several servers, log when one starts to fail and when it recovers."""
        with self._changed:
            failures = member.breaker.failures
            changed = bool(failures) or error is not None
            if len(self._members) > 1 and error and not failures:
                log.warning("server.unavailable", server=member.server.place, error=one_line(error, 500))
            if len(self._members) > 1 and failures and not error:
                log.info("server.available", server=member.server.place)
            if error:
                member.breaker.fail(
                    first=_FIRST_COOLDOWN,
                    longest=_LONGEST_COOLDOWN,
                    at_least=min(error.retry_after or 0.0, _LONGEST_RETRY_AFTER),
                )
            else:
                member.breaker.succeed()
            if changed:
                self._changed.notify_all()

    def _best(self, failed: _Failed) -> _Member | None:
        """Return the least busy of the healthiest servers; None if it is at its limit."""

        def rank(member: _Member) -> tuple[bool, bool, int, int]:
            error = failed.get(member)
            return (
                not _is_transient(error),
                error is not None,
                0 if member.is_healthy else member.breaker.failures,
                member.in_flight,
            )

        best = min(self._members, key=rank)
        return best if best.in_flight < self._concurrency else None

    def _should_retry(self, error: BaseException, failed: _Failed) -> bool:
        """Return whether the request may soon succeed, at another server or the same one."""
        if not isinstance(error, ModelError) or error.retry is Retry.NEVER or self._closed.is_set():
            return False
        return self._has_another(failed) or any(map(_is_transient, failed.values()))

    def _has_another(self, failed: _Failed) -> bool:
        return any(member.is_healthy for member in self._members if member not in failed)

    def _pause(self, state: RetryCallState, failed: _Failed) -> float:
        """Return the seconds before the next attempt: 0 if another server is healthy."""
        if self._has_another(failed):
            return 0.0
        asked_for = min((error.retry_after or 0.0 for error in failed.values() if _is_transient(error)), default=0.0)
        return max(backoff.pause(state.attempt_number, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE), asked_for)


def _is_transient(error: ModelError | None) -> bool:
    """Return whether the same request may soon succeed at the same server."""
    if error is None:
        return True
    return error.retry in {Retry.SOON, Retry.LATER} and (error.retry_after or 0.0) <= _LONGEST_PAUSE
