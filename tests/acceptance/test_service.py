"""What systemd and the command line see: readiness, watchdog, exit codes, one clear line an error."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.heavy
UNIT = Path(__file__).parents[2] / "systemd" / "bibwatch.service"
Site = Any


def test_ready_comes_after_the_backlog_and_the_watchdog_is_fed(site: Site, draw: Callable[..., bytes]) -> None:
    """The first message is READY, and by then every file of the backlog is in the ledger."""
    for number in range(5):
        (site.camera / f"{number}.jpg").write_bytes(draw(str(300 + number)))
    address = str(site.place / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(60)
        daemon = site.start(ready=False, NOTIFY_SOCKET=address, WATCHDOG_USEC="2000000")
        said = [systemd.recv(4096).decode()]
        while said[-1] != "READY=1":
            said.append(systemd.recv(4096).decode())
        assert set(said[:-1]) <= {"WATCHDOG=1"}
        assert len(site.query("SELECT 1 FROM file_status")) == 5
        site.wait(lambda: set(site.states().values()) == {"done"})
        while "WATCHDOG=1" not in said[-1]:
            said.append(systemd.recv(4096).decode())
        while "5 read, 0 waiting, 0 with problems" not in said[-1]:
            said.append(systemd.recv(4096).decode())
        assert site.stop(daemon) == 0
        systemd.settimeout(1)
        while "STOPPING=1" not in said[-1]:
            said.append(systemd.recv(4096).decode())


@pytest.mark.parametrize(
    ("args", "environment", "code", "message"),
    [
        (("run", "--camera", "finish"), {}, 2, "give a name and a folder, such as finish=/srv/drop/finish"),
        (("run", "--preset", "rapidorc"), {}, 2, "unknown preset 'rapidorc'; did you mean 'rapidocr'?"),
        (
            ("run",),
            {"BIBWATCH_STAGE": "bib_numbr"},
            78,
            "unknown kind of stage 'bib_numbr'; did you mean 'bib_number'?",
        ),
        (("run",), {"BIBWATCH_PRESTE": "x"}, 78, "'BIBWATCH_PRESTE'; did you mean 'BIBWATCH_PRESET'?"),
        (("run",), {"BIBWATCH_INGEST__SCAN_SECOND": "1"}, 78, "did you mean 'BIBWATCH_INGEST__SCAN_SECONDS'?"),
        (
            ("run",),
            {"BIBWATCH_INGEST__SCAN_SECONDS": "soon"},
            78,
            "ingest.scan_seconds: Input should be a valid number",
        ),
        (("run",), {"BIBWATCH_CAMERAS": "{"}, 78, "cameras"),
        (("run",), {"BIBWATCH_CAMERAS": "{}"}, 78, "no camera folder to watch"),
        (("run", "--database", "sqlite:///finish/x.db"), {}, 78, "is inside the folder of camera finish"),
        (("run", "--database", "sqlite:///nowhere/x.db"), {}, 78, "cannot write its folder"),
        (("run", "--database", "oracle://x"), {}, 78, "use sqlite or postgresql"),
        (("run", "--camera", "chute=finish/DCIM"), {}, 78, "cameras finish and chute overlap"),
        (("run", "--config", "none.toml"), {}, 78, "configuration file none.toml does not exist"),
        (("status",), {}, 78, "no database at"),
        (("audit",), {"BIBWATCH_CAMERAS": "{}"}, 78, "no camera folder to audit"),
        (("run",), {"BIBWATCH_STAGES": '{"bib_numbr": {"edge": 0.1}}'}, 78, "unknown kind of stage 'bib_numbr'"),
        (("run",), {"BIBWATCH_PRESETS": '{"mine": {"base": "rapidorc"}}'}, 78, "unknown preset 'rapidorc'"),
        (("run",), {"BIBWATCH_PLUGINS": '["no-such"]'}, 78, "plugins: no-such is not installed"),
        (("run", "--database", "sqlite:///file:x.db?uri=true"), {}, 78, "SQLite needs a file"),
        (("read", "none.jpg"), {}, 1, "none.jpg: gone"),
    ],
)
def test_a_mistake_gets_one_clear_line_and_its_exit_code(
    site: Site, args: tuple[str, ...], environment: dict[str, str], code: int, message: str
) -> None:
    ran = site.bibwatch(*args, **environment)
    assert ran.returncode == code, ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len([line for line in ran.stderr.splitlines() if not line.startswith(("Usage:", "Try "))]) <= 2


def test_read_says_what_run_records(site: Site, draw: Callable[..., bytes]) -> None:
    """The same photo, with and without a database."""
    (site.camera / "a.jpg").write_bytes(draw("0731", "M2045"))
    (site.camera / "b.jpg").write_bytes(draw())
    read = site.bibwatch("read", "--json", "finish/a.jpg", "finish/b.jpg")
    assert read.returncode == 0, read.stderr
    first, second = map(json.loads, read.stdout.splitlines())
    assert site.bibwatch("run", "--once").returncode == 0
    rows = site.query("SELECT sha256, bib, round(confidence, 4), verdict, round(x1, 1) FROM bib_results")
    assert sorted(rows) == sorted(
        (first["sha256"], each["bib"], each["confidence"], each["verdict"], each["box"][0]) for each in first["bibs"]
    )
    assert second["bibs"] == []
    assert not site.bibwatch("read", "finish/a.jpg").stdout.startswith("{")


def test_names_and_contents_play_no_tricks_on_status(site: Site) -> None:
    """Brackets are markup to the library that draws the tables."""
    (site.camera / "[red]x[.jpg").write_text("[/b] hi")
    assert site.bibwatch("run", "--once").returncode == 0
    status = site.bibwatch("status")
    assert status.returncode == 0, status.stderr
    assert "[/b]" in status.stdout


def test_a_database_that_goes_is_reported(site: Site) -> None:
    """Nobody would see further rows, so the daemon ends and the service manager restarts it."""
    daemon = site.start()
    site.database.unlink()
    assert daemon.wait(60) == 1
    assert "was removed or replaced" in site.log.read_text()


def test_a_log_that_cannot_be_written_stops_nothing(site: Site, draw: Callable[..., bytes]) -> None:
    (site.camera / "a.jpg").write_bytes(draw("42"))
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "bibwatch", "run", "--once"],
            cwd=site.place,
            env=site.environment,
            stderr=full,
            check=False,
        )
    assert ran.returncode == 0
    assert site.bibs() == [("a.jpg", "42")]


def test_the_demo_reads_what_it_draws(tmp_path: Path, site: Site) -> None:
    ran = site.bibwatch("demo", "--folder", str(tmp_path / "my demo"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for bib in ("1042", "0317", "M10151", "5208"):
        assert bib in ran.stdout
    assert "bibwatch.db" in ran.stdout
    with closing(sqlite3.connect(tmp_path / "my demo" / "bibwatch.db")) as database:
        assert database.execute("SELECT DISTINCT camera FROM bib_results").fetchall() == [("finish",)]
    assert site.bibwatch("demo", "--folder", str(tmp_path / "my demo")).returncode == 2


def test_metrics_are_served(site: Site, draw: Callable[..., bytes]) -> None:
    """Every metric of the docs is there, on the port that was asked for."""
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (site.camera / "a.jpg").write_bytes(draw("42"))
    site.start(BIBWATCH_METRICS_PORT=str(port))
    site.wait(lambda: site.states() == {"a.jpg": "done"})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    docs = (UNIT.parents[1] / "docs" / "metrics.md").read_text()
    for name in re.findall(r"`(bibwatch_\w+)`", docs):
        assert name in text
    assert re.search(r'bibwatch_files_finished_total\{state="done"\} 1\.0', text)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not on this machine")
def test_the_unit_is_hardened() -> None:
    """`systemd-analyze security` rates it 1.5 or better, on a scale where 10 is exposed."""
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(UNIT)], capture_output=True, text=True, check=False
    )
    rating = re.search(r"Overall exposure level for bibwatch.service: ([\d.]+)", ran.stdout)
    assert rating, ran.stdout + ran.stderr
    assert float(rating[1]) <= 1.5


def test_the_unit_is_what_the_daemon_expects() -> None:
    """Readiness, watchdog, its own state folder, and no restart after errors that a restart cannot fix."""
    unit = UNIT.read_text()
    for line in ("Type=notify", "WatchdogSec=", "StateDirectory=bibwatch", "EnvironmentFile=", "StateDirectory="):
        assert re.search(f"^{line}", unit, re.MULTILINE)
    assert "RestartPreventExitStatus=75 78" in unit
