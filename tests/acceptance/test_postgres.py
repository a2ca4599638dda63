"""The same daemon on a real PostgreSQL server, where there is one on this machine."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bibwatch.domain.states import State
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.report import Report
from bibwatch.store.schema import VIEWS
from plans import Statements, fill, follow_photos

ROOT = Path(__file__).parents[2]
SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [pytest.mark.heavy, pytest.mark.skipif(not SERVERS, reason="no PostgreSQL server on this machine")]


@pytest.fixture
def server() -> Iterator[str]:
    """Start a fresh server on a socket of its own; give its URL. PostgreSQL refuses to run as root."""
    place = Path(tempfile.mkdtemp(prefix="bibwatch-pg-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        os.chown(place, pwd.getpwnam(user).pw_uid, -1)
    programs = SERVERS[-1].parent

    def run(*command: str) -> None:
        subprocess.run(command, user=user, cwd=place, check=True, stdout=subprocess.DEVNULL)

    run(str(programs / "initdb"), "--auth=trust", "--username=bibwatch", "-D", str(place / "data"))
    options = f"-k {place} -c listen_addresses=''"
    try:
        run(str(programs / "pg_ctl"), "-D", str(place / "data"), "-l", str(place / "log"), "-o", options, "-w", "start")
        yield f"postgresql://bibwatch@/postgres?host={place}"
    finally:
        run(str(programs / "pg_ctl"), "-D", str(place / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(place)


def test_postgresql_holds_the_same_record(site: Any, draw: Callable[..., bytes], server: str) -> None:
    """Read once, nothing twice, the same views, the same lock."""
    import psycopg

    site.environment["BIBWATCH_DATABASE_URL"] = server
    (site.camera / "a.jpg").write_bytes(draw("0042", "M10151"))
    (site.camera / "b.jpg").write_text("not a photo")
    for _ in range(2):
        ran = site.bibwatch("run", "--once")
        assert ran.returncode == 0, ran.stderr
    assert '"photo_files_loaded": 0' in ran.stderr
    with psycopg.connect(server) as connection:
        rows = connection.execute("SELECT bib, verdict FROM bib_results ORDER BY bib").fetchall()
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
            queries = page.read_text().split("## The views, as they are")[0]  # what a view is made of is SQLite's there
            for block in re.findall(r"```sql\n(.*?)```", queries, re.DOTALL):
                connection.execute(block)
        states = connection.execute("SELECT state, count(*) FROM image_status GROUP BY state ORDER BY state").fetchall()
    assert rows == [("0042", "accepted"), ("M10151", "accepted")]
    assert states == [("done", 1), ("undecodable", 1)]
    assert "not running" in site.bibwatch("status").stdout
    site.start()
    assert "bibwatch is running" in site.bibwatch("status").stdout
    assert site.bibwatch("run", "--once").returncode == 75


def test_no_statement_on_the_path_of_a_photo_walks_a_table(server: str) -> None:
    """PostgreSQL plans by what ANALYZE, or autovacuum, has found."""
    database = Database(server)
    database.migrate()
    fill(database, 20_000)
    for table in ("files", "images", "results"):
        with database.write() as connection:
            connection.execute(text(f"ANALYZE {table}"))
    with Statements(database) as statements:
        follow_photos(Ledger(database))
        Report(database).oldest(list(State))
    plans = statements.plans()
    database.close()
    assert len(plans) > 10
    searches = {statement: plan for statement, plan in plans.items() if not statement.startswith("INSERT")}
    assert {query: plan for query, plan in searches.items() if "Seq Scan" in plan or "Index Cond" not in plan} == {}


def test_the_start_list_on_postgresql(site: Any, draw: Callable[..., bytes], server: str) -> None:
    import psycopg

    site.environment["BIBWATCH_DATABASE_URL"] = server
    (site.camera / "a.jpg").write_bytes(draw("1042", "1731"))
    assert site.bibwatch("run", "--once").returncode == 0
    (site.place / "entries.csv").write_text("bib,name\n01042,Anna\n1781,Ben\n2000,Cleo\n")
    assert site.bibwatch("entries", "import", "entries.csv").returncode == 0
    assert "1 results judged again, 1 changed" in site.bibwatch("judge").stdout
    with psycopg.connect(server) as connection:
        rows = connection.execute("SELECT bib, verdict, entry_match, entry FROM bib_results ORDER BY bib").fetchall()
        columns = "bib, fields_json, suggestion, near_bib, near_kind, verdict"
        missing = connection.execute(f"SELECT {columns} FROM missing ORDER BY position, suggestion").fetchall()  # noqa: S608
        views = connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'public'").fetchall()
        for (view,) in views:
            connection.execute(f"SELECT * FROM {view}")  # noqa: S608
    assert rows == [("01042", "accepted", "exact", "01042"), ("1731", "review", "near", "1781")]
    assert missing == [
        ("1781", '{"name": "Ben"}', 1, "1731", "confusion", "review"),
        ("2000", '{"name": "Cleo"}', 1, None, None, None),
    ]
    assert {view for (view,) in views} == set(VIEWS)
