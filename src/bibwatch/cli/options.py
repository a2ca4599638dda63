"""Options that several commands share, and the settings they make."""

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
_database = click.option("--database", metavar="URL", help="Where the results are, such as sqlite:///race.db.")
_camera = click.option(
    "--camera", "cameras", multiple=True, metavar="NAME=PATH", help="A camera's folder; may be given several times."
)
_bibs = click.option(
    "--bibs", metavar="REGEX", help=r"What the race's bibs look like, such as '\d{3,4}'. [default: any number]"
)
_accept_at = click.option(
    "--accept-at", type=click.FloatRange(0, 1), metavar="P", help="Least probability of an accepted reading."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def for_config(command: F) -> F:
    """Give a command that reads the configuration its `settings`."""
    return _with_settings(command, _config)


def for_database(command: F) -> F:
    """Give a command that looks into the database its `settings`."""
    return _with_settings(command, _config, _database)


def for_folders(command: F) -> F:
    """Give a command that looks into camera folders and the database its `settings`."""
    return _with_settings(command, _config, _camera, _database)


def for_reading(command: F) -> F:
    """Give a command that reads photos its `settings`; the command is a StageCommand."""
    return _with_settings(command, _config, _bibs, _accept_at, check=True)


def for_judging(command: F) -> F:
    """Give a command that judges what is in the database its `settings`."""
    return _with_settings(command, _config, _database, _bibs, _accept_at)


def for_watching(command: F) -> F:
    """Give a command that does all of it its `settings`; the command is a StageCommand."""
    return _with_settings(command, _config, _camera, _database, _bibs, _accept_at, check=True)


def _with_settings(command: F, *options: Callable[[Any], Any], check: bool = False) -> F:
    """Add options to a command, and call it with the settings they make.

    With `check`, every preset and stage of the configuration has to be right; commands that only look go without.
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

        race = _given(bibs=others.pop("bibs", None), accept_at=others.pop("accept_at", None))
        folders = dict(map(_named_path, cameras))
        given = _given(database_url=database, stage=stage, preset=preset, cameras=folders or None, race=race or None)
        of_stages = stage_options.given(click.get_current_context())
        if preset is not None:  # a stage's own model gives way to the command line
            chosen = stage or settings.load(config).stage
            if "model_options" in of_stages.setdefault(chosen, {}):
                raise click.UsageError(f"--preset and the model of stage {chosen} are the same option; give one")
            of_stages[chosen]["model_options"] = preset
        if of_stages:
            given["stages"] = of_stages
        found = settings.load(config, **given)
        for name in of_stages:
            if name != found.stage:
                raise click.UsageError(
                    f"there are options of stage {name}, but the stage is {found.stage}: --stage {name}"
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
    """Open the database for a look. Raises ConfigurationError if there is none yet, unless it may be made."""
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


def shown(path: str) -> str:
    """Write a path for a terminal: one that could play tricks there (control characters) as Python would."""
    return path if path.isprintable() else ascii(path)


def _named_path(text: str) -> tuple[str, dict[str, str]]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise click.UsageError(f"--camera {text!r}: give a name and a folder, such as finish=/srv/drop/finish")
    return name, {"path": path}
