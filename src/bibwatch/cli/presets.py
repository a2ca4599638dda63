"""`bibwatch presets`: the models there are to choose from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bibwatch.cli.options import as_json, for_config, settings_from


@click.command("presets")
@as_json
@for_config
def command(*, as_json: bool, config: Path | None) -> None:
    """List the presets, built in and your own."""
    from rich.console import Console
    from rich.table import Table

    settings = settings_from(config=config)
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
