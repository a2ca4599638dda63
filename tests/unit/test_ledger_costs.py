"""What a photo costs the ledger does not depend on how many files it holds: counted in steps, not in seconds."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import event, text

from bibwatch.domain.states import State
from bibwatch.ingest import scanning
from bibwatch.ingest.camera import Camera
from bibwatch.ingest.folder_watcher import FileEvents
from bibwatch.settings import CameraSettings, IngestSettings
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.report import Report
from plans import Statements, fill, follow_photos

_WALKS = re.compile(r"SCAN (files|images|results|readings)|TEMP B-TREE|\(camera=\?\)")


@contextmanager
def ledger_of(number: int, folder: Path) -> Iterator[Database]:
    """A database whose one camera has a history of so many photos."""
    database = Database(f"sqlite:///{folder / f'{number}.db'}")
    database.migrate()
    fill(database, number)
    yield database
    database.close()


def steps(database: Database, action: Callable[[], object]) -> int:
    """Return how many steps SQLite's virtual machine takes for `action`."""
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    def start_counting(connection: object) -> None:
        connection.connection.driver_connection.set_progress_handler(count, 1)  # type: ignore[attr-defined]

    event.listen(database.engine, "begin", start_counting)
    try:
        action()
    finally:
        event.remove(database.engine, "begin", start_counting)
        with database.engine.connect() as connection:
            connection.connection.driver_connection.set_progress_handler(None, 0)  # type: ignore[union-attr]
    return taken


@pytest.mark.parametrize("analyzed", [False, True])
def test_no_statement_on_the_path_of_a_photo_walks_a_table(tmp_path: Path, analyzed: bool) -> None:  # noqa: FBT001
    """Whether or not somebody has run ANALYZE: with its figures SQLite may choose another index."""
    with ledger_of(3000, tmp_path) as database:
        if analyzed:
            with database.write() as connection:
                connection.execute(text("ANALYZE"))
        with Statements(database) as statements:
            follow_photos(Ledger(database))
        plans = statements.plans()
    assert len(plans) > 10
    assert {statement: plan for statement, plan in plans.items() if _WALKS.search(plan)} == {}


def test_a_photo_takes_as_many_steps_after_ten_thousand_as_after_a_hundred(tmp_path: Path) -> None:
    with ledger_of(100, tmp_path) as few, ledger_of(10_000, tmp_path) as many:
        assert steps(many, lambda: follow_photos(Ledger(many))) == steps(few, lambda: follow_photos(Ledger(few)))


def test_an_event_takes_as_many_steps_after_ten_thousand_photos_as_after_a_hundred(tmp_path: Path) -> None:
    (tmp_path / "new.jpg").touch()

    def take_event(database: Database) -> None:
        settings, event = CameraSettings(path=tmp_path), threading.Event()
        camera = Camera("finish", settings, IngestSettings(), Ledger(database), stop=event, news=event)
        path = str(tmp_path / "new.jpg")
        found = scanning.find(str(tmp_path), path)
        assert found
        camera._record([found], FileEvents(closed=frozenset({path})))
        assert Ledger(database).recorded("finish", [path])[path].state is State.READY

    with ledger_of(100, tmp_path) as few, ledger_of(10_000, tmp_path) as many:
        assert steps(many, lambda: take_event(many)) == steps(few, lambda: take_event(few))


def test_the_oldest_file_of_a_state_is_found_without_walking_it(tmp_path: Path) -> None:
    with ledger_of(100, tmp_path) as few, ledger_of(10_000, tmp_path) as many:
        assert steps(many, lambda: Report(many).oldest(list(State))) == steps(
            few, lambda: Report(few).oldest(list(State))
        )


def test_files_are_counted_in_an_index_as_it_is_sorted(tmp_path: Path) -> None:
    with ledger_of(10, tmp_path) as database:
        with Statements(database) as statements:
            assert Report(database).counts(["finish", "start"]) == Report(database).counts() == {State.DONE: 10}
        for plan in statements.plans().values():
            assert "USING COVERING INDEX ix_files_camera_state" in plan
            assert "TEMP B-TREE" not in plan
