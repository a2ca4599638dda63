"""One open database: engine, schema version, the single writer, and the lock against a second bibwatch.

Knows the differences between SQLite and PostgreSQL. Does not know what the tables hold.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from bibwatch.errors import AlreadyRunningError, ConfigurationError, StoreError
from bibwatch.store.schema import VIEWS, metadata, view

_BUSY_SECONDS = 10  # how long SQLite waits for another program's write before it gives up
_LOCK_SECONDS = 1  # `bibwatch status` may hold the lock for a moment, to see whether it is free
_PRAGMAS = (
    f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA journal_size_limit=67108864",
)
_ADVISORY_LOCK = 0x62696277  # "bibw": PostgreSQL's lock against a second instance


class Database:
    """A database, opened by the daemon (`lock`, then `migrate`) or by a command (`check`)."""

    def __init__(self, url: str) -> None:
        """Set up the engine; nothing is opened yet. Raises ConfigurationError for an unusable URL."""
        self.url = url
        self._writing = threading.Lock()
        self._locked: IO[bytes] | Connection | None = None
        self._inode: int | None = None
        self.file = sqlite_file(url)
        self.engine = _engine(url)

    def check(self) -> None:
        """Raise ConfigurationError unless the database exists and has the current schema."""
        if self.file and not os.path.exists(self.file):  # noqa: PTH110  # Path.exists raises where we may not look
            raise ConfigurationError(f"no database at {self.file}; `bibwatch run` creates it, at database_url")
        found = self._revision()
        if found != _head():
            self._refuse_newer(found)
            raise ConfigurationError(f"database {redacted(self.url)} has an older schema; `bibwatch run` upgrades it")

    def migrate(self) -> None:
        """Upgrade tables and views to the current schema, in one transaction.

        Raises ConfigurationError for a newer schema or another program's database.
        """
        found = self._revision()
        self._refuse_newer(found)
        config = _alembic()
        with self.write() as connection:
            taken = not found and metadata.tables.keys() & set(inspect(connection).get_table_names())
            if taken:
                raise ConfigurationError(
                    f"database {redacted(self.url)} is another program's (table {min(taken)!r}); use a new one"
                )
            # Views depend on the tables: they are dropped before the upgrade and created again after it.
            for name in reversed(VIEWS):  # some read from those before them
                connection.execute(text(f"DROP VIEW IF EXISTS {name}"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            for name in VIEWS:
                connection.execute(text(f"CREATE VIEW {name} AS {view(name, connection.dialect.name)}"))

    def _refuse_newer(self, found: str | None) -> None:
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        if found and found not in known:
            raise ConfigurationError(
                f"database {redacted(self.url)} has schema {found}, made by a newer bibwatch; upgrade bibwatch"
            )

    def _revision(self) -> str | None:
        try:
            with self.engine.connect().execution_options(writing=False) as connection:
                return MigrationContext.configure(connection).get_current_revision()
        except OperationalError as exc:
            if "unable to open" in str(exc.orig):
                raise ConfigurationError(f"cannot use database {redacted(self.url)}: {exc.orig}") from exc
            # Locked, disk full, server down: temporary, and the service manager restarts the daemon.
            raise StoreError(f"database {redacted(self.url)}: {_one_line(exc)}") from exc
        except DBAPIError as exc:
            raise ConfigurationError(f"cannot use database {redacted(self.url)}: {_one_line(exc)}") from exc

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run a write transaction, one at a time. Raises StoreError when the database is unavailable."""
        with self._writing, self._transaction(writing=True) as connection:
            yield connection

    @contextmanager
    def query(self) -> Iterator[Connection]:
        """Run a read-only transaction. Raises StoreError when the database is unavailable."""
        with self._transaction(writing=False) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writing: bool) -> Iterator[Connection]:
        try:
            with self.engine.connect().execution_options(writing=writing) as connection, connection.begin():
                yield connection
        except DBAPIError as exc:
            raise StoreError(f"database {redacted(self.url)}: {_one_line(exc)}") from exc

    def lock(self) -> None:
        """Lock the database against other daemons until `unlock`, `close` or the end of the process.

        Raises AlreadyRunningError, ConfigurationError where the folder is missing or not writable, and StoreError.
        """
        if self.file is None:
            try:
                connection = self.engine.connect()
            except OperationalError as exc:
                raise StoreError(f"database {redacted(self.url)}: {_one_line(exc)}") from exc
            if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}).scalar():
                connection.close()
                raise AlreadyRunningError(f"another bibwatch is using {redacted(self.url)}")
            self._locked = connection
            return
        # The lock is flock's, not the file's existence: the kernel releases it when the process dies.
        try:
            file = self._lock_file.open("ab")
        except OSError as exc:
            raise ConfigurationError(f"database {self.file}: cannot write its folder ({exc.strerror})") from exc
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _flock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                file.close()
                raise AlreadyRunningError(f"another bibwatch is using {self.file}")
            time.sleep(0.05)
        self._locked = file

    def locked_elsewhere(self) -> bool:
        """Return whether a daemon has locked this database."""
        if self.file is None:
            with self.query() as connection:  # released with the transaction
                free = connection.execute(
                    text("SELECT pg_try_advisory_xact_lock_shared(:key)"), {"key": _ADVISORY_LOCK}
                ).scalar()
            return not free
        try:
            with self._lock_file.open("rb") as file:
                return not _flock(file, fcntl.LOCK_SH)
        except OSError:
            return False

    @property
    def _lock_file(self) -> Path:
        assert self.file is not None  # noqa: S101
        real = Path(os.path.realpath(self.file))  # the same under every name
        return real.with_name(real.name + ".lock")

    def check_in_place(self) -> None:
        """Raise StoreError if the SQLite file was removed or replaced: nobody would see further writes."""
        if self.file is None:
            return
        inode = self.file.stat().st_ino if os.path.exists(self.file) else None  # noqa: PTH110
        self._inode = self._inode or inode
        if inode != self._inode:
            raise StoreError(f"database {self.file} was removed or replaced; a restart creates a new one")

    def unlock(self) -> None:
        """Release the lock."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None

    def close(self) -> None:
        """Release the lock and close every connection."""
        self.unlock()
        self.engine.dispose()


def sqlite_file(url: str) -> Path | None:
    """Return the absolute path of a SQLite URL's file; None for other databases. Raises ConfigurationError."""
    try:
        parsed = make_url(url)
        name = parsed.get_backend_name()
    except (ArgumentError, ValueError) as exc:
        raise ConfigurationError("database_url is not a URL; try sqlite:////var/lib/bibwatch/bibwatch.db") from exc
    if name not in {"sqlite", "postgresql"}:
        raise ConfigurationError(f"database_url: {name} is not supported; use sqlite or postgresql")
    if name != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise ConfigurationError("database_url: SQLite needs a file, such as sqlite:///bibwatch.db")
    return Path(os.path.abspath(parsed.database))  # noqa: PTH100  # does not resolve links


def _one_line(exc: DBAPIError) -> str:
    return " ".join(str(exc.orig).split())


def redacted(url: str) -> str:
    """Return a database URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _head() -> str | None:
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except (ModuleNotFoundError, NoSuchModuleError) as exc:
        raise ConfigurationError(f"database_url: {exc}; for PostgreSQL: pip install 'bibwatch[postgres]'") from exc
    except ArgumentError as exc:
        raise ConfigurationError(f"database_url: {exc}") from exc
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins transactions too late: `_begin` does it
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads before it writes would fail at once instead of waiting for the lock.
    reading = connection.get_execution_options().get("writing") is False
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _flock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
