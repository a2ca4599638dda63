"""`bibwatch run`: the daemon."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bibwatch.cli.options import for_watching, settings_from


@click.command("run")
@click.option("--once", is_flag=True, help="Read what is there, then exit.")
@for_watching
def command(
    *,
    once: bool,
    config: Path | None,
    stage: str | None,
    preset: str | None,
    cameras: tuple[str, ...],
    database: str | None,
) -> None:
    """Watch the camera folders and record what is read, until SIGTERM."""
    from bibwatch import telemetry
    from bibwatch.cli.progress import Progress
    from bibwatch.daemon import Daemon

    settings = settings_from(config=config, database=database, stage=stage, preset=preset, cameras=cameras)
    progress = Progress() if once and sys.stderr.isatty() else None
    telemetry.set_up_logs("warning" if progress else settings.log_level, settings.log_format)
    daemon = Daemon(settings, once=once, on_tick=progress.update if progress else None)
    if progress is None:
        daemon.run()
        return
    with progress:
        daemon.run()
