"""The start list in the database: replaced as a whole, noticed when it changes, and who on it has not been seen."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from sqlalchemy import text
from structlog.testing import capture_logs

from bibwatch.cli import cli
from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Source
from bibwatch.domain.decisions import Action, Decision
from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import State
from bibwatch.entry_files import Entry
from bibwatch.errors import ConfigurationError, StoreError
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.judging import Judge, Race, StartList
from bibwatch.rejudging import Rejudging, rejudge
from bibwatch.start_lists import CurrentStartList
from bibwatch.store.database import Database
from bibwatch.store.decisions import Decisions
from bibwatch.store.entries import Entries
from bibwatch.store.judgements import Judgements
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Finished, Result, Sighting

_OCR = Recogniser("bib_number", "rapidocr", "aaaaaaaaaaaa")


def entries(*bibs: str) -> tuple[Entry, ...]:
    return tuple(Entry(bib, {"Name": f"Runner {bib}"}) for bib in bibs)


def judge_of(*bibs: str) -> Judge:
    return Judge(Race(start_list=StartList(bibs)))


def read(database: Database, judge: Judge, *texts: str, name: str = "a", score: float = 0.99) -> None:
    """Record an image with these texts, side by side, the way the daemon does."""
    ledger = Ledger(database)
    ledger.record_sightings("finish", [Sighting(f"/drop/{name}.jpg", Stat(1, 1, 1, 1), State.READY)])
    (claim,) = ledger.claim(1, quarantined=True)
    photo = Photo(Image.new("RGB", (1, 1)), 600, 400, f"{name:>064}", None)
    seen = [
        Candidate(each, score, Box(100 * x, 0, 100 * x + 80, 50), Source.LINE, edge_distance=0.1)
        for x, each in enumerate(texts)
    ]
    result = Result("m", "cpu", 0.1, None, tuple(seen), judgement=judge.judge(seen), judged_by=judge.fingerprint)
    ledger.finish(_OCR, [Finished(claim, photo, result)])


def shown(database: Database, columns: str, view: str = "bib_results") -> list[tuple[Any, ...]]:
    with database.query() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM {view}"))]  # noqa: S608


# Storing


def test_a_list_comes_back_in_its_order(database: Database) -> None:
    store = Entries(database)
    assert (store.stored(), store.start_list(), list(store)) == (None, None, [])
    assert store.replace(entries("7", "0042", "M1"), "/x/entries.csv")
    assert tuple(store) == entries("7", "0042", "M1")
    stored = store.stored()
    assert stored is not None
    assert (stored.source, stored.fingerprint) == ("/x/entries.csv", StartList(["M1", "7", "0042"]).fingerprint)
    rows = shown(database, "bib, position, fields_json, source", "entries")
    assert rows[1] == ("0042", 2, '{"Name": "Runner 0042"}', "/x/entries.csv")


def test_a_list_replaces_the_former_one(database: Database) -> None:
    store = Entries(database)
    assert store.replace(entries("1", "2"), "a")
    assert not store.replace(entries("1", "2"), "b")
    assert store.replace(entries("2", "3"), "b")
    assert [entry.bib for entry in store] == ["2", "3"]
    assert (store.clear(), store.clear(), store.start_list()) == (True, False, None)


def test_a_list_is_replaced_as_a_whole_or_not_at_all(database: Database) -> None:
    store = Entries(database)
    store.replace(entries("1", "2"), "a")
    with pytest.raises(StoreError):
        store.replace(entries("3", "4", "4"), "b")  # no file gives a bib twice
    assert [entry.bib for entry in store] == ["1", "2"]


# Noticing


def bibs(current: CurrentStartList) -> tuple[str, ...] | None:
    return None if current.start_list is None else current.start_list.bibs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "entries.csv"
    file.write_text("bib\n1\n2\n")
    return file


def rewrite(file: Path, content: str) -> None:
    """Write a file so that nobody takes it for the one before."""
    file.write_text(content)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))


def test_a_file_is_taken_at_start_and_again_when_it_has_changed_and_settled(database: Database, file: Path) -> None:
    current = CurrentStartList(Entries(database), file)
    current.load()
    assert bibs(current) == ("1", "2")
    assert not current.refresh()
    rewrite(file, "bib\n1\n")  # half of it
    assert not current.refresh()
    rewrite(file, "bib\n1\n3\n")
    assert (current.refresh(), bibs(current)) == (False, ("1", "2"))
    assert (current.refresh(), bibs(current)) == (True, ("1", "3"))
    assert not current.refresh()


def test_a_bad_file_keeps_the_earlier_list_with_one_line(database: Database, file: Path) -> None:
    current = CurrentStartList(Entries(database), file)
    current.load()
    rewrite(file, "name\nAnna\n")
    with capture_logs() as logs:
        assert not any(current.refresh() for _ in range(4))
    assert [line["event"] for line in logs] == ["start_list.kept"]
    assert str(file) in logs[0]["error"]
    file.unlink()
    assert not any(current.refresh() for _ in range(4))
    again = CurrentStartList(Entries(database), file)
    with capture_logs() as logs:
        again.load()
    assert (bibs(again), [line["event"] for line in logs]) == (("1", "2"), ["start_list.kept"])
    file.write_text("bib\n9\n")
    assert [again.refresh() for _ in range(2)] == [False, True]


def test_a_bad_file_and_no_earlier_list_is_an_error(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        CurrentStartList(Entries(database), tmp_path / "missing.csv").load()


def test_a_file_that_could_not_be_stored_is_taken_at_the_next_try(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = CurrentStartList(Entries(database), file)
    current.load()
    rewrite(file, "bib\n9\n")
    assert not current.refresh()
    with monkeypatch.context() as patch:
        patch.setattr(Entries, "replace", lambda *_: (_ for _ in ()).throw(StoreError("locked")))
        for _ in range(2):
            with pytest.raises(StoreError):
                current.refresh()
    assert (current.refresh(), bibs(current)) == (True, ("9",))


def test_an_import_of_somebody_else_is_noticed(database: Database) -> None:
    current = CurrentStartList(Entries(database), None)
    current.load()
    assert bibs(current) is None
    Entries(database).replace(entries("1"), "x")
    assert (current.refresh(), bibs(current)) == (True, ("1",))
    Entries(database).replace((Entry("1", {"Name": "Anna"}),), "x")
    assert not current.refresh(), "the bibs are the same"
    Entries(database).clear()
    assert (current.refresh(), bibs(current)) == (True, None)


def test_another_judge_judges_all_again_and_what_comes_in_late(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo may be judged by the former judge while the new one goes through the database."""
    monkeypatch.setattr("bibwatch.rejudging._CHECK_SECONDS", 0.01)
    before, after = Judge(), judge_of("1042")
    read(database, before, "1042", "731")
    stop, new = threading.Event(), iter([after])
    loop = Rejudging(Judgements(database), before, stop, renewed=lambda: next(new, None))
    loop.start()
    try:
        wait(lambda: shown(database, "bib, verdict") == [("1042", "accepted"), ("731", "review")])
        read(database, before, "1042", "731", name="late")
        wait(lambda: shown(database, "bib, verdict") == [("1042", "accepted"), ("731", "review")] * 2)
        beats = loop.heartbeats
        wait(lambda: loop.heartbeats > beats + 3)
        assert loop.done
    finally:
        stop.set()
        assert loop.join(10)
    assert loop.failure is None


