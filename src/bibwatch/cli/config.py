"""`bibwatch config`: the effective configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import for_watching
from bibwatch.cli.stage_options import StageCommand

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("config", cls=StageCommand, short_help="Check and print the configuration.")
@for_watching
def command(*, settings: Settings) -> None:
    """Check the configuration and print all of it as JSON, without passwords."""
    from bibwatch.store.database import redacted

    registry = settings.registry()
    for options in registry.line_up(settings.stage, settings.preset, settings.fallback_presets):
        registry.build(options)
    effective = settings.model_dump(mode="json") | {"database_url": redacted(settings.database_url)}
    click.echo(json.dumps(effective, indent=2))
