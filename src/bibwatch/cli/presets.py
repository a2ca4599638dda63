"""`bibwatch presets`: the models there are to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_config

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("presets")
@as_json
@for_config
def command(*, settings: Settings, as_json: bool) -> None:
    """List the presets, built in and your own."""
    from rich.console import Console
    from rich.table import Table

    registry = settings.registry()
    options = [registry.model_options(name) for name in registry.presets]
    if as_json:
        for each in options:
            click.echo(json.dumps(each.model_dump(mode="json") | {"model": each.model}))
        return
    table = Table("preset", "kind", "model", "images a batch")
    for each in options:
        table.add_row(each.name, each.kind, each.model, str(each.batch_size))
    Console().print(table)
