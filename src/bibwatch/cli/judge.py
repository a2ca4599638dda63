"""`bibwatch judge`: what was read is judged again, from the database alone."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_judging, open_database

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("judge", short_help="Judge again what has been read, without reading it again.")
@as_json
@for_judging
def command(*, settings: Settings, as_json: bool) -> None:
    """Judge all images again by the race and the rules of the configuration, and by the start list.

    No photo is opened and no model is asked; decisions of people stay. A daemon does this by itself when it starts
    with other settings, and when the start list changes.
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
        click.echo(f"{last.results} results judged again, {last.changed} with other readings than before")
