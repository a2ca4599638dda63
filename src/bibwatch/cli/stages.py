"""`bibwatch stages`: what can be done with the photos."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_config

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("stages")
@as_json
@for_config
def command(*, settings: Settings, as_json: bool) -> None:
    """List the stages, with their options as configured."""
    from rich.console import Console
    from rich.table import Table

    registry = settings.registry()
    stages = {name: registry.stage(name, settings.preset) for name in registry.stages}
    if as_json:
        for name, stage in stages.items():
            click.echo(json.dumps({"stage": name, "options": stage.options.model_dump(mode="json")}))
        return
    table = Table("stage", "kind", "interpreter", "what it does")
    for name, stage in stages.items():
        says = (type(stage.options).__doc__ or "").strip().splitlines()[0]
        table.add_row(name, stage.options.kind, stage.options.model_interpreter_options.kind, says)
    Console().print(table)
