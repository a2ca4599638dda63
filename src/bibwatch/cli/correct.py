"""`bibwatch correct`: a person's decision about a bib of one image."""

from __future__ import annotations

import getpass
import json
import os
from typing import TYPE_CHECKING

import click

from bibwatch.cli.options import as_json, for_database, open_database

if TYPE_CHECKING:
    from bibwatch.domain.box import Box
    from bibwatch.domain.decisions import Decision
    from bibwatch.settings import Settings


@click.command("correct", short_help="Accept, reject, correct or add a bib of an image.")
@click.argument("image", metavar="IMAGE|PATH")
@click.option("--bib", metavar="BIB", help="The bib to decide about, as `bib_results` shows it.")
@click.option("--to", "corrected_to", metavar="BIB", help="Correct it to this bib.")
@click.option("--accept", is_flag=True, help="Confirm that it is right.")
@click.option("--reject", is_flag=True, help="Mark it as wrong: not a bib, or not in this photo.")
@click.option("--add", metavar="BIB", help="Add a bib that was missed.")
@click.option("--box", metavar="X1,Y1,X2,Y2", help="Where the added bib is, in pixels of the upright photo.")
@click.option("--by", metavar="NAME", help="Who made the decision. [default: your user name]")
@click.option("--note", metavar="TEXT", help="The reason, for the record.")
@as_json
@for_database
def command(*, settings: Settings, image: str, as_json: bool, **given: str | None) -> None:
    """Record your decision about a bib of an image; give the image by its image_id or by a photo's path.

    A decision shows in `bib_results` at once and survives re-reading and re-judging. A later decision about the
    same bib supersedes it; both are kept.
    """
    from bibwatch.store.decisions import Decisions

    decision = _decision(**given)  # type: ignore[arg-type]
    decisions = Decisions(open_database(settings))
    image_id = decisions.image(image if image.isdecimal() else os.path.abspath(image))  # noqa: PTH100  # keeps links
    bibs = decisions.decide(image_id, decision)
    if as_json:
        click.echo(json.dumps({"image_id": image_id, "bibs": [each._asdict() for each in bibs]}))
    else:
        click.echo(f"image {image_id}: " + (", ".join(f"{each.bib} {each.verdict}" for each in bibs) or "no bib"))


def _decision(
    *,
    bib: str | None,
    corrected_to: str | None,
    accept: bool,
    reject: bool,
    add: str | None,
    box: str | None,
    by: str | None,
    note: str | None,
) -> Decision:
    from bibwatch.domain.candidates import normalized
    from bibwatch.domain.decisions import Action, Decision

    chosen = {Action.CORRECT: corrected_to is not None, Action.ACCEPT: accept, Action.REJECT: reject}
    actions = [action for action, is_chosen in chosen.items() if is_chosen]
    if add is not None and bib is None and not actions:
        actions = [Action.ADD]
    elif bib is None or add is not None or len(actions) != 1:
        raise click.UsageError("give --bib with one of --to, --accept or --reject; or give --add")
    if box is not None and add is None:
        raise click.UsageError("--box needs --add")
    if any(number is not None and not normalized(number) for number in (bib, add, corrected_to)):
        raise click.UsageError("a bib must not be empty")
    return Decision(
        bib=normalized(str(bib if add is None else add)),
        action=actions[0],
        by=by or _user(),
        corrected_to=normalized(corrected_to) if corrected_to is not None else None,
        box=_box(box) if box is not None else None,
        note=note,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the uid has no passwd entry, as in some containers
        return f"uid {os.getuid()}"


def _box(written: str) -> Box:
    from bibwatch.domain.box import Box

    try:
        x1, y1, x2, y2 = map(float, written.split(","))
    except ValueError:
        raise click.UsageError(f"--box {written}: give four numbers, such as 100,200,300,260") from None
    if not (0 <= x1 < x2 < float("inf") and 0 <= y1 < y2 < float("inf")):
        raise click.UsageError(f"--box {written}: the order is left,top,right,bottom")
    return Box(x1, y1, x2, y2)
