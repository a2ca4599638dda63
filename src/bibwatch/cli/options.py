"""Options that commands share, and the settings they result in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from bibwatch.settings import Settings
    from bibwatch.store.database import Database

F = TypeVar("F", bound=Callable[..., Any])

_config = click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Configuration file. [default: ./config.toml]"
)
_database = click.option("--database", metavar="URL", help="Database with the results, such as sqlite:///race.db.")
_camera = click.option(
    "--camera", "cameras", multiple=True, metavar="NAME=PATH", help="A camera's folder; may be repeated."
)
_bibs = click.option(
    "--bibs",
    metavar="REGEX",
    help=r"What the race's bibs look like, such as '\d{3,4}'. [default: 2-5 digits, or a letter and 3-5 digits]",
)
_accept_at = click.option(
    "--accept-at", type=click.FloatRange(0, 1), metavar="P", help="Minimum probability of an accepted reading."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


def for_config(command: F) -> F:
    """Pass `settings` to a command that needs the configuration only."""
    return _with_settings(command, _config)


def for_database(command: F) -> F:
    """Pass `settings` to a command that uses the database."""
    return _with_settings(command, _config, _database)


def for_folders(command: F) -> F:
    """Pass `settings` to a command that uses the camera folders and the database."""
    return _with_settings(command, _config, _camera, _database)


def for_reading(command: F) -> F:
    """Pass `settings` to a StageCommand that reads photos."""
    return _with_settings(command, _config, _bibs, _accept_at, check=True)


def for_judging(command: F) -> F:
    """Pass `settings` to a command that judges stored results."""
    return _with_settings(command, _config, _database, _bibs, _accept_at)


def for_watching(command: F) -> F:
    """Pass `settings` to a StageCommand that uses all of these."""
    return _with_settings(command, _config, _camera, _database, _bibs, _accept_at, check=True)


def _with_settings(command: F, *options: Callable[[Any], Any], check: bool = False) -> F:
    """Add options to a command, and call it with the settings they result in.

    With `check`, every configured preset and stage must be valid; read-only commands do without.
    """

    @functools.wraps(command)
    def call(
        *,
        config: Path | None,
        database: str | None = None,
        stage: str | None = None,
        preset: str | None = None,
        cameras: tuple[str, ...] = (),
        **others: Any,
    ) -> Any:
        from bibwatch import settings
        from bibwatch.cli import stage_options
        from bibwatch.cli.stage_options import model_flag

        race = _given(bibs=others.pop("bibs", None), accept_at=others.pop("accept_at", None))
        folders = dict(map(_named_path, cameras))
        given = _given(database_url=database, stage=stage, preset=preset, cameras=folders or None, race=race or None)
        of_stages = stage_options.given(click.get_current_context())
        if preset is not None:  # --preset takes precedence over the stage's own model
            chosen = stage or settings.load(config).stage
            if "model_options" in of_stages.setdefault(chosen, {}):
                raise click.UsageError(f"--preset and {model_flag(chosen)} set the same option; give one")
            of_stages[chosen]["model_options"] = preset
        if of_stages:
            given["stages"] = of_stages
        found = settings.load(config, **given)
        for name in of_stages:
            if name != found.stage:
                raise click.UsageError(
                    f"options of stage {name} are given, but the stage is {found.stage}; add --stage {name}"
                )
        if check:
            found.registry().check()
        return command(settings=found, **others)

    for option in reversed(options):
        call = option(call)
    return cast("F", call)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def open_database(settings: Settings, *, create: bool = False) -> Database:
    """Open the database. Raises ConfigurationError if there is none, unless it may be created."""
    from bibwatch.store.database import Database

    database = Database(settings.database_url)
    click.get_current_context().call_on_close(database.close)
    if create and database.file and not database.file.exists():
        database.migrate()
    database.check()
    return database


def require_bibs(settings: Settings, what: str) -> None:
    """Raise a usage error if the chosen stage reads something else than bibs."""
    if "candidates" not in settings.registry().stage_class(settings.stage).options_type.value_kinds():
        raise click.UsageError(f"{what} is about bibs, and stage {settings.stage} reads none")


def printable(path: str) -> str:
    """Return a path that is safe to print on a terminal: control characters are escaped."""
    return path if path.isprintable() else ascii(path)


def _named_path(text: str) -> tuple[str, dict[str, str]]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise click.UsageError(f"--camera {text!r}: give a name and a folder, such as finish=/srv/drop/finish")
    return name, {"path": path}
