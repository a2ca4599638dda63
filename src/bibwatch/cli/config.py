"""`bibwatch config`: the configuration in force."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bibwatch.cli.options import for_watching, settings_from


@click.command("config")
@for_watching
def command(
    *,
    config: Path | None,
    stage: str | None,
    preset: str | None,
    cameras: tuple[str, ...],
    database: str | None,
) -> None:
    """Check the configuration and print all of it as JSON, passwords left out."""
    from bibwatch.store.database import redacted

    settings = settings_from(config=config, database=database, stage=stage, preset=preset, cameras=cameras)
    settings.registry().stage(settings.stage, settings.preset)
    shown = settings.model_dump(mode="json") | {"database_url": redacted(settings.database_url)}
    click.echo(json.dumps(shown, indent=2))
