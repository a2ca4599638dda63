"""People's decisions about the bibs of an image. Never written by machines, and never overwritten."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, text, update

from bibwatch.domain.decisions import Action, Decision
from bibwatch.errors import BibwatchError
from bibwatch.store.database import Database
from bibwatch.store.results import box_row
from bibwatch.store.schema import decisions, files, images, now, path_to_text

_ID = re.compile(r"[0-9]{1,18}")  # fits into the column
# The view combines readings with decisions.
_EFFECTIVE = text("SELECT bib, verdict FROM bib_results WHERE image_id = :image")
# The judged or added bibs that are shown as this bib: those corrected to it, and itself unless corrected to another.
_ORIGINALS = text("""
    SELECT bib FROM decisions WHERE image_id = :image AND NOT superseded AND corrected_to = :bib
    UNION
    SELECT b.bib FROM readings b JOIN results r ON r.id = b.result_id AND NOT r.superseded
    WHERE r.image_id = :image AND (b.bib = :bib OR b.entry = :bib AND b.entry_match = 'exact') AND NOT EXISTS (
        SELECT 1 FROM decisions d
        WHERE d.image_id = :image AND d.bib = b.bib AND NOT d.superseded AND d.action = 'correct')
    UNION
    SELECT bib FROM decisions
    WHERE image_id = :image AND bib = :bib AND NOT superseded AND action IN ('add', 'accept')
""")


class Shown(NamedTuple):
    """A bib of an image as `bib_results` shows it."""

    bib: str
    verdict: str


class Decisions:
    """The decisions in one database. Every method raises StoreError when it is unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def image(self, image: str) -> int:
        """Return the id of an image, given its id or the path of one of its files.

        Raises BibwatchError if it is unknown or has not been read yet.
        """
        path = path_to_text(image)
        by_path = (
            select(images.c.id).where(images.c.path == path),
            select(files.c.image_id).where(files.c.path == path, files.c.image_id.is_not(None)),
        )
        by_id = [select(images.c.id).where(images.c.id == int(image))] if _ID.fullmatch(image) else []
        with self._database.query() as connection:
            for query in (*by_path, *by_id):
                if (found := connection.execute(query).scalar()) is not None:
                    return int(found)
        raise BibwatchError(f"no image {image}: give its image_id, or the path of a photo that has been read")

    def decide(self, image_id: int, decision: Decision) -> list[Shown]:
        """Record a decision; return the image's bibs as `bib_results` now shows them.

        Raises BibwatchError if the image does not have the bib.
        """
        with self._database.write() as connection:
            bibs = [decision.bib] if decision.action is Action.ADD else _originals(connection, image_id, decision.bib)
            earlier = (decisions.c.image_id == image_id, decisions.c.bib.in_(bibs), ~decisions.c.superseded)
            connection.execute(update(decisions).where(*earlier).values(superseded=True))
            connection.execute(decisions.insert(), [_row(image_id, bib, decision) for bib in bibs])
            return _shown(connection, image_id)


def _originals(connection: Connection, image_id: int, bib: str) -> list[str]:
    """Return the judged or added bibs that are shown as this bib. Raises BibwatchError if there is none."""
    found = list(connection.execute(_ORIGINALS, {"image": image_id, "bib": bib}).scalars())
    if not found:
        has = ", ".join(each.bib for each in _shown(connection, image_id)) or "none"
        raise BibwatchError(f"image {image_id} has no bib {bib} (it has: {has}); to add one, use --add")
    return found


def _shown(connection: Connection, image_id: int) -> list[Shown]:
    rows = connection.execute(_EFFECTIVE, {"image": image_id}).all()
    return sorted({Shown(row.bib, row.verdict) for row in rows})


def _row(image_id: int, bib: str, decision: Decision) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "bib": bib,
        "action": decision.action,
        "corrected_to": decision.corrected_to,
        **box_row(decision.box),
        "decided_by": decision.by,
        "decided_at": now(),
        "note": decision.note,
    }
