"""`bibwatch check`: whether the configured models work and the start list loads, and why not."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_reading
from bibwatch.cli.stage_options import StageCommand

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("check", cls=StageCommand, short_help="Test the model and its fallbacks with a small image.")
@as_json
@for_reading
def command(*, settings: Settings, as_json: bool) -> None:
    """Send one small image to the model, then to its fallbacks, and say what is wrong if one does not answer.

    With --preset, check only that one. A configured start list is loaded first. Exits with 1 if any check fails.
    """
    from bibwatch.diagnosis import check, check_start_list

    registry = settings.registry()
    only = click.get_current_context().get_parameter_source("preset") is click.core.ParameterSource.COMMANDLINE
    line_up = registry.line_up(settings.stage, settings.preset, [] if only else settings.fallback_presets)
    of_file = [check_start_list(settings.start_list_file)] if settings.start_list_file else []
    wrong = False
    title = ""
    for finding in chain(of_file, *(check(registry, options) for options in line_up)):
        wrong |= finding.wrong
        if as_json:
            click.echo(json.dumps(asdict(finding) | {"seconds": round(finding.seconds, 3)}))
            continue
        if title != (title := f"{finding.preset} at {finding.place}"):
            click.echo(title)
        mark = click.style("FAIL", fg="red") if finding.wrong else click.style("ok  ", fg="green")
        click.echo(f"  {mark} {finding.step}: {finding.says} ({finding.seconds * 1000:.0f} ms)")
    if wrong:
        click.get_current_context().exit(1)
