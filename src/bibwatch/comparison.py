"""Comparison of presets on the same photos: time, memory and readings. Each runs in its own process.

Knows stages and label files. Does not know how results are shown.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bibwatch import logs, recognition
from bibwatch.domain.readings import summary
from bibwatch.errors import BibwatchError, one_line
from bibwatch.images import ImageLimits, Photo
from bibwatch.judging import Judge
from bibwatch.registry import Registry
from bibwatch.stages.base import Outcome, Stage, StageOptions

_ERROR_LENGTH = 500  # characters
_KIB, _MB = 1024, 1e6


@dataclass(frozen=True)
class CompareResult:
    """A preset's result for one file."""

    text: str = ""  # for display
    found: tuple[str, ...] = ()  # the bibs, sorted and without duplicates; the text, for a stage that reads no bibs
    error: str | None = None
    unreadable: bool = False  # the file cannot be read as a photo, which is not the preset's fault


@dataclass(frozen=True)
class Trial:
    """One preset's results for all files. With `error` set, the preset could not run and the rest is meaningless."""

    preset: str
    model: str = ""
    device: str = ""
    batch_size: int = 1
    load_seconds: float = 0.0  # including a warm-up request
    alone_seconds: float = 0.0  # for all photos, one by one
    batched_seconds: float = 0.0  # for all photos, in batches
    memory_mb: float = 0.0
    cuda_memory_mb: float | None = None
    answers: dict[str, CompareResult] = field(default_factory=dict)  # by path
    error: str | None = None

    @property
    def photos(self) -> int:
        """The number of photos sent to the model."""
        return sum(not answer.unreadable for answer in self.answers.values())

    @property
    def failed(self) -> int:
        """The number of photos with no result."""
        return sum(answer.error is not None and not answer.unreadable for answer in self.answers.values())


