"""Checks a model step by step (whether it loads, its server responds, it answers a probe), and a start list.

Reads no photos, and does not know how findings are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bibwatch import entry_files
from bibwatch.errors import BibwatchError, ModelBusyError, ModelFaultError, ModelNotServedError, ModelTimeoutError
from bibwatch.registry import Registry
from bibwatch.stages.base import Stage, StageOptions


@dataclass(frozen=True)
class Finding:
    """The outcome of one step; after a `wrong` one, the remaining steps are skipped."""

    preset: str
    place: str
    step: str
    says: str
    seconds: float
    wrong: bool = False


def check(registry: Registry, options: StageOptions) -> Iterator[Finding]:
    """Yield the findings for a stage's model, on each of its servers. Raises ConfigurationError for bad options."""
    for model in options.model_options.each_server():
        yield from _check(registry.build(options.model_copy(update={"model_options": model})))


def check_start_list(file: Path) -> Finding:
    """Return what is found about the file with the start list."""
    start = time.perf_counter()
    try:
        found = entry_files.load(file)
        column = "the only column" if found.column is None else f"column {found.column!r}"
        says, wrong = "; ".join((f"{len(found.entries)} entries, the bibs from {column}", *found.notes)), False
    except BibwatchError as exc:
        says, wrong = str(exc), True
    return Finding("start list", str(file), "load", says, time.perf_counter() - start, wrong)


def _check(stage: Stage[Any]) -> Iterator[Finding]:
    model = stage.options.model_options
    steps: dict[str, Callable[[Stage[Any]], str]] = {"load": _load, "server": _server, "probe": _probe}
    if not model.is_remote:
        del steps["server"]
    try:
        for step, run in steps.items():
            start = time.perf_counter()
            try:
                says, wrong = run(stage), False
            except BibwatchError as exc:
                says, wrong = str(exc), True
            yield Finding(model.name, model.place, step, says, time.perf_counter() - start, wrong)
            if wrong:
                return
    finally:
        stage.close()


def _load(stage: Stage[Any]) -> str:
    stage.load()
    return "key and certificates, if any, loaded" if stage.options.model_options.is_remote else "loaded"


def _server(stage: Stage[Any]) -> str:
    """Look the model up in the server's list. Not every server has one; what counts is that it responds."""
    name = stage.options.model_options.model
    try:
        models = stage.runtime.served_models()
    except ModelTimeoutError:
        raise
    except (ModelNotServedError, ModelFaultError, ModelBusyError) as exc:
        return f"responds, but lists no models ({exc})"
    if models is None:
        return "does not list models"
    return f"lists {name}" if name in models else f"responds, but does not list {name}; it lists: {', '.join(models)}"


def _probe(stage: Stage[Any]) -> str:
    stage.warm_up()
    return "answered"
