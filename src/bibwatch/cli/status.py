"""`bibwatch status`: the states of the files and of the camera folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_database, open_database, printable

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("status", short_help="Show the states of files and camera folders.")
@as_json
@for_database
def command(*, settings: Settings, as_json: bool) -> None:
    """Show the camera folders, the number of files in each state, and the oldest file in each."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from bibwatch.domain.states import MEANING, State
    from bibwatch.store.report import Report

    store = open_database(settings)
    report = Report(store)
    counts, cameras = report.counts(), report.camera_states()
    oldest = {row["state"]: row for row in report.oldest([state for state in State if state is not State.DONE])}
    running = store.locked_elsewhere()
    if as_json:
        states = [{"state": state, "files": counts.get(state, 0), "oldest": oldest.get(state)} for state in State]
        click.echo(json.dumps({"running": running, "cameras": cameras, "states": states}))
        return
    console = Console()
    console.print("bibwatch is running" if running else "bibwatch is [bold]not running[/bold]")
    table = Table("camera", Column("folder", overflow="fold"), "state", "problem", "since")
    for row in cameras:
        table.add_row(
            row["name"], *map(escape, (printable(row["path"]), row["state"], row["error"] or "", row["updated_at"]))
        )
    console.print(table)
    table = Table("state", "files", Column("oldest", overflow="fold"), "since", "why")
    for state in State:
        if number := counts.get(state, 0):
            row = oldest.get(state, {})
            table.add_row(
                state,
                str(number),
                escape(printable(row.get("path", ""))),
                row.get("updated_at", ""),
                escape(row.get("error") or (MEANING[state] if row else "")),
            )
    console.print(table)
