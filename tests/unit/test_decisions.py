"""Decisions of people: where they show, and that nothing a machine does later touches them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from bibwatch.cli import cli
from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate
from bibwatch.domain.decisions import Action, Decision
from bibwatch.errors import BibwatchError
from bibwatch.judging import Judge, Race
from bibwatch.rejudging import rejudge
from bibwatch.store.database import Database
from bibwatch.store.decisions import Decisions
from bibwatch.store.judgements import Judgements
from bibwatch.store.results import candidate_row
from bibwatch.store.schema import candidates as candidate_table
from bibwatch.store.schema import images, results

_THEN = "2026-11-21T10:00:05.042Z"
_ANY = Judge()


@pytest.fixture
def database(database: Database) -> Database:
    """The database with one image that has been read."""
    add_image(database, 1, "1042", "731")
    return database


def add_image(database: Database, number: int, *bibs: str, preset: str = "rapidocr", score: float = 0.97) -> None:
    """Record an image as it is after reading and judging; again, as after another model."""
    seen = [Candidate(bib, score, Box(10, 10, 50, 30)) for bib in bibs]
    with database.write() as connection:
        if not connection.execute(images.select().where(images.c.id == number)).all():
            image = {"id": number, "sha256": f"{number:064}", "camera": "finish", "path": f"/drop/{number}.jpg"}
            connection.execute(images.insert(), image | {"width": 600, "height": 400, "received_at": _THEN})
        row = {"image_id": number, "stage": "bib_number", "preset": preset, "fingerprint": preset}
        more = {"model": "m", "device": "cpu", "seconds": 0.1, "processed_at": _THEN}
        (result,) = connection.execute(results.insert().values(row | more)).inserted_primary_key
        if seen:
            connection.execute(candidate_table.insert(), [candidate_row(result, each, None) for each in seen])
    judge_again(database, _ANY)


def judge_again(database: Database, judge: Judge) -> None:
    for _ in rejudge(Judgements(database), judge):
        pass


def shown(database: Database, image: int = 1) -> list[tuple[str, str, str | None]]:
    """Return what `bib_results` says of an image: bib, verdict and who decided."""
    query = text("SELECT bib, verdict, decided_by FROM bib_results WHERE image_id = :image ORDER BY bib")
    with database.query() as connection:
        return [tuple(row) for row in connection.execute(query, {"image": image})]


def decide(database: Database, bib: str, action: Action, image: int = 1, **more: Any) -> None:
    Decisions(database).decide(image, Decision(bib, action, by="Anna", **more))


@pytest.mark.parametrize(
    ("action", "more", "row"),
    [
        (Action.ACCEPT, {}, ("1042", "accepted", "Anna")),
        (Action.REJECT, {}, ("1042", "rejected", "Anna")),
        (Action.CORRECT, {"corrected_to": "1047"}, ("1047", "accepted", "Anna")),
    ],
)
def test_a_decision_shows_in_the_results_at_once(
    database: Database, action: Action, more: dict[str, Any], row: tuple[str, str, str]
) -> None:
    decide(database, "1042", action, **more)
    assert shown(database) == [row, ("731", "accepted", None)]


def test_what_was_read_stays_beside_what_it_was_corrected_to(database: Database) -> None:
    decide(database, "1042", Action.CORRECT, corrected_to="1047")
    with database.query() as connection:
        row = connection.execute(
            text("SELECT read_as, confidence, decided_at FROM bib_results WHERE bib = '1047'")
        ).one()
    assert (row.read_as, row.confidence) == ("1042", 0.97)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row.decided_at)


def test_an_added_bib_is_there_with_its_box(database: Database) -> None:
    decide(database, "88", Action.ADD, box=Box(1, 2, 3, 4))
    assert ("88", "accepted", "Anna") in shown(database)
    with database.query() as connection:
        query = text("SELECT x1, y1, x2, y2, width, reading_id FROM bib_results WHERE bib = '88'")
        assert tuple(connection.execute(query).one()) == (1, 2, 3, 4, 600, None)


@pytest.mark.parametrize("race", [Race(accept_at=1.0), Race(forms=(re.compile(r"9\d\d"),))])
def test_judging_again_touches_no_decision(database: Database, race: Race) -> None:
    """Not even if the bib is no longer a reading."""
    decide(database, "1042", Action.ACCEPT)
    decide(database, "731", Action.CORRECT, corrected_to="732")
    decide(database, "88", Action.ADD)
    before = shown(database)
    judge_again(database, Judge(race))
    assert shown(database) == before


def test_reading_again_touches_no_decision(database: Database) -> None:
    decide(database, "1042", Action.REJECT)
    decide(database, "88", Action.ADD)
    add_image(database, 1, "1042", "88", preset="another", score=0.5)
    assert ("1042", "accepted", None) not in shown(database)
    assert {row for row in shown(database) if row[0] == "1042"} == {("1042", "rejected", "Anna")}
    assert {row for row in shown(database) if row[0] == "88"} == {("88", "accepted", "Anna")}


def test_a_later_decision_takes_the_place_of_an_earlier_one_and_both_are_kept(database: Database) -> None:
    decide(database, "1042", Action.REJECT)
    decide(database, "1042", Action.ACCEPT)
    assert shown(database)[0] == ("1042", "accepted", "Anna")
    with database.query() as connection:
        kept = connection.execute(text("SELECT action, superseded FROM decisions ORDER BY id")).all()
    assert [tuple(row) for row in kept] == [("reject", 1), ("accept", 0)]


def test_a_corrected_bib_is_decided_about_by_the_number_it_shows(database: Database) -> None:
    decide(database, "1042", Action.CORRECT, corrected_to="1047")
    decide(database, "1047", Action.CORRECT, corrected_to="1049")
    assert shown(database)[0] == ("1049", "accepted", "Anna")
    decide(database, "1049", Action.REJECT)
    assert shown(database)[0] == ("1042", "rejected", "Anna")
    decide(database, "1042", Action.ACCEPT)
    assert shown(database)[0] == ("1042", "accepted", "Anna")


def test_a_decision_is_about_one_image(database: Database) -> None:
    add_image(database, 2, "1042")
    decide(database, "1042", Action.REJECT)
    assert shown(database, 2) == [("1042", "accepted", None)]


def test_a_bib_that_is_not_there_is_an_error_that_says_which_are(database: Database) -> None:
    with pytest.raises(BibwatchError, match=r"image 1 has no bib 42 \(it has: 1042, 731\); to add one, use --add"):
        decide(database, "42", Action.ACCEPT)


_BIBS = st.sampled_from(["1042", "731", "88"])
_DECISIONS = st.lists(st.tuples(_BIBS, st.sampled_from(Action), _BIBS), max_size=8)


@settings(deadline=None, max_examples=min(60, settings().max_examples))
@given(_DECISIONS, st.sampled_from([0.5, 0.97, 1.0]))
def test_judging_never_changes_a_decision(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, steps: list[tuple[str, Action, str]], accept_at: float
) -> None:
    database = Database(f"sqlite:///{shutil.copy(migrated, tmp_path_factory.mktemp('decisions'))}")
    add_image(database, 1, "1042", "731")
    for bib, action, other in steps:
        there = any(row[0] == bib for row in shown(database))
        if there or action is Action.ADD:
            decide(database, bib, action, corrected_to=other if action is Action.CORRECT else None)
            # A bib that was added and then rejected is shown no more: no model read it.
            assert action is Action.REJECT or any(row[2] == "Anna" for row in shown(database))
    decided = [row for row in shown(database) if row[2]]
    judge_again(database, Judge(Race(accept_at=accept_at)))
    assert [row for row in shown(database) if row[2]] == decided
    database.close()


# The command


def correct(database: Database, *words: str) -> Any:
    return CliRunner().invoke(cli, ["correct", "--database", database.url, *words], catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1", "--bib", "1042", "--to", "1047"], "image 1: 1047 accepted, 731 accepted\n"),
        (["/drop/1.jpg", "--bib", "1042", "--reject"], "image 1: 1042 rejected, 731 accepted\n"),
        (["1", "--bib", " 1042", "--accept"], "image 1: 1042 accepted, 731 accepted\n"),
        (["1", "--add", "m88", "--box", "1,2,3,4"], "image 1: 1042 accepted, 731 accepted, M88 accepted\n"),
    ],
)
def test_the_command_says_what_the_image_has_now(database: Database, words: list[str], said: str) -> None:
    done = correct(database, *words, "--by", "Anna", "--note", "seen on the video")
    assert (done.exit_code, done.output) == (0, said)
    with database.query() as connection:
        assert connection.execute(text("SELECT decided_by, note FROM decisions")).all() == [
            ("Anna", "seen on the video")
        ]


def test_the_command_for_machines(database: Database) -> None:
    done = correct(database, "1", "--bib", "1042", "--reject", "--json")
    bibs = [{"bib": "1042", "verdict": "rejected"}, {"bib": "731", "verdict": "accepted"}]
    assert json.loads(done.output) == {"image_id": 1, "bibs": bibs}


@pytest.mark.parametrize(
    "words",
    [
        ["1"],
        ["1", "--bib", "1042"],
        ["1", "--reject"],
        ["1", "--bib", "1042", "--accept", "--reject"],
        ["1", "--bib", "1042", "--add", "7"],
        ["1", "--add", "7", "--reject"],
        ["1", "--add", " "],
        ["1", "--bib", "1042", "--to", ""],
        ["1", "--bib", "1042", "--accept", "--box", "1,2,3,4"],
        *(["1", "--add", "7", "--box", box] for box in ("1,2,3", "3,2,1,4", "a,b,c,d", "nan,1,2,3", "1,2,inf,4")),
    ],
)
def test_a_call_that_means_nothing_is_a_mistake_in_usage(database: Database, words: list[str]) -> None:
    assert correct(database, *words).exit_code == 2
    assert shown(database) == [("1042", "accepted", None), ("731", "accepted", None)]


@pytest.mark.parametrize("image", ["7", "/drop/none.jpg", "9" * 30, "x"])
def test_an_image_that_is_not_there_is_reported(database: Database, image: str) -> None:
    with pytest.raises(BibwatchError, match="no image"):
        correct(database, image, "--add", "7")
