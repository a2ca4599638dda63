"""`bibwatch stages`: what can be done with the photos."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_config
from bibwatch.errors import ConfigurationError

if TYPE_CHECKING:
    from bibwatch.registry import Registry
    from bibwatch.settings import Settings


@click.command("stages")
@as_json
@for_config
def command(*, settings: Settings, as_json: bool) -> None:
    """List the stages: what each does, of which answers, and whether the preset in force can do it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    registry = settings.registry()
    rows = [_row(registry, name, settings.preset) for name in registry.stages]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    table = Table("stage", "kind", "works on", "preset", "what it does")
    for row in rows:
        table.add_row(*(escape(str(row.get(key) or "")) for key in ("stage", "kind", "works_on", "preset", "does")))
    Console().print(table)


def _row(registry: Registry, name: str, preset: str) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": name, "kind": registry.stage_table(name)["kind"]}
    try:
        options_type = registry.stage_class(name).options_type
        row |= {
            "does": (options_type.__doc__ or " ").strip().partition("\n")[0],
            "works_on": ", ".join(options_type.interpreters),
        }
        options = registry.stage_options(name, preset)
    except ConfigurationError as exc:
        return row | {"preset": None, "why_not": str(exc)}
    asked = {"preset": options.model_options.name, "question": options.question}
    return row | asked | {"options": options.model_dump(mode="json")}
