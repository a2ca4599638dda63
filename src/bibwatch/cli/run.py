"""`bibwatch run`: the daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import for_watching
from bibwatch.cli.stage_options import StageCommand

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("run", cls=StageCommand, short_help="Watch the camera folders and record the results.")
@click.option("--once", is_flag=True, help="Read the photos that are there, then exit.")
@for_watching
def command(*, settings: Settings, once: bool) -> None:
    """Watch the camera folders and record the results until stopped (Ctrl-C or SIGTERM)."""
    from bibwatch import logs
    from bibwatch.cli.progress import Progress
    from bibwatch.daemon import Daemon

    progress = Progress() if once and sys.stderr.isatty() else None
    logs.set_up_logs("warning" if progress else settings.log_level, settings.log_format)
    daemon = Daemon(settings, once=once, on_tick=progress.update if progress else None)
    if progress is None:
        daemon.run()
        return
    with progress:
        daemon.run()
