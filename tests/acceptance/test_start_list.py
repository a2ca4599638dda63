"""A start list in a real daemon: configured, changed, broken, imported; what was read is judged again, not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.heavy
Site = Any
Draw = Callable[..., bytes]


def verdicts(site: Site) -> dict[str, str]:
    return dict(site.query("SELECT bib, verdict FROM bib_results"))


def test_a_file_that_changes_while_the_daemon_runs(site: Site, draw: Draw) -> None:
    (site.camera / "a.jpg").write_bytes(draw("1042", "731"))
    file = site.place / "entries.csv"
    file.write_text("Startnr;Name\n1042;Anna\n")
    (site.place / "config.toml").write_text('[race]\nstart_list = "entries.csv"\n')
    daemon = site.start()
    site.wait(lambda: verdicts(site) == {"1042": "accepted", "731": "review"})
    file.write_text("Startnr;Name\n0731;Ben\n")
    site.wait(lambda: verdicts(site) == {"1042": "review", "0731": "accepted"})
    file.write_text("a file of something else\n")
    site.wait(lambda: site.events("start_list.kept"))
    assert site.query("SELECT bib FROM entries") == [("0731",)]
    assert site.stop(daemon) == 0
    assert site.events("daemon.stop")[-1]["model_images"] == 1
    again = site.bibwatch("run", "--once")
    assert again.returncode == 0, again.stderr
    assert verdicts(site) == {"1042": "review", "0731": "accepted"}


def test_a_list_that_is_imported_while_the_daemon_runs(site: Site, draw: Draw) -> None:
    (site.camera / "a.jpg").write_bytes(draw("1042", "731"))
    daemon = site.start()
    site.wait(lambda: verdicts(site) == {"1042": "accepted", "731": "accepted"})
    (site.place / "list.csv").write_text("bib\n1042\n732\n")
    imported = site.bibwatch("entries", "import", "list.csv")
    assert imported.stdout.endswith("bibwatch is running and judges again by itself\n"), imported.stderr
    site.wait(lambda: verdicts(site) == {"1042": "accepted", "731": "review"})
    (site.camera / "b.jpg").write_bytes(draw("555", seed=1))
    site.wait(lambda: verdicts(site).get("555") == "review")
    assert site.query("SELECT bib, near_bib, near_kind FROM missing") == [("732", "731", "substitution")]
    assert site.bibwatch("entries", "clear").returncode == 0
    site.wait(lambda: set(verdicts(site).values()) == {"accepted"})
    assert site.stop(daemon) == 0


def test_a_list_that_cannot_be_used_at_the_first_start(site: Site) -> None:
    """One line, and the exit code that systemd does not start again after."""
    failed = site.bibwatch("run", "--once", BIBWATCH_RACE__START_LIST="entries.csv")
    assert failed.returncode == 78
    file = site.place / "entries.csv"
    assert failed.stderr.endswith(f"bibwatch: start list {file}: cannot be read (No such file or directory)\n")
    assert "Traceback" not in failed.stderr
    (site.place / "entries.csv").write_text("bib,name\n1,Anna\n1,Ben\n")
    checked = site.bibwatch("check", BIBWATCH_RACE__START_LIST="entries.csv")
    assert checked.returncode == 0, checked.stderr
    assert "1 entries, the bibs from column 'bib'; 1 row has the bib of an earlier row" in checked.stdout
