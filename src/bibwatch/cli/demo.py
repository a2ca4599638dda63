"""`bibwatch demo`: the daemon reading photos that bibwatch draws."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bibwatch.errors import BibwatchError

if TYPE_CHECKING:
    from rich.console import Console

RUNNERS = (("1042",), ("0317", "88"), ("2456",), ("M10151",), ("731", "1980", "645"), ("5208",))
# The first query of docs/sql.md.
QUERY = """\
SELECT bib, count(*) AS photos, min(captured_at) AS first_seen, max(confidence) AS confidence
FROM bib_results WHERE verdict = 'accepted' GROUP BY bib ORDER BY first_seen, bib"""


@click.command("demo", short_help="Run the daemon on generated photos.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder to create for the demo. [default: a temporary folder]"
)
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait for all photos to be read.")
def command(*, folder: Path | None, timeout: float) -> None:
    """Start the daemon on a new folder, write photos to it as a camera would, and show the bibs that are read."""
    from rich.console import Console

    from bibwatch import drawing

    console = Console()
    place = _fresh(folder)
    camera, database = place / "finish", place / "bibwatch.db"
    camera.mkdir()
    console.print(f"Starting `bibwatch run` on {camera}", soft_wrap=True, markup=False)
    with (place / "bibwatch.log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "bibwatch", "run", "--camera", f"finish={camera}"],
            env={**_clean_environment(), "BIBWATCH_DATABASE_URL": f"sqlite:///{database}"},
            cwd=place,
            stderr=log,
        )
    try:
        _await_database(daemon, database, timeout)
        card = camera / "DCIM" / "100CANON"
        card.mkdir(parents=True)
        photos = [drawing.jpeg(drawing.photo(bibs, seed=number)) for number, bibs in enumerate(RUNNERS)]
        _show(console, daemon, database, dict(_named(card, photos)), timeout)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
    console.print(f"\nsqlite3 {database}\n{QUERY};\n", soft_wrap=True, markup=False)
    console.print(_table(database))
    console.print(f"Database: {database}, daemon log: {place / 'bibwatch.log'}", soft_wrap=True, markup=False)


def _fresh(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="bibwatch-demo-"))
    try:
        folder.mkdir(parents=True)
    except FileExistsError as exc:
        raise click.UsageError(f"--folder {folder} already exists; name a new one") from exc
    except OSError as exc:
        raise BibwatchError(f"--folder {folder} cannot be created: {exc.strerror}") from exc
    return folder.resolve()


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BIBWATCH_")}


def _await_database(daemon: subprocess.Popen[bytes], database: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not _rows(database, "SELECT name FROM cameras"):
        _check(daemon, deadline)
        time.sleep(0.1)


def _check(daemon: subprocess.Popen[bytes], deadline: float) -> None:
    if daemon.poll() is not None:
        raise BibwatchError(f"the daemon exited with code {daemon.returncode}; see bibwatch.log")
    if time.monotonic() > deadline:
        raise BibwatchError("the daemon took too long; see bibwatch.log")


def _named(card: Path, photos: list[bytes]) -> Iterator[tuple[Path, bytes]]:
    for number, data in enumerate(photos, 1):
        yield card / f"IMG_{number:04}.JPG", data


def _show(
    console: Console, daemon: subprocess.Popen[bytes], database: Path, photos: dict[Path, bytes], timeout: float
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from bibwatch import drawing

    shown: set[tuple[Any, ...]] = set()
    deadline = time.monotonic() + timeout
    columns = (TextColumn("photos read"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(photos))
        waiting = list(photos.items())
        while not progress.finished:
            if waiting:
                path, data = waiting.pop(0)
                drawing.write_like_a_camera(data, path)
            for row in _rows(database, "SELECT path, bib, confidence, verdict FROM bib_results"):
                if row not in shown:
                    shown.add(row)
                    console.print(f"{Path(row[0]).name}  bib [bold]{row[1]:>7}[/bold]  {row[2]:.1%}  {row[3]}")
            done = _rows(database, "SELECT count(*) FROM image_status WHERE state = 'done'")
            progress.update(task, completed=done[0][0] if done else 0)
            _check(daemon, deadline)
            time.sleep(0.3)


def _rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    """Query the database as any SQL client would, while the daemon writes."""
    if not database.exists():
        return []
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # the tables do not exist yet
        return []
    finally:
        connection.close()


def _table(database: Path) -> Any:
    from rich.table import Table

    table = Table("bib", "photos", "first_seen", "confidence")
    for row in _rows(database, QUERY):
        table.add_row(*map(str, row))
    return table
