"""The ledger: the state of every file.

Every method is one transaction; a result and its file's new state are written together. Every method raises
StoreError when the database is unavailable. Touches neither disk nor models.

Queries that run for every photo use an index: their cost does not depend on the number of files in the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, RowMapping, String, and_, bindparam, case, func, not_, or_, select, update

from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.store import results
from bibwatch.store.database import Database
from bibwatch.store.records import Claim, Finished, Priority, Sighting
from bibwatch.store.schema import cameras, files, insert_into, now, path_to_text, text_to_path

_MOST_PATHS = 1000  # per statement: databases limit the number of values
_AWAITED = (State.SETTLING, State.EMPTY, State.INCOMPLETE, State.UNREADABLE)


class Ledger:
    """The files in one database, for ingest, for the pipeline, and for retries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # For ingest

    def recorded(self, camera: str, paths: Collection[str]) -> dict[str, Sighting]:
        """Return what is recorded about the given paths of a camera, by path; unknown paths are left out."""
        found: dict[str, Sighting] = {}
        with self._database.query() as connection:
            for part in _parts(paths):
                rows = connection.execute(_RECORDED, {"of_camera": camera, "paths": part}).all()
                for stored, inode, size, mtime_ns, ctime_ns, state in rows:
                    path = text_to_path(stored)
                    found[path] = Sighting(path, Stat(int(inode), size, mtime_ns, ctime_ns), State(state))
        return found

    def waiting(self, camera: str) -> dict[str, State]:
        """Return the path and state of every file of a camera that has yet to become complete or readable."""
        query = select(files.c.path, files.c.state).where(files.c.camera == camera, files.c.state.in_(_AWAITED))
        # In the order of the index: otherwise SQLite scans the table once somebody has run ANALYZE.
        query = query.order_by(files.c.camera, files.c.state)
        with self._database.query() as connection:
            return {text_to_path(path): State(state) for path, state in connection.execute(query).all()}

    def mark_gone(self, camera: str, paths: Collection[str]) -> None:
        """Mark those of the paths that were still awaited as gone."""
        gone = {"state": State.GONE, "error": "vanished before it was complete", "updated_at": now()}
        here = and_(files.c.camera == camera, files.c.state.in_(_AWAITED))
        with self._database.write() as connection:
            for path in paths:
                connection.execute(update(files).where(here, files.c.path == path_to_text(path)).values(gone))

    def record_sightings(self, camera: str, sightings: Iterable[Sighting]) -> None:
        """Record new and changed files; a path with new content starts over."""
        rows = [_row(camera, sighting) for sighting in sightings]
        if not rows:
            return
        statement = insert_into(self._database.engine.dialect.name, files)
        new = statement.excluded
        changed = {
            name: getattr(new, name)
            for name in ("inode", "size", "mtime_ns", "ctime_ns", "state", "error", "updated_at")
        }
        statement = statement.on_conflict_do_update(
            index_elements=["camera", "path"],
            set_={
                **changed,
                "attempts": 0,
                "priority": Priority.FRESH,
                "image_id": None,
                # if the previous content was read, or is being read, this is another photo under the same name
                "first_seen_at": case(
                    (or_(files.c.image_id.is_not(None), files.c.state == State.READING), new.first_seen_at),
                    else_=files.c.first_seen_at,
                ),
            },
        )
        with self._database.write() as connection:
            connection.execute(statement, rows)

    def record_camera(self, name: str, path: str, state: str, error: str | None) -> None:
        """Record the state of a camera's folder."""
        error = error and path_to_text(error)  # it may name a path
        row = {"name": name, "path": path_to_text(path), "state": state, "error": error, "updated_at": now()}
        statement = insert_into(self._database.engine.dialect.name, cameras).values(row)
        with self._database.write() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))

    # For the pipeline

    def recover(self, recognisers: Sequence[Recogniser], max_attempts: int) -> int:
        """Prepare for a new run, and return how many files were being read when the last run died.

        Those are quarantined, and failed after `max_attempts` deaths. Images that none of the recognisers has read
        become ready again.
        """
        with self._database.write() as connection:
            for recogniser in recognisers:
                results.adopt(connection, recogniser)
                results.put_forward(connection, recogniser)
            reading = files.c.state == State.READING
            failed = {
                "state": State.FAILED,
                "error": f"bibwatch died {max_attempts} times while reading it",
                "updated_at": now(),
            }
            connection.execute(update(files).where(reading, files.c.attempts >= max_attempts).values(failed))
            quarantined = {"state": State.READY, "priority": Priority.QUARANTINED, "updated_at": now()}
            found = connection.execute(update(files).where(reading).values(quarantined)).rowcount
            _again(connection, recognisers)
        return int(found)

    def read_again(self, recogniser: Recogniser) -> int:
        """Make files ready again that others have read and this recogniser has not; return how many."""
        with self._database.write() as connection:
            return _again(connection, [recogniser])

    def ready(self, most: int) -> int:
        """Return how many files are ready to be read, counting no further than `most`."""
        some = select(files.c.id).where(files.c.state == State.READY).limit(most)
        query = select(func.count()).select_from(some.subquery())
        with self._database.query() as connection:
            return int(connection.execute(query).scalar_one())

    def claim(self, limit: int, *, quarantined: bool) -> list[Claim]:
        """Take up to `limit` ready files, oldest first; a quarantined file comes alone, and only if `quarantined`.

        The attempt is counted before the first byte is read, so that a photo that kills the process is found.
        """
        with self._database.write() as connection:
            rows = _first_ready(connection, limit, quarantined=quarantined)
            ids = [row["id"] for row in rows]
            taken = {"state": State.READING, "attempts": files.c.attempts + 1, "updated_at": now()}
            connection.execute(update(files).where(files.c.id.in_(ids)).values(taken))
        return [_claim(row) for row in rows]

    def release(self, claims: Sequence[Claim], *, quarantined: bool = False) -> None:
        """Make claimed files ready again without counting the attempt.

        With `quarantined`, because one of them may be to blame, each is then read alone.
        """
        back: dict[str, Any] = {"state": State.READY, "attempts": files.c.attempts - 1, "updated_at": now()}
        if quarantined:
            back["priority"] = Priority.QUARANTINED
        if not claims:
            return
        with self._database.write() as connection:
            connection.execute(update(files).where(_STILL).values(back), [_key(claim) for claim in claims])

    def known(self, recognisers: Sequence[Recogniser], sha256s: Collection[str]) -> set[str]:
        """Return those of the images that any of the recognisers has a result for."""
        with self._database.query() as connection:
            return results.known(connection, recognisers, sha256s)

    def finish(self, recogniser: Recogniser, batch: Sequence[Finished]) -> None:
        """Record the outcome of a batch: images, results, readings and states, in one transaction."""
        with self._database.write() as connection:
            read: list[dict[str, Any]] = []
            unread: list[dict[str, Any]] = []
            for item in batch:
                image_id = results.record(connection, recogniser, item)
                priority = Priority.QUARANTINED if item.state == State.READY else Priority.FRESH
                done = {"new_state": item.state, "new_error": item.error, "new_priority": priority, "now": now()}
                (unread if image_id is None else read).append(_key(item.claim) | done | {"image": image_id})
            for statement, rows in ((_READ, read), (_UNREAD, unread)):
                if rows:
                    connection.execute(statement, rows)

    # For a person

    def retry(self, states: Collection[State], paths: Collection[str] = ()) -> int:
        """Make files in the given states ready again, all of them or those at `paths`; return how many."""
        chosen: list[Any] = [files.c.state.in_(states)]
        if paths:
            chosen = [and_(*chosen, files.c.path.in_(part)) for part in _parts(paths)]
        values = {
            "state": State.READY,
            "attempts": 0,
            "error": None,
            # a photo on which the model failed or bibwatch died is read alone
            "priority": case((files.c.state == State.FAILED, Priority.QUARANTINED), else_=Priority.FRESH),
            "updated_at": now(),
        }
        with self._database.write() as connection:
            return sum(connection.execute(update(files).where(each).values(values)).rowcount for each in chosen)


