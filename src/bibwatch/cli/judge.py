"""`bibwatch judge`: re-judge stored results, from the database alone."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_judging, open_database

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("judge", short_help="Re-judge stored results without reading any photo again.")
@as_json
@for_judging
def command(*, settings: Settings, as_json: bool) -> None:
    """Re-judge all stored results by the configured race and rules, and by the start list.

    Opens no photo, runs no model, and leaves people's decisions alone. The daemon does this itself when it starts
    with changed settings, and when the start list or the known form of the race changes.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bibwatch import rejudging
    from bibwatch.start_lists import CurrentStartList
    from bibwatch.store.entries import Entries
    from bibwatch.store.judgements import Judgements

    database = open_database(settings)
    judgements = Judgements(database)
    current = CurrentStartList(Entries(database), settings.start_list_file)
    current.load()
    judge = settings.judge_with(current.start_list)
    judge = replace(judge, race=judge.race.learning(judgements.clear_numbers()))
    last = rejudging.Progress()
    columns = (TextColumn("judged"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("", total=judgements.count())
        for so_far in rejudging.rejudge(judgements, judge):
            last = so_far
            progress.update(bar, completed=so_far.results)
    if as_json:
        click.echo(json.dumps(last._asdict()))
    else:
        click.echo(f"{last.results} results judged again, {last.changed} changed")
