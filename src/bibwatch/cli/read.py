"""`bibwatch read`: read photos once, without a database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_reading, printable
from bibwatch.cli.stage_options import StageCommand

if TYPE_CHECKING:
    from bibwatch.judging import Judge
    from bibwatch.recognition import ReadResult
    from bibwatch.settings import Settings
    from bibwatch.stages.base import Outcome


@click.command("read", cls=StageCommand)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=str), metavar="FILE...")
@as_json
@for_reading
def command(*, settings: Settings, files: tuple[str, ...], as_json: bool) -> None:
    """Read photos and print what is in them; nothing is recorded.

    Exits with 1 if any photo could not be read.
    """
    from bibwatch import recognition

    chosen = settings.registry().stage(settings.stage, settings.preset)
    chosen.load()
    failed = False
    judge = settings.judge()
    for path, answer in recognition.read(chosen, files, settings.images):
        failed |= isinstance(answer, Exception)
        if as_json:
            click.echo(json.dumps(_record(path, answer, judge)))
        elif isinstance(answer, Exception):
            click.echo(f"{printable(path)}: {recognition.reason(answer)}", err=True)
        else:
            _, outcome = answer
            text = chosen.text(outcome) if outcome.output is not None else _text(judge, outcome)
            # The output of another stage for a single file has no heading, so that it can be redirected to a file.
            click.echo(text if outcome.output is not None and len(files) == 1 else _with_heading(path, text))
    if failed:
        click.get_current_context().exit(1)


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
            "bib": reading.bib,
            "confidence": round(reading.probability, 4),
            "verdict": reading.verdict,
            "reasons": list(map(str, reading.reasons)),
            "box": reading.box and reading.box.rounded(),
        }
        for reading in judge.judge(outcome.candidates).readings
    ]
    record: dict[str, Any] = {"path": path, "sha256": photo.sha256, "width": photo.width, "height": photo.height}
    record |= {"bibs": bibs} if outcome.output is None else {"output": outcome.output}
    return record | {"device": outcome.device, "seconds": round(outcome.seconds, 3)}
