"""A place where a real `bibwatch run` works: its folders, its database, its life."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE = 60.0  # seconds; reached only when something is broken


class Site:
    """A fresh folder with one camera, and the processes started in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.camera = place / "finish"
        self.camera.mkdir()
        self.database = place / "bibwatch.db"
        self.log = place / "log.jsonl"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BIBWATCH_")},
            "BIBWATCH_CAMERAS": json.dumps({"finish": {"path": str(self.camera)}}),
            "BIBWATCH_INGEST__SCAN_SECONDS": "0.2",
            "BIBWATCH_INGEST__SETTLE_SECONDS": "0.3",
            "BIBWATCH_PIPELINE__BATCH_WAIT_SECONDS": "0.05",
            "BIBWATCH_LOG_FORMAT": "json",
        }
        self._running: list[subprocess.Popen[bytes]] = []

    def bibwatch(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "bibwatch", *args],
            cwd=self.place,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 5,
            check=False,
        )

    def start(self, *args: str, ready: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """Start the daemon; wait until it is ready, unless told not to."""
        before = self.events("daemon.ready") if self.log.exists() else []
        with self.log.open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "bibwatch", "run", *args],
                cwd=self.place,
                env=self.environment | environment,
                stderr=log,
            )
        self._running.append(daemon)
        if ready:
            self.wait(lambda: len(self.events("daemon.ready")) > len(before) or daemon.poll() is not None)
            assert daemon.poll() is None, self.log.read_text()
        return daemon

    def stop(self, daemon: subprocess.Popen[bytes]) -> int:
        """Stop the daemon as systemd would; return its exit code."""
        daemon.send_signal(signal.SIGTERM)
        return daemon.wait(20)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, (
                f"waited {DEADLINE} s in vain\n{self.states()}\n{self.log.read_text()[-4000:]}"
            )
            time.sleep(0.05)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database as any SQL user would; nothing if it is not there yet."""
        if not self.database.exists():
            return []
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError as exc:
            if "no such table" in str(exc):
                return []
            raise
        finally:
            connection.close()

    def states(self) -> dict[str, str]:
        """Return the state of each file, by name."""
        return {Path(path).name: state for path, state in self.query("SELECT path, state FROM file_status")}

    def bibs(self) -> list[tuple[str, str]]:
        """Return name and bib of every reading, sorted."""
        rows = self.query("SELECT path, bib FROM bib_results")
        return sorted((Path(path).name, bib) for path, bib in rows)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == name]

    def close(self) -> None:
        """End what still runs."""
        for daemon in self._running:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()