def wait(condition: Any) -> None:
    waiting = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waiting.wait(0.005)
    raise AssertionError("waited in vain")


# Showing


def test_results_say_what_the_list_says(database: Database) -> None:
    read(database, judge_of("0042", "1047"), "42", "1041", "888")
    columns = "bib, verdict, read_as, entry_match, entry"
    assert shown(database, columns) == [
        ("0042", "accepted", "42", "exact", "0042"),
        ("1041", "review", "1041", "near", "1047"),
        ("888", "review", "888", "unknown", None),
    ]
    read(database, Judge(), "5555", name="b")
    assert shown(database, "entry_match, entry", "bib_results WHERE bib = '5555'") == [(None, None)]


def test_judging_again_by_a_list_changes_what_the_results_say(database: Database) -> None:
    read(database, Judge(), "42", "1041")
    assert [*rejudge(Judgements(database), judge_of("0042", "1047"))][-1] == (1, 1)
    assert [*rejudge(Judgements(database), judge_of("0042", "1047"))][-1] == (1, 0)
    assert shown(database, "bib, entry_match") == [("0042", "exact"), ("1041", "near")]


def test_a_decision_outlasts_a_list_that_prints_the_bib_otherwise(database: Database) -> None:
    read(database, Judge(), "42", "1041")
    decisions = Decisions(database)
    decisions.decide(1, Decision("42", Action.REJECT, "Anna"))
    [*rejudge(Judgements(database), judge_of("0042", "1047"))]
    assert shown(database, "bib, verdict") == [("0042", "rejected"), ("1041", "review")]
    decisions.decide(1, Decision("0042", Action.ACCEPT, "Anna"))
    assert shown(database, "bib, verdict")[0] == ("0042", "accepted")


