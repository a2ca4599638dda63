"""`bibwatch eval`: how well the bibs of labelled photos are read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bibwatch.cli.options import as_json, for_reading, printable, require_bibs
from bibwatch.cli.stage_options import StageCommand
from bibwatch.errors import BibwatchError

if TYPE_CHECKING:
    from rich.console import Console

    from bibwatch.evaluation import Estimate, JudgedPhoto, Miss, Quality, ReadPhoto, Summary, Threshold, WrongReading
    from bibwatch.evaluation_report import Setup
    from bibwatch.labels import LabelledPhoto
    from bibwatch.settings import Settings
    from bibwatch.stages.base import Stage

_WIDTH = 100  # characters; the tables are no use in fewer
_ROUND = 4
_REPORT = "report.html"


@click.command("eval", cls=StageCommand, short_help="Measure how well labelled photos are read.")
@click.argument("labels_file", type=click.Path(path_type=Path), metavar="LABELS.csv")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the photos. [default: images/ beside LABELS.csv, or else its own folder]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Write {_REPORT} there: figures, plots, and a picture of every mistake.",
)
@as_json
@for_reading
def command(*, settings: Settings, labels_file: Path, images: Path | None, report: Path | None, as_json: bool) -> None:
    """Read photos with known bibs and tell how many of them are read right; nothing is recorded.

    LABELS.csv has the columns file and bibs (separated by spaces), and if known boxes (JSON: [[x1, y1, x2, y2], ...])
    and race; each race is judged as an event of its own. Beside it may lie extras.csv (file, bib: neither right nor
    wrong) and label-notes.csv (file, labelled, seen: either is right).

    Exits with 1 if any of the photos could not be read.
    """
    from bibwatch import evaluation
    from bibwatch.evaluation_report import Setup
    from bibwatch.labels import read_labels

    require_bibs(settings, "eval")
    photos = read_labels(labels_file, images)
    if report:
        _make_folder(report)
    chosen = settings.registry().stage(settings.stage, settings.preset)
    with chosen:
        chosen.warm_up()
        start = time.perf_counter()
        reads = _read(chosen, photos, settings)
        seconds = (time.perf_counter() - start) / len(photos)
    race, rules = settings.judge().race, settings.judging
    judged = evaluation.judge_photos(reads, race, rules)
    thresholds = evaluation.sweep(reads, race, rules)
    model = chosen.options.model_options
    setup = Setup(labels_file.name, settings.stage, model.name, model.model, race.accept_at, seconds)
    if as_json:
        click.echo(json.dumps(_record(setup, judged, thresholds)))
    else:
        _print(setup, judged, thresholds)
    for each in judged:
        if each.read.error is not None:
            click.echo(f"{printable(each.photo.file)}: {each.read.error}", err=True)
    if report:
        _write_report(report / _REPORT, setup, judged, thresholds, settings)
    if any(each.read.error is not None for each in judged):
        click.get_current_context().exit(1)


def _read(stage: Stage[Any], photos: Sequence[LabelledPhoto], settings: Settings) -> list[ReadPhoto]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bibwatch import recognition
    from bibwatch.evaluation import ReadPhoto

    columns = (TextColumn("reading photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        answers = recognition.read(stage, [str(photo.path) for photo in photos], settings.images)
        return [
            ReadPhoto(photo, error=recognition.reason(answer))
            if isinstance(answer, Exception)
            else ReadPhoto(photo, answer[1].candidates)
            for photo, (_, answer) in progress.track(zip(photos, answers, strict=True), total=len(photos))
        ]


def _make_folder(report: Path) -> None:
    """Make the report's folder before the photos are read: the reading may take long."""
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BibwatchError(f"--report {report}: cannot be made a folder: {exc.strerror}") from exc


def _write_report(
    file: Path, setup: Setup, judged: Sequence[JudgedPhoto], thresholds: Sequence[Threshold], settings: Settings
) -> None:
    from bibwatch import evaluation_report

    text = evaluation_report.page(setup, judged, thresholds, settings.images)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise BibwatchError(f"{file} cannot be written: {exc.strerror}") from exc
    click.echo(f"report: {printable(str(file))}", err=True)


