"""The database: schema and views, SQLite's manners, errors in words, and the lock against a second bibwatch."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from bibwatch.errors import AlreadyRunningError, ConfigurationError, StoreError
from bibwatch.store import database as module
from bibwatch.store import schema
from bibwatch.store.database import Database, redacted

_PROMISED = {
    "bib_results": "image_id camera path sha256 captured_at received_at bib confidence verdict x1 y1 x2 y2 "
    "stage preset model device processed_at",
    "image_status": "image_id camera path state attempts error first_seen_at updated_at",
    "stage_outputs": "image_id stage preset output_json",
}

_NOTE = text("INSERT INTO cameras (name, path, state, updated_at) VALUES (:name, '/drop', 'watching', 'now')")
_FILE = text(
    "INSERT INTO files (camera, path, inode, size, mtime_ns, ctime_ns, state, first_seen_at, updated_at) "
    "VALUES ('finish', :path, '1', 1, 1, 1, 'done', 'then', 'then')"
)

_HOLDER = """
import sys, time
from bibwatch.store.database import Database
database = Database(sys.argv[1])
database.lock()
print("locked", flush=True)
time.sleep(60)
"""


@contextmanager
def opened(file: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{file}")) as database:
        yield database


@contextmanager
def another_writer(file: Path) -> Iterator[sqlite3.Connection]:
    """Another program in the middle of a write."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("ROLLBACK")


@contextmanager
def another_process(file: Path) -> Iterator[subprocess.Popen[str]]:
    """A second bibwatch that holds the lock."""
    command = [sys.executable, "-c", _HOLDER, f"sqlite:///{file}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "race.db"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    """A database with this version's schema."""
    with opened(file) as database:
        database.migrate()
        yield database


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for another's lock does not take long."""
    monkeypatch.setattr(module, "_PRAGMAS", ("PRAGMA busy_timeout=50", *module._PRAGMAS[1:]))
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)


# The schema


def test_migrating_twice_keeps_what_is_there(database: Database) -> None:
    with database.write() as connection:
        connection.execute(_NOTE, {"name": "finish"})
    database.migrate()
    database.check()
    with database.query() as connection:
        assert connection.execute(text("SELECT name FROM cameras")).scalars().all() == ["finish"]


def test_the_models_and_the_migrations_agree(database: Database) -> None:
    with database.query() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []


def test_an_older_database_is_upgraded_with_its_rows_kept(file: Path) -> None:
    with opened(file) as database:
        with database.write() as connection:
            config = module._alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, "0002")
            connection.execute(_NOTE, {"name": "finish"})
            connection.execute(_FILE, {"path": "/drop/a.jpg"})
        with pytest.raises(ConfigurationError, match="older schema"):
            database.check()
        database.migrate()
        database.check()
        with database.query() as connection:
            assert connection.execute(text("SELECT path, state FROM file_status")).all() == [("/drop/a.jpg", "done")]
            assert connection.execute(text("SELECT name FROM cameras")).scalars().all() == ["finish"]


def test_every_view_is_there(database: Database) -> None:
    assert set(inspect(database.engine).get_view_names()) == set(schema.VIEWS)


@pytest.mark.parametrize(("view", "columns"), _PROMISED.items())
def test_the_views_begin_with_the_promised_columns(database: Database, view: str, columns: str) -> None:
    with database.query() as connection:
        found = list(connection.execute(text(f"SELECT * FROM {view}")).keys())  # noqa: S608
    promised = columns.split()
    if view == "stage_outputs":  # "image_id, stage, preset, output_json, ...": more may stand between
        assert [column for column in found if column in promised] == promised
    else:
        assert found[: len(promised)] == promised


def test_a_migration_that_fails_leaves_the_database_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, opened(file) as database:
        patch.setitem(schema.VIEWS, "broken", "not SQL")
        with pytest.raises(StoreError, match="syntax error"):
            database.migrate()
        assert inspect(database.engine).get_table_names() == []
    with opened(file) as database:
        database.migrate()
        database.check()


