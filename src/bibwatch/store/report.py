"""What a person wants to know: how many files are in each state, which have waited longest, how the folders are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import RowMapping, and_, func, select

from bibwatch.domain.states import State
from bibwatch.store.database import Database
from bibwatch.store.schema import cameras, files, text_to_path


class Report:
    """Looks into one database and changes nothing. Raises StoreError when it is not to be had."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def counts(self, names: Collection[str] | None = None) -> dict[State, int]:
        """Count the files in each state, of the named cameras or of all; states without files are left out."""
        query = select(files.c.state, func.count()).group_by(files.c.state)
        if names is not None:
            query = query.where(files.c.camera.in_(names))
        with self._database.query() as connection:
            return {State(state): int(number) for state, number in connection.execute(query).all()}

    def oldest(self, states: Collection[State]) -> list[dict[str, Any]]:
        """Return, for each of the states that has files, the one that has been in it longest."""
        first = (
            select(files.c.state, func.min(files.c.updated_at).label("since"))
            .where(files.c.state.in_(states))
            .group_by(files.c.state)
            .subquery()
        )
        chosen = (
            select(func.min(files.c.id))
            .join(first, and_(files.c.state == first.c.state, files.c.updated_at == first.c.since))
            .group_by(files.c.state)
        )
        query = select(
            files.c.state, files.c.camera, files.c.path, files.c.error, files.c.updated_at, files.c.attempts
        ).where(files.c.id.in_(chosen))
        with self._database.query() as connection:
            return _with_paths(connection.execute(query.order_by(files.c.state)).mappings())

    def camera_states(self) -> list[dict[str, Any]]:
        """Return how each camera's folder is, as the daemon last saw it."""
        with self._database.query() as connection:
            return _with_paths(connection.execute(select(cameras).order_by(cameras.c.name)).mappings())


def _with_paths(rows: Iterable[RowMapping]) -> list[dict[str, Any]]:
    return [{**row, "path": text_to_path(row["path"])} for row in rows]
