"""The start list in force, kept in the database: replaced as a whole, or not at all.

Knows rows. Does not know files, nor what the list is good for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import delete, select

from bibwatch.entry_files import Entry
from bibwatch.judging import StartList
from bibwatch.store.database import Database
from bibwatch.store.schema import now, path_to_text, start_list, start_list_entries


class StoredList(NamedTuple):
    """Where the list in force is from."""

    fingerprint: str
    source: str
    imported_at: str


class Entries:
    """The start list of one database. Raises StoreError when it is not to be had."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def stored(self) -> StoredList | None:
        """Return where the list in force is from; None if there is no list."""
        columns = (start_list.c.fingerprint, start_list.c.source, start_list.c.imported_at)
        with self._database.query() as connection:
            row = connection.execute(select(*columns)).one_or_none()
        return StoredList(*row) if row else None

    def start_list(self) -> StartList | None:
        """Return the list in force; None if there is none."""
        with self._database.query() as connection:
            if connection.execute(select(start_list.c.id)).one_or_none() is None:
                return None
            return StartList(connection.execute(select(start_list_entries.c.bib)).scalars())

    def __iter__(self) -> Iterator[Entry]:
        columns = (start_list_entries.c.bib, start_list_entries.c.fields_json)
        with self._database.query() as connection:
            rows = connection.execute(select(*columns).order_by(start_list_entries.c.position)).all()
        return (Entry(bib, json.loads(fields)) for bib, fields in rows)

    def replace(self, entries: tuple[Entry, ...], source: str) -> bool:
        """Put a list in the place of the former one; return whether anything changed."""
        rows = [
            {"bib": each.bib, "position": position, "fields_json": json.dumps(each.fields, ensure_ascii=False)}
            for position, each in enumerate(entries, start=1)
        ]
        if self.stored() is not None and tuple(self) == entries:
            return False
        fingerprint = StartList(each.bib for each in entries).fingerprint
        stored = {"id": 1, "fingerprint": fingerprint, "source": path_to_text(source), "imported_at": now()}
        with self._database.write() as connection:
            connection.execute(delete(start_list_entries))
            connection.execute(delete(start_list))
            connection.execute(start_list.insert(), stored)
            connection.execute(start_list_entries.insert(), rows)
        return True

    def clear(self) -> bool:
        """Remove the list; return whether there was one."""
        with self._database.write() as connection:
            connection.execute(delete(start_list_entries))
            return connection.execute(delete(start_list)).rowcount > 0
