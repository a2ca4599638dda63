"""`bibwatch retry`: queue files again that could not be read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import for_database, open_database
from bibwatch.domain.states import TROUBLE, State
from bibwatch.errors import BibwatchError

if TYPE_CHECKING:
    from bibwatch.settings import Settings


@click.command("retry", short_help="Queue failed files to be read again.")
@click.argument("files", nargs=-1, type=click.Path(path_type=str), metavar="[FILE]...")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(sorted(map(str, TROUBLE))),
    help="Only files in this state; may be repeated. [default: all of these]",
)
@for_database
def command(*, settings: Settings, files: tuple[str, ...], states: tuple[str, ...]) -> None:
    """Queue files to be read again that could not be read: the named ones, or all.

    A running daemon picks them up; otherwise the next `bibwatch run` does.
    """
    from bibwatch.store.ledger import Ledger

    ledger = Ledger(open_database(settings))
    chosen = [State(state) for state in states] or list(TROUBLE)
    number = ledger.retry(chosen, [os.path.abspath(file) for file in files])  # noqa: PTH100  # keeps links
    click.echo(f"{number} {'file' if number == 1 else 'files'} will be read again")
    if files and not number:
        raise BibwatchError("none of these files needs a retry (see `bibwatch status`)")
