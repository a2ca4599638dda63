"""`bibwatch entries`: the start list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_database, open_database, printable

if TYPE_CHECKING:
    from bibwatch.settings import Settings
    from bibwatch.store.database import Database


@click.group("entries", invoke_without_command=True, short_help="Show, import or remove the start list.")
@as_json
@for_database
def command(*, settings: Settings, as_json: bool) -> None:
    """Show the start list in force.

    A start list configured as race.start_list is loaded by the daemon, again whenever the file changes; without one,
    `bibwatch entries import` takes a list into the database.
    """
    context = click.get_current_context()
    # An option given before `import` or `clear` counts there, too.
    context.default_map = dict.fromkeys(("import", "clear"), context.params)
    if context.invoked_subcommand is None:
        _list(open_database(settings), as_json=as_json)


def _list(database: Database, *, as_json: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from bibwatch.store.entries import Entries

    entries = Entries(database)
    found = list(entries)
    if as_json:
        for each in found:
            click.echo(json.dumps({"bib": each.bib, "fields": each.fields}))
        return
    stored = entries.stored()
    if stored is None:
        click.echo("no start list; `bibwatch entries import FILE` takes one")
        return
    names = list(dict.fromkeys(name for each in found for name in each.fields))
    table = Table("bib", *map(escape, names))
    for each in found:
        table.add_row(*map(escape, (each.bib, *(each.fields.get(name, "") for name in names))))
    Console().print(table)
    click.echo(f"{len(found)} entries of {printable(stored.source)}, imported at {stored.imported_at}")


@command.command("import", short_help="Take a CSV or XLSX file as the start list.")
@click.argument("file", type=click.Path(path_type=Path))
@as_json
@for_database
def import_(*, settings: Settings, file: Path, as_json: bool) -> None:
    """Take a CSV or XLSX file as the start list, in the place of the former one.

    The column with the bibs is found by its header (bib, number, startnummer, dossard, dorsal, ...). A running daemon
    notices, and judges all images again; without one, `bibwatch judge` does.
    """
    from bibwatch import entry_files
    from bibwatch.store.entries import Entries

    _refuse_configured(settings)
    database = open_database(settings, create=True)
    found = entry_files.load(file)
    changed = Entries(database).replace(found.entries, str(file.absolute()))
    facts = {"entries": len(found.entries), "column": found.column, "columns": found.columns, "notes": found.notes}
    if as_json:
        click.echo(json.dumps(facts | {"changed": changed}))
        return
    for note in found.notes:
        click.echo(f"{printable(str(file))}: {note}", err=True)
    column = f"column {found.column!r}" if found.column is not None else "the only column, without a header"
    others = f"; also {', '.join(found.columns)}" if found.columns else ""
    click.echo(f"{len(found.entries)} entries, the bibs from {column}{others}" + ("" if changed else "; no change"))
    _say_who_judges(database)


@command.command("clear", short_help="Remove the start list.")
@for_database
def clear(*, settings: Settings) -> None:
    """Remove the start list: images are judged without one."""
    from bibwatch.store.entries import Entries

    _refuse_configured(settings)
    database = open_database(settings)
    if not Entries(database).clear():
        click.echo("there was no start list")
        return
    click.echo("the start list is removed")
    _say_who_judges(database)


def _refuse_configured(settings: Settings) -> None:
    file = settings.start_list_file
    if file is not None:
        raise click.UsageError(
            f"the start list is race.start_list ({printable(str(file))}): change that file or the setting"
        )


def _say_who_judges(database: Database) -> None:
    running = database.locked_elsewhere()
    click.echo(
        "bibwatch is running and judges again by itself" if running else "`bibwatch judge` judges again what was read"
    )
