"""`bibwatch read`: read photos once, without a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_reading, printable, require_bibs
from bibwatch.cli.stage_options import StageCommand
from bibwatch.errors import BibwatchError

if TYPE_CHECKING:
    from bibwatch.domain.readings import Reading
    from bibwatch.images import Photo
    from bibwatch.judging import Judge
    from bibwatch.recognition import ReadResult
    from bibwatch.settings import Settings
    from bibwatch.stages.base import Outcome


@click.command("read", cls=StageCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=str), metavar="FILE|DIR...")
@click.option(
    "--explain",
    "picture",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PNG",
    help="Draw what was seen in the photo, with verdicts and reasons; for one photo.",
)
@as_json
@for_reading
def command(*, settings: Settings, files: tuple[str, ...], picture: Path | None, as_json: bool) -> None:
    """Read photos and print what is in them; nothing is recorded.

    Folders are searched with their subfolders; photos are read in the order of their paths.

    Exits with 1 if any photo could not be read.
    """
    from bibwatch import recognition

    paths, failed = _paths(files)
    if picture:
        _check_explain(picture, paths, settings)
    chosen = settings.registry().stage(settings.stage, settings.preset)
    click.get_current_context().call_on_close(chosen.close)
    chosen.load()
    judge = settings.judge()
    for path, answer in recognition.read(chosen, paths, settings.images):
        failed |= isinstance(answer, Exception)
        if picture and not isinstance(answer, Exception):
            _explain(picture, *answer, judge)
        if as_json:
            click.echo(json.dumps(_record(path, answer, judge)))
        elif isinstance(answer, Exception):
            click.echo(f"{printable(path)}: {recognition.reason(answer)}", err=True)
        else:
            _, outcome = answer
            text = chosen.text(outcome) if outcome.output is not None else _text(judge, outcome)
            # The output of another stage for a single file has no heading, so that it can be redirected to a file.
            click.echo(text if outcome.output is not None and paths == [*files[:1]] else _with_heading(path, text))
    if failed:
        click.get_current_context().exit(1)


def _paths(files: tuple[str, ...]) -> tuple[list[str], bool]:
    """Return the photos that are meant, folders walked as a camera's are, and whether a folder was trouble."""
    from bibwatch.ingest import scanning

    found: list[str] = []
    trouble: list[str] = []
    for file in files:
        if not Path(file).is_dir():
            found.append(file)
            continue
        try:
            photos = sorted(entry.path for entry in scanning.walk(file, trouble.append) if entry.ends_as is None)
        except OSError as exc:
            trouble.append(f"{printable(file)}: cannot be listed: {exc.strerror}")
            continue
        if not photos:
            click.echo(f"{printable(file)}: no photos", err=True)
        found += photos
    for message in trouble:
        click.echo(message, err=True)
    return found, bool(trouble)


def _check_explain(picture: Path, paths: list[str], settings: Settings) -> None:
    from bibwatch import annotation

    if len(paths) != 1:
        raise click.UsageError(f"--explain draws one photo, not {len(paths)}")
    if picture.suffix.lower() != ".png":
        raise click.UsageError(f"--explain writes a PNG; name it so: {picture.with_suffix('.png')}")
    if picture.exists() and not annotation.is_own(picture):
        raise click.UsageError(f"--explain overwrites only what it has drawn, and {picture} is none of that")
    require_bibs(settings, "--explain")


def _explain(picture: Path, photo: Photo, outcome: Outcome, judge: Judge) -> None:
    from bibwatch import annotation
    from bibwatch.judging.explanation import explain

    drawn = annotation.annotate(photo, explain(outcome.candidates, judge.judge(outcome.candidates)))
    try:
        annotation.save(drawn, picture)
    except OSError as exc:
        raise BibwatchError(f"{picture} cannot be written: {exc.strerror or exc}") from exc


def _with_heading(path: str, text: str) -> str:
    return f"{printable(path)}:\n{text}\n" if "\n" in text else f"{printable(path)}: {text}"


def _text(judge: Judge, outcome: Outcome) -> str:
    from bibwatch.domain.readings import summary

    return summary(judge.judge(outcome.candidates).readings)


def _record(path: str, answer: ReadResult | Exception, judge: Judge) -> dict[str, Any]:
    from bibwatch.recognition import reason

    if isinstance(answer, Exception):
        return {"path": path, "error": reason(answer)}
    photo, outcome = answer
    bibs = [
        {
            "bib": reading.printed,
            "confidence": round(reading.probability, 4),
            "verdict": reading.verdict,
            "reasons": list(map(str, reading.reasons)),
            "box": reading.box and reading.box.rounded(),
            **_on_list(reading),
        }
        for reading in judge.judge(outcome.candidates).readings
    ]
    record: dict[str, Any] = {"path": path, "sha256": photo.sha256, "width": photo.width, "height": photo.height}
    record |= {"bibs": bibs} if outcome.output is None else {"output": outcome.output}
    return record | {"device": outcome.device, "seconds": round(outcome.seconds, 3)}


def _on_list(reading: Reading) -> dict[str, Any]:
    if reading.entry_match is None:
        return {}
    return {
        "entry_match": reading.entry_match,
        "entry": reading.entry,
        "near": [{"entry": near.entry, "difference": near.difference} for near in reading.near],
    }