def test_check_finds_no_file(file: Path) -> None:
    with opened(file) as database, pytest.raises(ConfigurationError, match=f"no database at {file}"):
        database.check()
    assert not file.exists()


def test_check_finds_an_older_schema(file: Path) -> None:
    """A database that `bibwatch run` has still to migrate."""
    file.touch()
    with opened(file) as database:
        with pytest.raises(ConfigurationError, match="older schema; `bibwatch run` upgrades it"):
            database.check()
        database.migrate()
        database.check()


def test_a_newer_schema_is_left_alone(file: Path) -> None:
    """A downgraded bibwatch refuses, and changes nothing."""
    with opened(file) as database:
        database.migrate()
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ConfigurationError, match="made by a newer bibwatch"):
            database.check()
        with pytest.raises(ConfigurationError, match="schema 9999, made by a newer bibwatch; upgrade"):
            database.migrate()
        assert set(inspect(database.engine).get_view_names()) == set(schema.VIEWS)


def test_the_database_of_another_program_is_refused(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE images (title)")
    with opened(file) as database, pytest.raises(ConfigurationError):
        database.migrate()


# SQLite's manners


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10_000)]
)
def test_every_connection_is_set_up(database: Database, pragma: str, value: object) -> None:
    with database.query() as first, database.query() as second:
        for connection in (first, second):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value


def test_foreign_keys_are_enforced(database: Database) -> None:
    statement = text("INSERT INTO readings (result_id, bib, confidence, verdict) VALUES (1, '0042', 1, 'accepted')")
    with pytest.raises(StoreError, match="FOREIGN KEY"), database.write() as connection:
        connection.execute(statement)


