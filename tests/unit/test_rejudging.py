"""Re-judging from the database: what changes, what does not, and results of earlier versions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sqlalchemy import text

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Look, LookTaken, Source
from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.judging import Judge, Race, Rules
from bibwatch.rejudging import Progress, rejudge
from bibwatch.store import database as module
from bibwatch.store.database import Database
from bibwatch.store.judgements import Judgements
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Finished, Result, Sighting

_OCR = Recogniser("bib_number", "rapidocr", "aaaaaaaaaaaa")
_SEEN = (
    Candidate("1042", 0.97, Box(10, 10, 50, 30), Source.LINE, edge_distance=0.02, beside="A"),
    Candidate("2026", 0.99, Box(100, 10, 150, 30), Source.LINE, edge_distance=0.02),
    Candidate("731", 0.5, None, look=Look.TILE, model="better", alternatives=("73I",), about="731", doubt="half seen"),
    Candidate("FINISH 3", 0.99, Box(100, 10, 150, 30), Source.LINE, edge_distance=0.02),
)


def read(database: Database, seen: tuple[Candidate, ...], name: str = "a", judge: Judge | None = None) -> None:
    """Record an image the way the daemon does."""
    judge = judge or Judge()
    ledger = Ledger(database)
    ledger.record_sightings("finish", [Sighting(f"/drop/{name}.jpg", Stat(1, 1, 1, 1), State.READY)])
    (claim,) = ledger.claim(1, quarantined=True)
    photo = Photo(Image.new("RGB", (1, 1)), 600, 400, f"{name:>064}", None)
    looks = (LookTaken(Look.PHOTO, len(seen)), LookTaken(Look.CROP, 0, Box(1, 2, 3, 4)))
    judged = {"judgement": judge.judge(seen), "judged_by": judge.fingerprint}
    ledger.finish(_OCR, [Finished(claim, photo, Result("m", "cpu", 0.1, None, seen, looks, 3, **judged))])


def shown(
    database: Database, columns: str = "bib, verdict, reasons", view: str = "bib_results"
) -> list[tuple[Any, ...]]:
    with database.query() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM {view}"))]  # noqa: S608


def judge_again(database: Database, judge: Judge, *, only_outdated: bool = False) -> Progress:
    progress = Progress()
    for so_far in rejudge(Judgements(database), judge, only_outdated=only_outdated):
        progress = so_far
    return progress


def test_all_that_was_seen_is_kept(database: Database) -> None:
    """Nothing is dropped for its form or confidence, and everything a judge needs is restored."""
    read(database, _SEEN)
    (case,) = Judgements(database).page(0)
    assert tuple(case.candidates) == _SEEN
    assert [row[0] for row in shown(database, "text", "candidates")] == ["1042", "2026", "731", "FINISH 3"]


def test_a_candidate_that_is_no_bib_has_its_reason(database: Database) -> None:
    read(database, _SEEN)
    reasons = dict(shown(database, "text, reason", "candidates"))
    assert reasons == {"1042": None, "2026": None, "731": None, "FINISH 3": "not of this race's form"}


def test_which_looks_were_taken_is_kept_with_the_result(database: Database) -> None:
    read(database, _SEEN)
    ((looks, cut),) = shown(database, "looks_json, candidates_cut", "results")
    assert '"look": "crop", "candidates": 0' in looks
    assert cut == 3


def test_other_settings_change_readings_and_nothing_else(database: Database) -> None:
    read(database, _SEEN)
    before = shown(database, "*", "files"), shown(database, "id, fingerprint, processed_at", "results")
    assert [row[:2] for row in shown(database)] == [("1042", "accepted"), ("2026", "review"), ("731", "review")]
    progress = judge_again(database, Judge(Race(forms=(re.compile(r"\d{4}"),), accept_at=0.98)))
    assert progress == Progress(results=1, changed=1)
    assert shown(database) == [
        ("1042", "review", "probability 0.970 is below 0.98"),
        ("2026", "review", "may be a year"),
    ]
    assert dict(shown(database, "text, reason", "candidates"))["731"] == "not of this race's form"
    assert (shown(database, "*", "files"), shown(database, "id, fingerprint, processed_at", "results")) == before


def test_readings_that_do_not_change_keep_their_rows(database: Database) -> None:
    read(database, _SEEN)
    before = shown(database, "*", "readings")
    assert judge_again(database, Judge()) == Progress(results=1, changed=0)
    assert shown(database, "*", "readings") == before


def test_only_what_another_judge_judged_is_judged_again(database: Database) -> None:
    """So that a start with unchanged settings costs nothing, and a killed re-judging resumes."""
    other = Judge(Race(accept_at=0.5))
    read(database, _SEEN, "a")
    read(database, _SEEN, "b", other)
    assert Judgements(database).count() == 2
    assert judge_again(database, other, only_outdated=True) == Progress(results=1, changed=1)
    assert judge_again(database, other, only_outdated=True) == Progress()
    assert judge_again(database, other) == Progress(results=2, changed=0)


def test_results_that_are_not_bibs_are_left_alone(database: Database) -> None:
    ledger = Ledger(database)
    ledger.record_sightings("finish", [Sighting("/drop/a.jpg", Stat(1, 1, 1, 1), State.READY)])
    (claim,) = ledger.claim(1, quarantined=True)
    photo = Photo(Image.new("RGB", (1, 1)), 600, 400, "0" * 64, None)
    ledger.finish(_OCR._replace(stage="table"), [Finished(claim, photo, Result("m", "cpu", 0.1, output={}))])
    assert judge_again(database, Judge()) == Progress()


def test_pages_follow_each_other(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bibwatch.store.judgements._PAGE", 2)
    for name in "abcde":
        read(database, _SEEN, name)
    assert judge_again(database, Judge(Race(accept_at=0.5))) == Progress(results=5, changed=5)


@pytest.mark.parametrize(
    "other",
    [Judge(Race(accept_at=0.9)), Judge(Race(forms=(re.compile("9.."),))), Judge(rules=Rules(edge=0.1))],
)
def test_the_judges_fingerprint_names_all_it_depends_on(other: Judge) -> None:
    assert Judge().fingerprint == Judge(Race(), Rules()).fingerprint
    assert other.fingerprint != Judge().fingerprint


_CANDIDATES = st.builds(
    Candidate,
    text=st.from_regex(r"[A-C]?[0-9]{1,5}", fullmatch=True)
    | st.text(st.characters(exclude_categories=["C", "Z"]), max_size=5),
    score=st.floats(0, 1),
    box=st.none() | st.builds(lambda x, y: Box(x, y, x + 40, y + 20), st.floats(0, 500), st.floats(0, 300)),
    source=st.sampled_from(Source),
    look=st.sampled_from([each for each in Look if each is not Look.SECOND_MODEL]),
    edge_distance=st.none() | st.floats(0, 0.5),
    doubt=st.none() | st.just("half seen"),
)


@settings(deadline=None, max_examples=min(40, settings().max_examples))
@given(st.lists(_CANDIDATES, max_size=8))
def test_from_the_database_the_judgement_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, seen: list[Candidate]
) -> None:
    """What was judged when it was read, and what is judged again by the same judge, never differ."""
    database = Database(f"sqlite:///{shutil.copy(migrated, tmp_path_factory.mktemp('judging'))}")
    read(database, tuple(seen))
    assert judge_again(database, Judge()).changed == 0
    database.close()


# Results of earlier versions


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Database]:
    """A database of an earlier version: two confident readings, one of them in review, and an uncertain one."""
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    with database.write() as connection:
        config = module._alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(
            text(
                "INSERT INTO images (id, sha256, camera, path, width, height, received_at) "
                "VALUES (1, 'a', 'finish', '/drop/a.jpg', 600, 400, 't')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO files (camera, path, inode, size, mtime_ns, ctime_ns, state, image_id, first_seen_at, "
                "updated_at) VALUES ('finish', '/drop/a.jpg', '1', 1, 1, 1, 'done', 1, 't', 't')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO results (id, image_id, stage, preset, options_hash, superseded, model, device, seconds, "
                "processed_at) VALUES (1, 1, 'bib_number', 'rapidocr', 'old', :no, 'm', 'cpu', 1, 't'), "
                "(2, 1, 'bib_number', 'rapidocr', 'older', :yes, 'm', 'cpu', 1, 't')"
            ),
            {"no": False, "yes": True},
        )
        connection.execute(
            text(
                "INSERT INTO readings (result_id, bib, confidence, verdict, x1, y1, x2, y2) VALUES "
                "(1, '1042', 0.99, 'accepted', 60, 60, 120, 90), (1, '731', 0.99, 'review', 60, 60, 120, 90), "
                "(1, 'M10151', 0.6, 'review', NULL, NULL, NULL, NULL), (2, '1', 0.99, 'accepted', 1, 1, 2, 2)"
            )
        )
    database.migrate()
    yield database
    database.close()


def test_results_of_an_earlier_version_are_not_read_again(upgraded: Database) -> None:
    ledger = Ledger(upgraded)
    assert ledger.recover([_OCR], 5) == 0
    assert ledger.ready(10) == 0
    assert ledger.known([_OCR], ["a"]) == {"a"}
    assert shown(upgraded, "fingerprint, superseded", "results ORDER BY id") == [
        ("aaaaaaaaaaaa", 0),
        ("earlier:rapidocr:older", 1),
    ]


def test_after_an_upgrade_other_options_still_read_photos_again(upgraded: Database) -> None:
    ledger = Ledger(upgraded)
    ledger.recover([_OCR], 5)
    ledger.recover([_OCR._replace(fingerprint="bbbbbbbbbbbb")], 5)
    assert ledger.ready(10) == 1


def test_readings_of_an_earlier_version_are_their_candidates(upgraded: Database) -> None:
    before = shown(upgraded, "bib, confidence, verdict, x1, y1, x2, y2")
    assert [row[0] for row in before] == ["1042", "731", "M10151"]
    assert {row[0] for row in shown(upgraded, "look", "candidates")} == {"earlier_version"}
    assert judge_again(upgraded, Judge(), only_outdated=True).results == 2
    assert shown(upgraded, "bib, confidence, verdict, x1, y1, x2, y2") == before
    assert dict(row[::2] for row in shown(upgraded)) == {
        "1042": "",
        "731": "sent to review by an earlier version",
        "M10151": "probability 0.600 is below 0.95",
    }
