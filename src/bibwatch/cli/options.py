"""Options that several commands share, and the settings they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bibwatch.settings import Settings
    from bibwatch.store.database import Database

F = TypeVar("F", bound=Callable[..., Any])

_config = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Configuration file. [default: ./config.toml]"
)
_database = click.option("--database", metavar="URL", help="Where the results are, such as sqlite:///race.db.")
_stage = click.option("--stage", metavar="NAME", help="What is done with the photos (see `bibwatch stages`).")
_preset = click.option("--preset", metavar="NAME", help="Which model does it (see `bibwatch presets`).")
_camera = click.option(
    "--camera", "cameras", multiple=True, metavar="NAME=PATH", help="A camera's folder; may be given several times."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def for_config(command: F) -> F:
    """Add the option every command has that reads the configuration."""
    return _config(command)


def for_database(command: F) -> F:
    """Add the options of commands that look into the database."""
    return _config(_database(command))


def for_reading(command: F) -> F:
    """Add the options of commands that read photos."""
    return _config(_stage(_preset(command)))


def for_watching(command: F) -> F:
    """Add the options of commands that watch folders."""
    return for_reading(_camera(_database(command)))


def settings_from(
    *,
    config: Path | None,
    database: str | None = None,
    stage: str | None = None,
    preset: str | None = None,
    cameras: tuple[str, ...] = (),
) -> Settings:
    """Make settings of the options given on the command line. Raises ConfigurationError or click.UsageError."""
    from bibwatch import settings

    overrides: dict[str, Any] = {"database_url": database, "stage": stage, "preset": preset}
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if cameras:
        overrides["cameras"] = dict(map(_named_path, cameras))
    return settings.load(config, **overrides)


def open_database(settings: Settings) -> Database:
    """Open the database for a look. Raises ConfigurationError if there is none yet."""
    from bibwatch.store.database import Database

    database = Database(settings.database_url)
    click.get_current_context().call_on_close(database.close)
    database.check()
    return database


def shown(path: str) -> str:
    """Write a path for a terminal: one that could play tricks there (control characters) as Python would."""
    return path if path.isprintable() else ascii(path)


def _named_path(text: str) -> tuple[str, dict[str, str]]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise click.UsageError(f"--camera {text!r}: give a name and a folder, such as finish=/srv/drop/finish")
    return name, {"path": path}
