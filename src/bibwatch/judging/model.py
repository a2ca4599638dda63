"""How much each piece of evidence counts: an additive model, fitted by training/judge.py, shipped as `model.toml`.

The log-odds that a number is right are a sum: a constant, the form of the race, and for each piece of evidence what a
table says of its value. Tables only rise or only fall where that is what the evidence means. Knows numbers only.
"""

from __future__ import annotations

import math
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from bibwatch.judging.lines import LineEvidence


@dataclass(frozen=True)
class Table:
    """A step function: `values[i]` holds from `edges[i - 1]` to `edges[i]`."""

    edges: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, value: float) -> float:
        """Return the log-odds for a value."""
        return self.values[bisect_right(self.edges, value)]


@dataclass(frozen=True)
class Model:
    """The constant, the weight of the form, and a table for each piece of evidence."""

    constant: float
    form: float
    tables: Mapping[str, Table]

    def weigh(self, evidence: LineEvidence, form: float) -> dict[str, float]:
        """Return what each piece of evidence adds to the log-odds, `form` being that of the race's form."""
        weights = {name: table.at(getattr(evidence, name)) for name, table in self.tables.items()}
        return {"constant": self.constant, "form": self.form * form, **weights}

    def shortfall(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return how far each weight lies below the highest that its evidence can have; the form below 0."""
        below = {name: weights[name] - max(table.values) for name, table in self.tables.items()}
        return {"form": min(0.0, weights["form"]), **below}


def probability(weights: Mapping[str, float]) -> float:
    """Return the probability that weighed evidence stands for, 0 to 1."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, sum(weights.values())))))


def parse(text: str) -> Model:
    """Return the model that a TOML text describes. Raises ValueError for evidence that there is not."""
    data: dict[str, Any] = tomllib.loads(text)
    tables = {name: Table(tuple(each["edges"]), tuple(each["values"])) for name, each in data["evidence"].items()}
    if unknown := set(tables) - set(LineEvidence.names()):
        raise ValueError(f"there is no evidence called {', '.join(sorted(unknown))}")
    return Model(data["constant"], data["form"], tables)


@cache
def shipped() -> Model:
    """Return the model in the package."""
    return parse(resources.files("bibwatch.judging").joinpath("model.toml").read_text("utf-8"))
