"""Whether a model can be asked, found out step by step and told in words.

Knows what there is to find out about a model here and one on a server; asks it once, with a probe. Does not read
photos, and does not know how findings are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bibwatch.errors import BibwatchError, ModelBusyError, ModelFaultError, ModelNotServedError, ModelTimeoutError
from bibwatch.registry import Registry
from bibwatch.runtimes.openai import Address, VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from bibwatch.stages.base import Stage, StageOptions


@dataclass(frozen=True)
class Finding:
    """The outcome of one step; `wrong` says that nothing further could be tried."""

    preset: str
    place: str
    step: str
    says: str
    seconds: float
    wrong: bool = False


def check(registry: Registry, options: StageOptions) -> Iterator[Finding]:
    """Yield what is found about a stage's model, on each of its servers. Raises ConfigurationError for bad options."""
    model = options.model_options
    if isinstance(model, VisionOpenAILikeApiOptions):
        for address in model.addresses:
            one = model.model_copy(update={"api_url": address.url})
            yield from _check(registry.build(options.model_copy(update={"model_options": one})), address)
    else:
        yield from _check(registry.build(options), None)


def _check(stage: Stage[Any], address: Address | None) -> Iterator[Finding]:
    steps: list[tuple[str, Callable[[], str]]] = [("load", lambda: _load(stage)), ("probe", lambda: _probe(stage))]
    if isinstance(stage.runtime, VisionOpenAILikeApi) and address:
        runtime = stage.runtime
        steps[1:1] = [("server", lambda: _server(runtime, address))]
    model = stage.options.model_options
    try:
        for step, find in steps:
            start = time.perf_counter()
            try:
                says, wrong = find(), False
            except BibwatchError as exc:
                says, wrong = str(exc), True
            yield Finding(model.name, model.place, step, says, time.perf_counter() - start, wrong)
            if wrong:
                return
    finally:
        stage.close()


def _load(stage: Stage[Any]) -> str:
    stage.load()
    return "key and certificates, if any, are there" if isinstance(stage.runtime, VisionOpenAILikeApi) else "loaded"


def _server(runtime: VisionOpenAILikeApi, address: Address) -> str:
    """Ask for the list of models. Not every server has one: that it answers is what counts."""
    name = runtime.options.model_name
    try:
        models = runtime.models(address)
    except ModelTimeoutError:
        raise
    except (ModelNotServedError, ModelFaultError, ModelBusyError) as exc:
        return f"answers, but lists no models ({exc})"
    return f"lists {name}" if name in models else f"answers, but does not list {name}; it lists: {', '.join(models)}"


def _probe(stage: Stage[Any]) -> str:
    stage.warm_up()
    return "answered"
