"""A progress bar for `run --once`: files read, out of all files."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from bibwatch.domain.states import TROUBLE, UNDONE, State


class Progress:
    """Shows the daemon's counts on stderr. A context manager."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("reading photos"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=None, note="")

    def update(self, counts: dict[State, int]) -> None:
        """Show the number of files in each state."""
        total = sum(counts.values())
        waiting = sum(counts.get(state, 0) for state in UNDONE)
        trouble = sum(counts.get(state, 0) for state in TROUBLE)
        self._bar.update(
            self._task, total=total, completed=total - waiting, note=f"{trouble} with problems" if trouble else ""
        )

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