def _row(camera: str, sighting: Sighting) -> dict[str, Any]:
    stat = sighting.stat
    return {
        "camera": camera,
        "path": path_to_text(sighting.path),
        "inode": str(stat.inode),
        "size": stat.size,
        "mtime_ns": stat.mtime_ns,
        "ctime_ns": stat.ctime_ns,
        "state": sighting.state,
        "error": sighting.error,
        "first_seen_at": now(),
        "updated_at": now(),
    }


_RECORDED = select(files.c.path, files.c.inode, files.c.size, files.c.mtime_ns, files.c.ctime_ns, files.c.state).where(
    files.c.camera == bindparam("of_camera"), files.c.path.in_(bindparam("paths", expanding=True))
)


def _parts(paths: Collection[str]) -> Iterator[list[str]]:
    """Yield the paths as stored, no more at a time than one statement takes."""
    stored = iter(map(path_to_text, paths))
    while part := list(islice(stored, _MOST_PATHS)):
        yield part


def _stat(row: RowMapping) -> Stat:
    return Stat(int(row["inode"]), row["size"], row["mtime_ns"], row["ctime_ns"])


# The claimed file, if it is still being read and has not changed on disk as far as ingest knows.
_STILL = and_(
    files.c.id == bindparam("claim"),
    files.c.state == State.READING,
    files.c.inode == bindparam("same_inode"),
    files.c.size == bindparam("same_size"),
    files.c.mtime_ns == bindparam("same_mtime"),
    files.c.ctime_ns == bindparam("same_ctime"),
)
_DONE: dict[str, Any] = {"priority": bindparam("new_priority"), "updated_at": bindparam("now")}
_FAILED_BUT_READ = and_(bindparam("new_state", type_=String) == State.FAILED, results.was_read())
# A file that changed meanwhile has its own new state by now; the image read is recorded all the same.
_READ = (
    update(files)
    .where(_STILL)
    .values(
        # A photo that another model has read counts as read, even if this one fails on it.
        state=case((_FAILED_BUT_READ, State.DONE), else_=bindparam("new_state")),
        error=case((_FAILED_BUT_READ, None), else_=bindparam("new_error")),
        image_id=bindparam("image"),
        **_DONE,
    )
)
# A file that was read before stays `done`, even if it is gone or corrupt now.
_UNREAD = (
    update(files)
    .where(_STILL)
    .values(
        state=case((results.was_read(), State.DONE), else_=bindparam("new_state")),
        error=case((results.was_read(), None), else_=bindparam("new_error")),
        **_DONE,
    )
)