def test_a_write_is_all_or_nothing(database: Database) -> None:
    def write() -> None:
        with database.write() as connection:
            connection.execute(_NOTE, {"name": "finish"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    with database.query() as connection:
        assert connection.execute(text("SELECT count(*) FROM cameras")).scalar() == 0


@pytest.mark.usefixtures("impatient")
def test_writers_of_one_process_take_turns(database: Database) -> None:
    """They wait for each other and not for the database: a busy timeout of 50 ms is enough for ten of them."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with database.write() as connection:
                connection.execute(_NOTE, {"name": f"camera {number}"})
                threading.Event().wait(0.02)
        except StoreError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=[number]) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.query() as connection:
        assert connection.execute(text("SELECT count(*) FROM cameras")).scalar() == 10


@pytest.mark.usefixtures("impatient")
def test_a_reader_does_not_wait_for_a_writer(database: Database, file: Path) -> None:
    with another_writer(file) as writer:
        writer.execute("INSERT INTO cameras (name, path, state, updated_at) VALUES ('a', '/a', 'watching', 'now')")
        with database.query() as connection:
            assert connection.execute(text("SELECT count(*) FROM cameras")).scalar() == 0


@pytest.mark.usefixtures("impatient")
def test_a_writer_does_not_wait_for_a_reader(database: Database, file: Path) -> None:
    """Somebody's open query (a report, a forgotten shell) never stops the daemon; and what it sees stands still."""
    with closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM cameras").fetchone() == (0,)
        with database.write() as connection:
            connection.execute(_NOTE, {"name": "finish"})
        assert reader.execute("SELECT count(*) FROM cameras").fetchone() == (0,)


@pytest.mark.usefixtures("impatient")
def test_a_write_lock_held_elsewhere_is_a_store_error(file: Path) -> None:
    """And when it is given up, the same database works again."""
    with opened(file) as database:
        database.migrate()
        with (
            another_writer(file),
            pytest.raises(StoreError, match=r"race\.db.*locked"),
            database.write() as connection,
        ):
            connection.execute(_NOTE, {"name": "finish"})
        with database.write() as connection:
            connection.execute(_NOTE, {"name": "finish"})


@pytest.mark.usefixtures("impatient")
def test_check_does_not_wait_for_a_writer(database: Database, file: Path) -> None:
    with another_writer(file), opened(file) as other:
        other.check()


# What cannot be used


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a URL"),
        ("/var/lib/bibwatch/bibwatch.db", "not a URL"),
        ("mysql://user@host/race", "mysql is not supported; use sqlite or postgresql"),
        ("oracle+driver://host/race", "oracle is not supported"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:///", "SQLite needs a file"),
        ("sqlite:///:memory:", "SQLite needs a file"),
        ("sqlite://bibwatch.db", "SQLite needs a file"),
        ("sqlite+nothing:///race.db", "sqlite.nothing"),
        pytest.param(
            "sqlite://var/lib/race.db",
            "database_url",
        ),
        pytest.param(
            "postgresql://user:secret@host:port/race",
            "database_url",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_a_clear_error(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Database(url)


def test_a_relative_url_is_a_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Database("sqlite:///race.db")) as database:
        assert database.file == tmp_path / "race.db"


@pytest.mark.parametrize("method", ["lock", "migrate"])
def test_a_missing_folder_is_reported(tmp_path: Path, method: str) -> None:
    with opened(tmp_path / "nowhere" / "race.db") as database, pytest.raises(ConfigurationError, match="nowhere"):
        getattr(database, method)()


@pytest.mark.parametrize("method", ["check", "migrate"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path, method: str) -> None:
    content = "bib,place\n0042,1\n" * 100
    file.write_text(content)
    with opened(file) as database, pytest.raises(ConfigurationError, match=r"race\.db: file is not a database"):
        getattr(database, method)()
    assert file.read_text() == content


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with opened(tmp_path) as database, pytest.raises(ConfigurationError, match="unable to open"):
        database.check()


def test_a_database_that_broke_is_a_store_error(file: Path) -> None:
    """Garbage in the middle of the file while it is in use: an error in words, not an exception of the library's."""
    with opened(file) as database:
        database.migrate()
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(os.urandom(file.stat().st_size - 4096))
    with opened(file) as database, pytest.raises(StoreError, match="malformed"), database.write() as connection:
        connection.execute(_NOTE, {"name": "finish"})


def test_a_password_is_never_shown() -> None:
    shown = redacted("postgresql://timer:secret@host/race")
    assert "secret" not in shown
    assert shown.startswith("postgresql://timer:")
    assert shown.endswith("@host/race")


# The lock


@pytest.mark.usefixtures("impatient")
def test_a_second_process_is_refused_until_the_first_is_killed(file: Path) -> None:
    with another_process(file) as first, opened(file) as database:
        with pytest.raises(AlreadyRunningError, match=f"another bibwatch is using {file}") as caught:
            database.lock()
        assert caught.value.exit_code == 75
        assert database.locked_elsewhere()
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not database.locked_elsewhere()
        database.lock()


@pytest.mark.usefixtures("impatient")
def test_the_lock_is_given_back(file: Path) -> None:
    """By `unlock` and by `close`; a lock file that lies about holds nothing."""
    with opened(file) as first, opened(file) as second:
        first.lock()
        with pytest.raises(AlreadyRunningError):
            second.lock()
        first.unlock()
        second.lock()
        second.close()
        first.lock()


def test_looking_at_the_lock_does_not_make_or_take_it(file: Path) -> None:
    with opened(file) as database:
        assert not database.locked_elsewhere()
        assert list(file.parent.iterdir()) == []
        database.lock()
        database.unlock()
        assert not database.locked_elsewhere()
        database.lock()


def test_two_databases_are_locked_apart(tmp_path: Path) -> None:
    with opened(tmp_path / "one.db") as first, opened(tmp_path / "two.db") as second:
        first.lock()
        second.lock()
        first.unlock()
        assert second.locked_elsewhere()


@pytest.mark.usefixtures("impatient")
def test_the_lock_does_not_stop_readers_or_writers(file: Path) -> None:
    """It keeps out a second daemon, not SQL clients."""
    with another_process(file), opened(file) as database:
        database.migrate()
        database.check()
