"""Re-judges stored results, from the database alone: opens no photo, loads no model.

Knows that the judge may be replaced at any time. Does not know what it judges by.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import structlog

from bibwatch.judging import Judge
from bibwatch.loops import Loop
from bibwatch.store.judgements import Judgements

log = structlog.get_logger()

_CHECK_SECONDS = 0.5  # between checks for a new judge


class Progress(NamedTuple):
    """How many results have been re-judged."""

    results: int = 0
    changed: int = 0  # those whose readings changed


def rejudge(
    judgements: Judgements,
    judge: Judge,
    *,
    only_outdated: bool = False,
    store: Callable[[Callable[[], Any]], Any] = lambda action: action(),
) -> Iterator[Progress]:
    """Re-judge all results, or only those last judged by a different judge; yield the progress after each page.

    `store` runs each database action. Raises StoreError.
    """
    fingerprint = judge.fingerprint
    other_than = fingerprint if only_outdated else None
    last, results, changed = 0, 0, 0
    while page := store(partial(judgements.page, last, other_than=other_than)):
        judged = [(case, judge.judge(case.candidates)) for case in page]
        changed += store(partial(judgements.record, judged, fingerprint))
        last = page[-1].result_id
        results += len(page)
        yield Progress(results, changed)


class Rejudging(Loop):
    """Re-judges, in the background, results that were judged by other rules or for another race."""

    def __init__(
        self,
        judgements: Judgements,
        judge: Judge,
        stop: threading.Event,
        renewed: Callable[[], Judge | None] = lambda: None,
    ) -> None:
        """`renewed` returns a new judge if the race is known better than before, else None."""
        super().__init__("rejudging", stop)
        self.judge = judge
        self.done = False
        self.seconds = 0.0  # that judging again took last
        self._judgements = judgements
        self._renewed = renewed
        self._earlier: set[str] = set()  # fingerprints of former judges; batches in flight may still be judged by them

    def work(self) -> None:
        self._judge_again()
        self.done = True
        while not self.stop.wait(_CHECK_SECONDS):
            self.heartbeat()
            self.done = False  # until it is known that the judge in force is the right one
            if judge := self.retry_until_stored(self._renewed):
                self._earlier = (self._earlier | {self.judge.fingerprint}) - {judge.fingerprint}
                self.judge = judge
                self._judge_again()
            elif self._is_outdated():
                self._judge_again()
            self.done = True

    def is_settled(self) -> bool:
        """Return whether all that is recorded was judged by the judge in force. Raises StoreError."""
        return self.done and not (self._earlier and self._judgements.has_any_by(self._earlier))

    def _is_outdated(self) -> bool:
        """Return whether photos that were being read when the judge changed have come in since."""
        outdated = partial(self._judgements.has_any_by, self._earlier)
        return bool(self._earlier) and self.retry_until_stored(outdated)

    def _judge_again(self) -> None:
        start = time.monotonic()
        progress = Progress()
        for so_far in rejudge(self._judgements, self.judge, only_outdated=True, store=self.retry_until_stored):
            progress = so_far
            self.heartbeat()
            if self.stop.is_set():
                break
        if progress.results:
            log.info("results.judged_again", results=progress.results, changed=progress.changed)
        self.seconds = time.monotonic() - start

    def ended(self) -> None:
        self.extend_deadline(math.inf)  # no more heartbeats
