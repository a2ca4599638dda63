"""`bibwatch read`: one look at photos, without a database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_reading, shown
from bibwatch.cli.stage_options import StageCommand

if TYPE_CHECKING:
    from bibwatch.images import Photo
    from bibwatch.settings import Settings
    from bibwatch.stages.base import Outcome, Stage

Answer = tuple[str, "Photo | None", "Outcome | None", str | None]


@click.command("read", cls=StageCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=str), metavar="FILE...")
@as_json
@for_reading
def command(*, settings: Settings, files: tuple[str, ...], as_json: bool) -> None:
    """Read photos and print what is in them; nothing is recorded.

    Exits with 1 if any of them could not be read.
    """
    chosen = settings.registry().stage(settings.stage, settings.preset)
    chosen.load()
    failed = False
    for path, photo, outcome, error in _answers(files, settings, chosen):
        failed |= error is not None
        if as_json:
            click.echo(json.dumps(_record(path, photo, outcome, error)))
        elif error is not None:
            click.echo(f"{shown(path)}: {error}", err=True)
        elif outcome is not None:
            # What a stage other than bib_number says of one file stands alone, to be redirected into one.
            alone = outcome.output is not None and len(files) == 1
            click.echo(chosen.text(outcome) if alone else _headed(path, chosen.text(outcome)))
    if failed:
        click.get_current_context().exit(1)


def _headed(path: str, text: str) -> str:
    return f"{shown(path)}:\n{text}\n" if "\n" in text else f"{shown(path)}: {text}"


def _answers(files: tuple[str, ...], settings: Settings, stage: Stage[Any]) -> Iterator[Answer]:
    waiting = iter(files)
    while batch := list(islice(waiting, stage.options.model_options.batch_size)):
        photos = {path: _photo(path, settings, stage) for path in batch}
        good = {path: photo for path, photo in photos.items() if not isinstance(photo, str)}
        outcomes = dict(zip(good, stage.read(good.values()), strict=True))
        for path in batch:
            photo = photos[path]
            if isinstance(photo, str):
                yield path, None, None, photo
            else:
                outcome = outcomes[path]
                yield path, photo, outcome, str(outcome.error) if outcome.error else None


def _photo(path: str, settings: Settings, stage: Stage[Any]) -> Photo | str:
    from bibwatch import images
    from bibwatch.errors import PhotoError

    try:
        return images.open_photo(path, limits=settings.images, longest_side=stage.longest_side)
    except PhotoError as exc:
        return f"{exc.state}: {exc}"


def _record(path: str, photo: Photo | None, outcome: Outcome | None, error: str | None) -> dict[str, Any]:
    if photo is None or outcome is None or error is not None:
        return {"path": path, "error": error}
    readings = [
        {
            "bib": reading.bib,
            "confidence": round(reading.confidence, 4),
            "verdict": reading.verdict,
            "box": reading.box and reading.box.rounded(),
        }
        for reading in outcome.readings
    ]
    record: dict[str, Any] = {"path": path, "sha256": photo.sha256, "width": photo.width, "height": photo.height}
    record |= {"bibs": readings} if outcome.output is None else {"output": outcome.output}
    return record | {"device": outcome.device, "seconds": round(outcome.seconds, 3)}