def _record(setup: Setup, judged: Sequence[JudgedPhoto], thresholds: Sequence[Threshold]) -> dict[str, Any]:
    from bibwatch import evaluation

    return {
        "labels": setup.labels,
        "stage": setup.stage,
        "preset": setup.preset,
        "model": setup.model,
        "accept_at": setup.accept_at,
        "seconds_per_photo": _rounded(setup.seconds_per_photo),
        **_summary(evaluation.summarize(judged)),
        "races": {name: _summary(evaluation.summarize(photos)) for name, photos in evaluation.by_race(judged).items()},
        "sweep": [
            {
                "accept_at": each.accept_at,
                "right": each.accepted.right,
                "wrong": each.accepted.wrong,
                "precision": _rounded(each.accepted.precision),
                "recall": _rounded(each.accepted.recall),
                "reviews_per_photo": _rounded(each.reviews / len(judged)),
            }
            for each in thresholds
        ],
        "reliability": [
            {"from": each.low, "to": each.high, "readings": each.readings}
            | {"mean_probability": _rounded(each.mean_probability), "share_right": _rounded(each.share_right)}
            for each in evaluation.reliability(judged)
        ],
        "misses": [_miss(each) for each in evaluation.misses(judged)],
        "wrong": [_wrong(each) for each in evaluation.wrong_readings(judged)],
        "errors": {each.photo.file: each.read.error for each in judged if each.read.error is not None},
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "photos": summary.photos,
        "failed": summary.failed,
        "labelled": summary.all.score.labelled,
        "all": _quality(summary.all),
        "accepted": _quality(summary.accepted),
        "candidate_recall": _rounded(summary.candidate_recall),
        "reviews": summary.reviews,
        "reviews_per_photo": _rounded(summary.reviews_per_photo),
    }


def _quality(quality: Quality) -> dict[str, Any]:
    counts = {"right": quality.score.right, "wrong": quality.score.wrong}
    return counts | {name: _estimate(getattr(quality, name)) for name in ("precision", "recall", "f")}


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in estimate._asdict().items()}


def _miss(miss: Miss) -> dict[str, Any]:
    nearest = [
        {
            "text": each.candidate.text,
            "score": _rounded(each.candidate.score),
            "verdict": each.verdict,
            "reasons": each.reasons,
        }
        for each in miss.nearest
    ]
    return {"file": miss.photo.file, "bib": miss.label.bib, "nearest": nearest}


def _wrong(wrong: WrongReading) -> dict[str, Any]:
    reading = wrong.reading
    return {
        "file": wrong.photo.file,
        "bib": reading.bib,
        "verdict": reading.verdict,
        "probability": _rounded(reading.probability),
        "reasons": list(map(str, reading.reasons)),
        "box": reading.box and reading.box.rounded(),
        "nearest_label": wrong.nearest,
    }


def _print(setup: Setup, judged: Sequence[JudgedPhoto], thresholds: Sequence[Threshold]) -> None:
    from rich.console import Console

    from bibwatch import evaluation
    from bibwatch.evaluation_report import number, percent

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    total = evaluation.summarize(judged)
    races = {name: evaluation.summarize(photos) for name, photos in evaluation.by_race(judged).items()}
    console.print(f"preset {setup.preset}, {setup.seconds_per_photo:.2f} seconds a photo\n", markup=False)
    _print_quality(console, "all photos", total)
    for name, summary in races.items() if len(races) > 1 else ():
        _print_quality(console, name or "no race named", summary)
    _print_rows(
        console,
        ("accept_at", "right", "wrong", "precision", "recall", "reviews a photo"),
        [
            (
                f"{each.accept_at:g}" + " (set)" * (each.accept_at == setup.accept_at),
                str(each.accepted.right),
                str(each.accepted.wrong),
                percent(each.accepted.precision),
                percent(each.accepted.recall),
                number(each.reviews / total.photos),
            )
            for each in thresholds
        ],
        title="accepted readings, by accept_at",
    )
    _print_rows(
        console,
        ("probability", "readings", "mean probability", "share right"),
        [
            (f"{low:g} to {high:g}", str(readings), percent(probability), percent(right))
            for low, high, readings, probability, right in evaluation.reliability(judged)
        ],
        title="reliability of all readings",
    )


def _print_quality(console: Console, name: str, summary: Summary) -> None:
    from bibwatch.evaluation_report import number, percent

    rows = []
    for which, quality in (("all", summary.all), ("accepted", summary.accepted)):
        cells = map(_with_interval, (quality.precision, quality.recall, quality.f))
        rows.append((which, str(quality.score.right), str(quality.score.wrong), *cells))
    title = (
        f"{name}: {summary.photos} photos, {summary.all.score.labelled} bibs, {percent(summary.candidate_recall)} of "
        f"them among the candidates; {number(summary.reviews_per_photo)} reviews a photo"
    )
    heads = ("readings", "right", "wrong", "precision (95 %)", "recall (95 %)", "F (95 %)")
    _print_rows(console, heads, rows, title=title)


def _with_interval(estimate: Estimate) -> str:
    from bibwatch.evaluation_report import percent

    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} ({estimate.low * 100:.1f} to {estimate.high * 100:.1f})"


def _print_rows(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], *, title: str) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Column, Table

    columns = (Column(head, justify="right" if place else "left") for place, head in enumerate(heads))
    console.print(title, style="bold", markup=False, soft_wrap=True)
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _ROUND)
