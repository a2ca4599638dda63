"""Status for people: how many files are in each state, the oldest of each, and the state of the folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import RowMapping, func, select

from bibwatch.domain.states import State
from bibwatch.store.database import Database
from bibwatch.store.schema import cameras, files, text_to_path


class Report:
    """Read-only queries of one database. Every method raises StoreError when it is unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, names: Collection[str] | None = None) -> dict[State, int]:
        """Return the number of files in each state, of the named cameras or of all; empty states are left out.

        Counts every file, from an index: it takes time in proportion to their number.
        """
        query = select(files.c.state, func.count()).group_by(files.c.camera, files.c.state)  # in the order of the index
        if names is not None:
            query = query.where(files.c.camera.in_(names))
        counts: Counter[State] = Counter()
        with self._database.query() as connection:
            for state, number in connection.execute(query):
                counts[State(state)] += number
        return dict(counts)

    def oldest(self, states: Collection[State]) -> list[dict[str, Any]]:
        """Return the file that has been longest in each of the states; empty states are left out."""
        columns = (files.c.state, files.c.camera, files.c.path, files.c.error, files.c.updated_at, files.c.attempts)
        oldest = select(*columns).order_by(files.c.updated_at, files.c.id).limit(1)
        with self._database.query() as connection:
            found = [connection.execute(oldest.where(files.c.state == state)).mappings() for state in sorted(states)]
            return _with_paths(row for rows in found for row in rows)

    def camera_states(self) -> list[dict[str, Any]]:
        """Return the last known state of each camera's folder."""
        with self._database.query() as connection:
            return _with_paths(connection.execute(select(cameras).order_by(cameras.c.name)).mappings())


def _with_paths(rows: Iterable[RowMapping]) -> list[dict[str, Any]]:
    return [{**row, "path": text_to_path(row["path"])} for row in rows]