@dataclass(frozen=True)
class Score:
    """How well the bibs read match the labels. A bib is right only if every character is."""

    photos: int  # labelled photos
    exact: int  # photos with exactly the labelled bibs
    right: int
    wrong: int
    labelled: int  # bibs

    @property
    def precision(self) -> float | None:
        """Share of the bibs read that are right; None if none was read."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float | None:
        """Share of the labelled bibs that were read; None if the labels have no bib."""
        return _share(self.right, self.labelled)

    @property
    def f(self) -> float | None:
        """The harmonic mean of precision and recall."""
        return _share(2 * self.right, self.right + self.wrong + self.labelled)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def read_labels(path: Path, photos: Collection[str]) -> dict[str, frozenset[str]]:
    """Return the labelled bibs of the given photos, from a CSV with columns `file` and `bibs` (separated by spaces).

    `file` is a photo's path as given, or relative to the CSV's folder. If no path with a file name matches, the name
    alone is compared. Raises BibwatchError, also if a name alone is ambiguous.
    """
    rows = _rows(path)
    files = {_absolute(path.parent / file): file for file in rows} | {_absolute(file): file for file in rows}
    found = {photo: files[_absolute(photo)] for photo in photos if _absolute(photo) in files}
    by_name, known = _by_name(rows), _by_name(found)
    for name, alike in _by_name(photo for photo in photos if photo not in found).items():
        if name in known or name not in by_name:
            continue
        for one, *others in (by_name[name], alike):
            if others:
                raise BibwatchError(
                    f"{path}: {name} may be {one} or {others[0]}; use paths in the CSV to tell them apart"
                )
        found[alike[0]] = by_name[name][0]
    return {photo: rows[file] for photo, file in found.items()}


def _rows(path: Path) -> dict[str, frozenset[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            if not {"file", "bibs"} <= set(table.fieldnames or ()):
                raise BibwatchError(f"{path}: the first line must name the columns: file,bibs")
            return {row["file"] or "": frozenset((row["bibs"] or "").upper().split()) for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BibwatchError(f"{path} cannot be read as labels: {one_line(exc)}") from exc


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # normalises `..` but does not resolve links


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(Path(path).name, []).append(path)
    return found


def score(trial: Trial, labels: Mapping[str, frozenset[str]]) -> Score:
    """Score a trial against the labels; a failed photo counts as having no bibs."""
    pairs = [
        (labels[path], frozenset(answer.found), answer.error is None)
        for path, answer in trial.answers.items()
        if path in labels and not answer.unreadable
    ]
    return Score(
        photos=len(pairs),
        exact=sum(good and label == found for label, found, good in pairs),
        right=sum(len(label & found) for label, found, _ in pairs),
        wrong=sum(len(found - label) for label, found, _ in pairs),
        labelled=sum(len(label) for label, _, _ in pairs),
    )


def agreement(one: Trial, other: Trial) -> tuple[int, int]:
    """Return on how many photos both trials agree, and the number of photos. A failure is a disagreement."""
    pairs = [
        (answer, other.answers[path])
        for path, answer in one.answers.items()
        if not (answer.unreadable or other.answers[path].unreadable)
    ]
    same = sum(a.found == b.found and a.error is None and b.error is None for a, b in pairs)
    return same, len(pairs)


def run_trial(
    options: StageOptions,
    paths: Sequence[str],
    *,
    plugins: Collection[str],
    limits: ImageLimits,
    judge: Judge,
    on_photos: Callable[[int], None],
) -> Trial:
    """Read the files with a stage in a separate process; an error is returned in the trial.

    `on_photos` is called with the number of files done so far.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, options, tuple(paths), tuple(plugins), limits, judge))
    try:
        process.start()
        sender.close()  # the child has the only copy now, so that its death ends the pipe
        while isinstance(message := receiver.recv(), int):
            on_photos(message)
        trial: Trial = message
    except EOFError:
        process.join()
        return Trial(options.model_options.name, error=f"its process {_exit_reason(process.exitcode or 0)}")
    else:
        return trial
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _exit_reason(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed; is there enough memory?"
    return f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"


# The rest runs in the child process.


def _child(  # noqa: PLR0917  # a process takes its arguments by position
    sender: Connection[Any, Any],
    options: StageOptions,
    paths: tuple[str, ...],
    plugins: tuple[str, ...],
    limits: ImageLimits,
    judge: Judge,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent terminates this process
    os.dup2(2, 1)  # what engines print must not mix with the output of --json
    logs.set_up_logs("warning", "auto")
    try:
        sender.send(_trial(Registry(plugins).build(options), paths, limits, judge, sender.send))
    except Exception as exc:  # noqa: BLE001  # reported as the preset's result
        sender.send(Trial(options.model_options.name, error=one_line(exc, _ERROR_LENGTH)))


def _trial(
    stage: Stage[Any], paths: Iterable[str], limits: ImageLimits, judge: Judge, report: Callable[[int], None]
) -> Trial:
    model = stage.options.model_options
    start = time.perf_counter()
    stage.warm_up()
    load_seconds = time.perf_counter() - start
    answers: dict[str, CompareResult] = {}
    devices: set[str] = set()
    alone = batched = 0.0
    for batch in recognition.batches(stage, paths, limits):
        photos = {path: photo for path, photo in batch if isinstance(photo, Photo)}
        if not devices:  # the first photo of full size takes longest: keep it out of the timings
            list(stage.read(list(photos.values())[:1]))
        seconds, outcomes = _timed(stage, photos.values())
        batched += seconds
        alone += sum(_timed(stage, [photo])[0] for photo in photos.values())
        devices |= {outcome.device for outcome in outcomes if outcome.device}
        answers |= {
            path: CompareResult(error=recognition.reason(photo), unreadable=True)
            for path, photo in batch
            if not isinstance(photo, Photo)
        }
        answers |= {
            path: _compare_result(stage, outcome, judge) for path, outcome in zip(photos, outcomes, strict=True)
        }
        report(len(answers))
    memory, cuda_memory = _memory_mb(), _cuda_memory_mb()
    stage.close()
    return Trial(
        model.name,
        model=model.model,
        device=", ".join(sorted(devices)) or model.place,
        batch_size=model.batch_size,
        load_seconds=load_seconds,
        alone_seconds=alone,
        batched_seconds=batched,
        memory_mb=memory,
        cuda_memory_mb=cuda_memory,
        answers=answers,
    )


def _timed(stage: Stage[Any], photos: Iterable[Photo]) -> tuple[float, list[Outcome]]:
    start = time.perf_counter()
    outcomes = list(stage.read(photos))
    return time.perf_counter() - start, outcomes


def _compare_result(stage: Stage[Any], outcome: Outcome, judge: Judge) -> CompareResult:
    if outcome.error is not None:
        return CompareResult(error=recognition.reason(outcome.error))
    if outcome.output is not None:
        text = stage.text(outcome)
        return CompareResult(text, (text,))
    readings = judge.judge(outcome.candidates).readings
    return CompareResult(summary(readings), tuple(sorted(reading.bib for reading in readings)))


def _memory_mb() -> float:
    """Return the peak memory of this process plus that of the processes its engine started, as vLLM does."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    try:
        # Not ru_maxrss, which a process inherits from its parent on Linux.
        return sum(float(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) for pid in pids) * (
            _KIB / _MB
        )
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else _KIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def _cuda_memory_mb() -> float | None:
    """Return the peak memory that torch allocated on the GPUs; None if it used none."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return float(sum(torch.cuda.max_memory_allocated(device) for device in devices)) / _MB
