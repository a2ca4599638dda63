"""How presets do with the same photos: seconds, memory, readings; each in a process of its own, for memory's sake.

Knows stages, and files that say which bibs are really in a photo. Does not know how any of it is shown.
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

_ERROR_LENGTH = 500  # characters of a reason that are kept
_KIB, _MB = 1024, 1e6


@dataclass(frozen=True)
class CompareResult:
    """What a preset made of one file."""

    text: str = ""  # for a person
    found: tuple[str, ...] = ()  # the bibs, each once and sorted; of a stage that reads none: the text
    error: str | None = None
    unreadable: bool = False  # the file is no photo, which is not the preset's fault


@dataclass(frozen=True)
class Trial:
    """How one preset did with all files. With `error` set it could not run, and nothing else is known."""

    preset: str
    model: str = ""
    device: str = ""
    batch_size: int = 1
    load_seconds: float = 0.0  # until it is ready, one answer included
    alone_seconds: float = 0.0  # for all photos, one after another
    together_seconds: float = 0.0  # for all photos, in batches
    memory_mb: float = 0.0
    cuda_memory_mb: float | None = None
    answers: dict[str, CompareResult] = field(default_factory=dict)  # by path
    error: str | None = None

    @property
    def photos(self) -> int:
        """How many photos it was asked about."""
        return sum(not answer.unreadable for answer in self.answers.values())

    @property
    def failed(self) -> int:
        """How many of them it has no answer to."""
        return sum(answer.error is not None and not answer.unreadable for answer in self.answers.values())


@dataclass(frozen=True)
class Score:
    """How right the bibs of labelled photos are; one counts as right only if every character is."""

    photos: int  # that are labelled
    exact: int  # photos with just the bibs of their label
    right: int
    wrong: int
    labelled: int  # bibs

    @property
    def precision(self) -> float | None:
        """Share of the bibs read that are right; None if none were read."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> float | None:
        """Share of the labelled bibs that were read; None if no bib is labelled."""
        return _share(self.right, self.labelled)

    @property
    def f(self) -> float | None:
        """The harmonic mean of precision and recall."""
        return _share(2 * self.right, self.right + self.wrong + self.labelled)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def read_labels(path: Path, photos: Collection[str]) -> dict[str, frozenset[str]]:
    """Read which bibs are in which of the photos: CSV with the columns `file` and `bibs`, bibs separated by spaces.

    A file is the photo of the same path, as it is given or from the CSV's folder. Where that is true of no file of a
    name, the name alone tells. Raises BibwatchError, also where that may be one file or another.
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
                raise BibwatchError(f"{path}: {name} may be {one} or {others[0]}; write there which, by its path")
        found[alike[0]] = by_name[name][0]
    return {photo: rows[file] for photo, file in found.items()}


def _rows(path: Path) -> dict[str, frozenset[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            if not {"file", "bibs"} <= set(table.fieldnames or ()):
                raise BibwatchError(f"{path}: the first line must name the columns file and bibs: file,bibs")
            return {row["file"] or "": frozenset((row["bibs"] or "").upper().split()) for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BibwatchError(f"{path} cannot be read as labels: {one_line(exc)}") from exc


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # `..` is taken out, links are kept as written


def _by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(Path(path).name, []).append(path)
    return found


def score(trial: Trial, labels: Mapping[str, frozenset[str]]) -> Score:
    """Compare what was read with the labels of the photos; a photo that failed has no bibs."""
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
    """Return for how many photos both have the same bibs, and of how many; where one failed they do not agree."""
    pairs = [
        (answer, other.answers[path])
        for path, answer in one.answers.items()
        if not (answer.unreadable or other.answers[path].unreadable)
    ]
    same = sum(a.found == b.found and a.error is None and b.error is None for a, b in pairs)
    return same, len(pairs)


def try_out(
    options: StageOptions,
    paths: Sequence[str],
    *,
    plugins: Collection[str],
    limits: ImageLimits,
    judge: Judge,
    on_photos: Callable[[int], None],
) -> Trial:
    """Let a stage with its preset read the files, in a process of its own; whatever goes wrong is in the trial.

    `on_photos` is told how many files are through.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, options, tuple(paths), tuple(plugins), limits, judge))
    try:
        process.start()
        sender.close()  # the other process has the only one now: when it dies, the pipe ends
        while isinstance(message := receiver.recv(), int):
            on_photos(message)
        trial: Trial = message
    except EOFError:
        process.join()
        return Trial(options.model_options.name, error=f"its process {_end(process.exitcode or 0)}")
    else:
        return trial
    finally:
        process.terminate()
        process.join()
        receiver.close()


def _end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed; is there enough memory?"
    return f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}"


# What follows runs in the other process.


def _work(  # noqa: PLR0917  # a process takes its arguments by position
    sender: Connection[Any, Any],
    options: StageOptions,
    paths: tuple[str, ...],
    plugins: tuple[str, ...],
    limits: ImageLimits,
    judge: Judge,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, and it ends this process
    os.dup2(2, 1)  # an engine's chatter must not come between the lines of --json
    logs.set_up_logs("warning", "auto")
    try:
        sender.send(_trial(Registry(plugins).build(options), paths, limits, judge, sender.send))
    except Exception as exc:  # noqa: BLE001  # whatever keeps a preset from running is its row in the table
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
    alone = together = 0.0
    for batch in recognition.batches(stage, paths, limits):
        photos = {path: photo for path, photo in batch if isinstance(photo, Photo)}
        if not devices:  # the first picture of real size takes longer than all others; nobody's turn is to pay for it
            list(stage.read(list(photos.values())[:1]))
        seconds, outcomes = _timed(stage, photos.values())
        together += seconds
        alone += sum(_timed(stage, [photo])[0] for photo in photos.values())
        devices |= {outcome.device for outcome in outcomes if outcome.device}
        answers |= {
            path: CompareResult(error=recognition.reason(photo), unreadable=True)
            for path, photo in batch
            if not isinstance(photo, Photo)
        }
        answers |= {path: _answer(stage, outcome, judge) for path, outcome in zip(photos, outcomes, strict=True)}
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
        together_seconds=together,
        memory_mb=memory,
        cuda_memory_mb=cuda_memory,
        answers=answers,
    )


def _timed(stage: Stage[Any], photos: Iterable[Photo]) -> tuple[float, list[Outcome]]:
    start = time.perf_counter()
    outcomes = list(stage.read(photos))
    return time.perf_counter() - start, outcomes


def _answer(stage: Stage[Any], outcome: Outcome, judge: Judge) -> CompareResult:
    if outcome.error is not None:
        return CompareResult(error=recognition.reason(outcome.error))
    if outcome.output is not None:
        text = stage.text(outcome)
        return CompareResult(text, (text,))
    readings = judge.judge(outcome.candidates).readings
    return CompareResult(summary(readings), tuple(sorted(reading.bib for reading in readings)))


def _memory_mb() -> float:
    """Return the most memory there was at once in this process, and in those its engine started, as vLLM does."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    try:
        # Not ru_maxrss, which on Linux a process inherits from the one that started it.
        return sum(float(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) for pid in pids) * (
            _KIB / _MB
        )
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else _KIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def _cuda_memory_mb() -> float | None:
    """Return the most memory that torch had at once on the GPUs; None where it has not used any."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return float(sum(torch.cuda.max_memory_allocated(device) for device in devices)) / _MB
