"""`bibwatch read`: one look at photos, without a database."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_reading, shown

if TYPE_CHECKING:
    from bibwatch.images import Photo
    from bibwatch.settings import Settings
    from bibwatch.stages.base import Outcome, Stage

Answer = tuple[str, "Photo | None", "Outcome | None", str | None]


@click.command("read")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=str), metavar="FILE...")
@as_json
@for_reading
def command(*, settings: Settings, files: tuple[str, ...], as_json: bool) -> None:
    """Read photos and print what is in them; nothing is recorded.

    Exits with 1 if any of them could not be read.
    """
    chosen = settings.registry().stage(settings.stage, settings.preset)
    chosen.runtime.load()
    failed = False
    for path, photo, outcome, error in _answers(files, settings, chosen):
        failed |= error is not None
        if as_json:
            click.echo(json.dumps(_record(path, photo, outcome, error)))
        elif error is not None:
            click.echo(f"{shown(path)}: {error}", err=True)
        elif outcome is not None:
            click.echo(f"{shown(path)}: {_text(outcome)}")
    if failed:
        click.get_current_context().exit(1)


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
    from bibwatch import files, images
    from bibwatch.errors import PhotoError

    try:
        data = files.read(os.path.realpath(path), max_bytes=settings.images.max_bytes)
        return images.decode(data, limits=settings.images, longest_side=stage.longest_side)
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
            "box": reading.box and [round(side, 1) for side in vars(reading.box).values()],
        }
        for reading in outcome.readings
    ]
    record: dict[str, Any] = {"path": path, "sha256": photo.sha256, "width": photo.width, "height": photo.height}
    record |= {"bibs": readings} if outcome.output is None else {"output": outcome.output}
    return record | {"device": outcome.device, "seconds": round(outcome.seconds, 3)}


def _text(outcome: Outcome) -> str:
    if outcome.output is not None:
        return json.dumps(outcome.output, ensure_ascii=False)
    parts = [
        f"{reading.bib} ({reading.confidence:.0%}{', review' if reading.verdict == 'review' else ''})"
        for reading in sorted(outcome.readings, key=lambda reading: -reading.confidence)
    ]
    return ", ".join(parts) or "no bib"