def _key(claim: Claim) -> dict[str, Any]:
    """Return the values that `_STILL` compares."""
    stat = claim.stat
    return {
        "claim": claim.id,
        "same_inode": str(stat.inode),
        "same_size": stat.size,
        "same_mtime": stat.mtime_ns,
        "same_ctime": stat.ctime_ns,
    }


def _again(connection: Connection, recognisers: Sequence[Recogniser]) -> int:
    unread = and_(files.c.state == State.DONE, not_(results.has_result(recognisers)))
    again = {"state": State.READY, "priority": Priority.AGAIN, "attempts": 0, "updated_at": now()}
    return connection.execute(update(files).where(unread).values(again)).rowcount


def _first_ready(connection: Connection, limit: int, *, quarantined: bool) -> Sequence[RowMapping]:
    for priority in Priority:
        if priority == Priority.QUARANTINED and not quarantined:
            continue
        chosen = select(files).where(files.c.state == State.READY, files.c.priority == priority).order_by(files.c.id)
        most = 1 if priority == Priority.QUARANTINED else limit
        if rows := connection.execute(chosen.limit(most)).mappings().all():
            return rows
    return []


def _claim(row: RowMapping) -> Claim:
    return Claim(
        row["id"],
        row["camera"],
        text_to_path(row["path"]),
        _stat(row),
        Priority(row["priority"]),
        row["attempts"] + 1,
        row["first_seen_at"],
    )
