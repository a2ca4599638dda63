"""`bibwatch audit`: is every photo in the folders accounted for?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from bibwatch.cli.options import as_json, for_watching, open_database, settings_from, shown
from bibwatch.errors import BibwatchError


@click.command("audit")
@as_json
@for_watching
def command(
    *,
    as_json: bool,
    config: Path | None,
    stage: str | None,
    preset: str | None,
    cameras: tuple[str, ...],
    database: str | None,
) -> None:
    """Compare the camera folders with the ledger: list every photo that is not in it or has changed since.

    Exits with 1 if there is one.
    """
    from bibwatch.ingest import scanning
    from bibwatch.store.ledger import Ledger

    settings = settings_from(config=config, database=database, stage=stage, preset=preset, cameras=cameras)
    ledger = Ledger(open_database(settings))
    trouble: list[str] = []
    number = 0
    for name, camera in settings.cameras.items():
        known = ledger.settled(name)
        try:
            for entry in scanning.walk(str(camera.path), trouble.append):
                number += 1
                if known.get(entry.path) != entry.stat:
                    trouble.append(f"not in the ledger: {entry.path}")
        except OSError as exc:
            trouble.append(f"cannot list {camera.path}: {exc.strerror}")
    for line in trouble:
        click.echo(json.dumps({"problem": line}) if as_json else shown(line))
    if trouble:
        raise BibwatchError(f"{len(trouble)} of {number} photos or folders are not accounted for")
    click.echo(json.dumps({"photos": number}) if as_json else f"all {number} photos are accounted for")