def test_a_corrected_bib_is_compared_with_the_list_itself(database: Database) -> None:
    Entries(database).replace(entries("1042", "1047"), "x")
    read(database, judge_of("1042", "1047"), "1041", "1048")
    decisions = Decisions(database)
    decisions.decide(1, Decision("1041", Action.CORRECT, "Anna", corrected_to="1047"))
    decisions.decide(1, Decision("1048", Action.CORRECT, "Anna", corrected_to="9"))
    decisions.decide(1, Decision("1042", Action.ADD, "Anna"))
    columns = "bib, read_as, entry_match, entry"
    assert shown(database, columns) == [
        ("1047", "1041", "exact", "1047"),
        ("9", "1048", "unknown", None),
        ("1042", "1042", "exact", "1042"),
    ]


# Missing


_MISSING = "bib, suggestion, near_bib, near_kind, verdict, path"


def missing(database: Database, *bibs: str) -> list[tuple[Any, ...]]:
    Entries(database).replace(entries(*bibs), "x")
    return shown(database, _MISSING, "missing ORDER BY position, suggestion")


def test_who_was_seen_is_not_missing(database: Database) -> None:
    read(database, judge_of("0042", "1047"), "42", "1047")
    assert missing(database, "0042", "1047", "2000") == [("2000", 1, None, None, None, None)]


def test_who_is_missing_comes_with_what_may_be_them(database: Database) -> None:
    judge = judge_of("1047", "2000", "31")
    read(database, judge, "1041", "200", name="a")
    read(database, judge, "1041", name="b", score=0.9)
    read(database, judge, "2000", name="c", score=0.9)  # on the list, but not sure
    read(database, judge, "2000", name="d", score=0.3)  # too unsure to be a reading at all
    assert missing(database, "1047", "2000", "31") == [
        ("1047", 1, "1041", "confusion", "review", "/drop/a.jpg"),
        ("1047", 2, "1041", "confusion", "review", "/drop/b.jpg"),
        ("2000", 1, "2000", "exact", "review", "/drop/c.jpg"),
        ("2000", 2, "2000", "exact", "candidate", "/drop/d.jpg"),
        ("2000", 3, "200", "hidden_end", "review", "/drop/a.jpg"),
        ("31", 1, None, None, None, None),
    ]


def test_what_a_person_decides_counts(database: Database) -> None:
    read(database, judge_of("1047", "0042"), "1041", "1047")
    decisions = Decisions(database)
    decisions.decide(1, Decision("1047", Action.REJECT, "Anna"))
    decisions.decide(1, Decision("42", Action.ADD, "Anna"))
    assert [row[:3] for row in missing(database, "1047", "0042")] == [("1047", 1, "1041")]
    decisions.decide(1, Decision("1041", Action.CORRECT, "Anna", corrected_to="1047"))
    assert missing(database, "1047", "0042") == []


# The command


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["entries", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_imports_lists_and_clears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first `bibwatch run`, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("Nr;Name\n42;Anna\n42;Ben\n")
    code, out, err = run("import", "list.csv")
    assert (code, err) == (0, "list.csv: 1 row has the bib of an earlier row, which counts: row 3 (42, row 2)\n")
    assert out == "1 entries, the bibs from column 'Nr'; also Name\n`bibwatch judge` judges again what was read\n"
    assert run("--json") == (0, '{"bib": "42", "fields": {"Name": "Anna"}}\n', "")
    code, out, _ = run()
    assert "Anna" in out
    assert f"1 entries of {tmp_path / 'list.csv'}" in out.replace("\n", "")
    code, out, _ = run("import", "--json", "list.csv")
    assert json.loads(out) == {
        "entries": 1,
        "column": "Nr",
        "columns": ["Name"],
        "notes": ["1 row has the bib of an earlier row, which counts: row 3 (42, row 2)"],
        "changed": False,
    }
    assert run("clear")[1] == "the start list is removed\n`bibwatch judge` judges again what was read\n"
    assert run("clear")[1] == "there was no start list\n"
    assert run()[1] == "no start list; `bibwatch entries import FILE` takes one\n"


def test_the_database_may_be_named_before_or_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("bib\n42\n")
    for name, arguments in (
        ("a", ("--database", "sqlite:///a.db", "import")),
        ("b", ("import", "--database", "sqlite:///b.db")),
    ):
        assert run(*arguments, "list.csv")[0] == 0
        assert (tmp_path / f"{name}.db").exists()
    assert json.loads(run("--json", "--database", "sqlite:///a.db")[1])["bib"] == "42"
    assert json.loads(run("--json", "import", "--database", "sqlite:///a.db", "list.csv")[1])["changed"] is False


def test_a_configured_file_is_not_overruled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text('[race]\nstart_list = "entries.csv"\n')
    for arguments in (("import", "x.csv"), ("clear",)):
        code, _, err = run(*arguments)
        assert code == 2
        assert f"the start list is race.start_list ({tmp_path / 'entries.csv'})" in err
