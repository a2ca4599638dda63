"""Exponential backoff with jitter, and a circuit breaker that counts failures."""

from __future__ import annotations

import random
import time


def pause(failures: int, *, first: float, longest: float) -> float:
    """Return the seconds to wait after `failures` consecutive failures: `first`, doubled each time, up to `longest`.

    Random jitter shortens it by up to half, so that many clients do not retry at once.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1)  # noqa: S311  # no secret


class CircuitBreaker:
    """Counts consecutive failures and says when to try again. Not thread-safe."""

    def __init__(self) -> None:
        self.failures = 0  # since the last success
        self.retry_at = 0.0  # on the monotonic clock

    @property
    def is_due(self) -> bool:
        """Whether the pause after the last failure is over."""
        return time.monotonic() >= self.retry_at

    def fail(self, *, first: float, longest: float, at_least: float = 0.0) -> None:
        """Count a failure and start a pause as `pause` computes it, but of `at_least` that many seconds."""
        self.failures += 1
        self.retry_at = time.monotonic() + max(pause(self.failures, first=first, longest=longest), at_least)

    def succeed(self) -> None:
        """Reset the count. A pause already begun still applies: the request may have been sent before it."""
        self.failures = 0
