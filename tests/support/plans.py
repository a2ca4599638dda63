"""What the statements of a photo's path cost a database: their query plans, and the ledgers to try them on."""

from __future__ import annotations

from typing import Any

from PIL import Image
from sqlalchemy import event

from bibwatch.domain.candidates import Candidate
from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.judging import Judge
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Finished, Result, Sighting
from bibwatch.store.schema import files, images, results

RECOGNISER = Recogniser("bib_number", "rapidocr", "aaaaaaaaaaaa")
_FALLBACK = Recogniser("bib_number", "another", "bbbbbbbbbbbb")


def fill(database: Database, number: int) -> None:
    """Record that a camera's photos were read long ago."""
    stat = {"inode": "7", "size": 1000, "mtime_ns": 1, "ctime_ns": 1}
    then = {"first_seen_at": "2026-11-21T10:00:05.042Z", "updated_at": "2026-11-21T10:00:05.042Z"}
    photo = {"camera": "finish", "width": 6000, "height": 4000, "received_at": then["updated_at"]}
    result = RECOGNISER._asdict() | {"model": "m", "device": "cpu", "seconds": 1, "processed_at": then["updated_at"]}
    paths = {i: f"/drop/IMG_{i:07}.JPG" for i in range(1, number + 1)}
    rows: list[tuple[Any, list[dict[str, Any]]]] = [
        (images, [photo | {"sha256": f"{i:064}", "path": path} for i, path in paths.items()]),
        (
            files,
            [stat | then | {"camera": "finish", "path": p, "state": "done", "image_id": i} for i, p in paths.items()],
        ),
        (results, [result | {"image_id": i} for i in paths]),
    ]
    with database.write() as connection:
        for table, values in rows:
            connection.execute(table.insert(), values)


def follow_photos(ledger: Ledger) -> None:
    """Take a batch of photos, one of them unreadable, along the whole path that a photo can take."""
    sightings = [Sighting(f"/drop/new-{number}.jpg", Stat(number, 1, 1, 1), State.SETTLING) for number in range(3)]
    ledger.record_sightings("finish", sightings)
    paths = [sighting.path for sighting in sightings]
    assert len(ledger.recorded("finish", paths)) == len(ledger.waiting("finish")) == len(paths)
    ledger.record_sightings("finish", [sighting._replace(state=State.READY) for sighting in sightings])
    assert ledger.ready(8) == len(paths)
    ledger.release(ledger.claim(8, quarantined=True))
    claims = ledger.claim(8, quarantined=True)
    photos = [Photo(Image.new("RGB", (1, 1)), 6000, 4000, f"new-{claim.id}", None) for claim in claims[:2]]
    assert not ledger.known([RECOGNISER, _FALLBACK], [photo.sha256 for photo in photos])
    seen, judge = (Candidate("0042", 0.97),), Judge()
    result = Result("m", "cpu", 0.25, candidates=seen, judgement=judge.judge(seen), judged_by=judge.fingerprint)
    read = [Finished(claim, photo, result) for claim, photo in zip(claims, photos, strict=False)]
    ledger.finish(RECOGNISER, [*read, Finished(claims[2], state=State.UNREADABLE, error="no permission")])
    assert ledger.retry([State.UNREADABLE], [claims[2].path]) == 1
    ledger.finish(RECOGNISER, [Finished(ledger.claim(1, quarantined=True)[0], state=State.INCOMPLETE, error="half")])
    ledger.mark_gone("finish", [claims[2].path])


class Statements:
    """The statements that a database executes, collected as a context."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: dict[str, Any] = {}

    def __enter__(self) -> Statements:
        event.listen(self._database.engine, "before_cursor_execute", self._add)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._database.engine, "before_cursor_execute", self._add)

    def _add(self, _1: object, _2: object, statement: str, parameters: Any, _3: object, many: bool) -> None:  # noqa: FBT001
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            self._found[statement] = parameters[0] if many else parameters

    def plans(self) -> dict[str, str]:
        """Return the database's plan of each statement, a step per line."""
        explain = "EXPLAIN" if self._database.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        with self._database.query() as connection:
            found = {
                statement: connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
                for statement, parameters in self._found.items()
            }
        return {statement: "\n".join(str(row[-1]) for row in rows) for statement, rows in found.items()}
