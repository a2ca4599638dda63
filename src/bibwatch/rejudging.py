"""Re-judges stored results, from the database alone: opens no photo, loads no model."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import structlog

from bibwatch.judging import Judge
from bibwatch.loops import Loop
from bibwatch.store.judgements import Judgements

log = structlog.get_logger()


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

    def __init__(self, judgements: Judgements, judge: Judge, stop: threading.Event) -> None:
        super().__init__("rejudging", stop)
        self._judgements = judgements
        self._judge = judge
        self.done = False

    def work(self) -> None:
        progress = Progress()
        for so_far in rejudge(self._judgements, self._judge, only_outdated=True, store=self.retry_until_stored):
            progress = so_far
            self.heartbeat()
            if self.stop.is_set():
                break
        if progress.results:
            log.info("results.judged_again", results=progress.results, changed=progress.changed)

    def ended(self) -> None:
        self.done = True
        self.extend_deadline(math.inf)  # no more heartbeats
