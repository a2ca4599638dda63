"""`bibwatch audit`: is every photo in the folders accounted for?"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_folders, open_database, printable
from bibwatch.errors import BibwatchError, ConfigurationError

if TYPE_CHECKING:
    from bibwatch.settings import Settings


_CHUNK = 1000  # files looked up at a time


@click.command("audit", short_help="List photos that are missing from the database or have changed.")
@as_json
@for_folders
def command(*, settings: Settings, as_json: bool) -> None:
    """Compare the camera folders with the database and list every photo that is missing from it or has changed.

    Exits with 1 if there are any.
    """
    from bibwatch.domain.states import State
    from bibwatch.ingest import scanning
    from bibwatch.store.ledger import Ledger

    if not settings.cameras:
        raise ConfigurationError("no camera folder to audit; give one, such as --camera finish=/srv/drop/finish")
    ledger = Ledger(open_database(settings))
    problems: list[str] = []
    number = 0
    for name, camera in settings.cameras.items():
        entries = scanning.walk(str(camera.path), problems.append)
        try:
            while chunk := {entry.path: entry.stat for entry in islice(entries, _CHUNK)}:
                number += len(chunk)
                recorded = ledger.recorded(name, chunk)
                for path, stat in chunk.items():
                    file = recorded.get(path)
                    if not file or file.state is State.GONE or (file.stat != stat and file.state is not State.SETTLING):
                        problems.append(f"missing or changed: {path}")
        except OSError as exc:
            problems.append(f"cannot list {camera.path}: {exc.strerror}")
    for line in problems:
        click.echo(json.dumps({"problem": line}) if as_json else printable(line))
    if problems:
        raise BibwatchError(f"{len(problems)} of {number} photos or folders are not accounted for")
    click.echo(json.dumps({"photos": number}) if as_json else f"all {number} photos are accounted for")
