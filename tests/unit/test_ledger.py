"""The ledger: the state of every file, method by method, then all methods in any order."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image
from sqlalchemy import text

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import Candidate, Look, LookTaken, Source
from bibwatch.domain.readings import Reading, Reason, Verdict
from bibwatch.domain.recogniser import Recogniser
from bibwatch.domain.states import TRANSITIONS, TROUBLE, State
from bibwatch.files import Stat
from bibwatch.images import Photo
from bibwatch.judging import Judgement
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Claim, Finished, Priority, Result, Sighting
from bibwatch.store.report import Report

_PIXEL = Image.new("RGB", (1, 1))
_OCR = Recogniser("bib_number", "rapidocr", "aaaaaaaaaaaa")
_OTHER_OPTIONS = _OCR._replace(fingerprint="bbbbbbbbbbbb")
_OTHER_PRESET = Recogniser("bib_number", "another", "cccccccccccc")
_AWAITED = {State.SETTLING, State.EMPTY, State.INCOMPLETE, State.UNREADABLE}


def stat(number: int = 1) -> Stat:
    """A cheap identity; another number is another content."""
    return Stat(inode=7, size=1000, mtime_ns=number, ctime_ns=number)


def photo(content: str = "photo") -> Photo:
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return Photo(_PIXEL, 6000, 4000, sha256, datetime(2026, 11, 21, 10, 0, 5, 42000, tzinfo=UTC))


def result(*bibs: str) -> Result:
    """A result in which each bib was seen once and accepted."""
    return Result(
        "PP-OCR",
        "cpu",
        seconds=0.25,
        candidates=tuple(Candidate(bib, 0.97) for bib in bibs),
        judgement=Judgement(
            readings=tuple(Reading(bib, 0.97, Verdict.ACCEPTED, read_as=bib) for bib in bibs),
            rejections=(None,) * len(bibs),
        ),
        judged_by="eeeeeeeeeeee",
    )


def said(output: dict[str, Any], model: str = "SmolVLM") -> Result:
    """The result of a stage that reads no bibs."""
    return Result(model, "cuda", seconds=0.25, output=output)


def rows(database: Database, table: str) -> list[dict[str, Any]]:
    with database.query() as connection:
        return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]  # noqa: S608


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def report(database: Database) -> Report:
    return Report(database)


@pytest.fixture
def sql(database: Database) -> Any:
    """Ask for all rows of a view."""
    return lambda view: rows(database, view)


def drop(ledger: Ledger, *paths: str, state: State = State.READY, camera: str = "finish", number: int = 1) -> None:
    """A camera sees files."""
    ledger.record_sightings(camera, [Sighting(path, stat(number), state) for path in paths])


def claim(ledger: Ledger, limit: int = 8, *, quarantined: bool = True) -> list[Claim]:
    return ledger.claim(limit, quarantined=quarantined)


def read(ledger: Ledger, *bibs: str, content: str = "photo", recogniser: Recogniser = _OCR) -> None:
    """Claim one file and record it as read."""
    (taken,) = ledger.claim(1, quarantined=True)
    ledger.finish(recogniser, [Finished(taken, photo(content), result(*bibs))])


def end(ledger: Ledger, state: State, error: str = "for a reason") -> None:
    """Claim one file and record that it could not be read."""
    (taken,) = ledger.claim(1, quarantined=True)
    ledger.finish(_OCR, [Finished(taken, state=state, error=error)])


def states(sql: Any) -> dict[str, str]:
    return {row["path"]: row["state"] for row in sql("file_status")}


def bibs(sql: Any) -> list[str]:
    return sorted(row["bib"] for row in sql("bib_results"))


# For ingest


def test_a_seen_file_is_in_the_ledger_at_once(ledger: Ledger, sql: Any) -> None:
    ledger.record_sightings("finish", [Sighting("/drop/a.jpg", stat(), State.UNSUPPORTED, "a symbolic link")])
    (row,) = sql("file_status")
    assert (row["camera"], row["path"], row["state"], row["error"]) == (
        "finish",
        "/drop/a.jpg",
        "unsupported",
        "a symbolic link",
    )
    assert (row["attempts"], row["image_id"], row["size"]) == (0, None, 1000)
    assert row["first_seen_at"].endswith("Z")


def test_nothing_seen_is_nothing_done(ledger: Ledger, sql: Any) -> None:
    ledger.record_sightings("finish", [])
    ledger.mark_gone("finish", [])
    ledger.release([])
    ledger.finish(_OCR, [])
    assert sql("file_status") == []


def test_one_path_in_two_cameras_is_two_files(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg", camera="finish")
    drop(ledger, "/drop/a.jpg", camera="start")
    assert [row["camera"] for row in sql("file_status")] == ["finish", "start"]
    assert set(ledger.recorded("start", ["/drop/a.jpg", "/drop/b.jpg"])) == {"/drop/a.jpg"}


@pytest.mark.parametrize("inode", [0, 2**63, 2**64 - 1])
def test_the_cheap_identity_comes_back_as_it_was(ledger: Ledger, inode: int) -> None:
    """Inodes are 64 bits without a sign; times before 1970 and sizes over 4 GiB are no reason to read a file again."""
    identity = Stat(inode, 2**40, -1, 2**62)
    ledger.record_sightings("finish", [Sighting("/drop/a.jpg", identity, State.READY)])
    assert ledger.recorded("finish", ["/drop/a.jpg"])["/drop/a.jpg"].stat == identity
    assert claim(ledger)[0].stat == identity


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", "zürich ünï.jpg".encode(), b"a\nb.jpg", b"a'b\"%s;--.jpg"])
def test_any_file_name_is_kept(ledger: Ledger, sql: Any, name: bytes) -> None:
    """File names may be any bytes, even invalid UTF-8."""
    path = os.fsdecode(b"/drop/" + name)
    drop(ledger, path)
    assert set(ledger.recorded("finish", [path])) == {path}
    (taken,) = claim(ledger)
    assert taken.path == path
    ledger.finish(_OCR, [Finished(taken, photo(), result("0042"))])
    sql("bib_results")[0]["path"].encode()
    assert ledger.retry(list(State), [path]) == 1


@pytest.mark.parametrize("state", State)
def test_the_files_waited_for(ledger: Ledger, state: State) -> None:
    """Those that are marked as gone when they are not there any more."""
    drop(ledger, "/drop/a.jpg", state=state)
    assert ledger.waiting("finish") == ({"/drop/a.jpg": state} if state in _AWAITED else {})
    assert ledger.waiting("start") == {}


@pytest.mark.parametrize("state", State)
def test_what_is_recorded_about_a_file(ledger: Ledger, state: State) -> None:
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg", state=state, number=3)
    drop(ledger, "/drop/c.jpg", camera="start")
    known = ledger.recorded("finish", ["/drop/a.jpg", "/drop/c.jpg", "/drop/never-seen.jpg"])
    assert known == {"/drop/a.jpg": Sighting("/drop/a.jpg", stat(3), state)}


def test_any_number_of_files_is_looked_up(ledger: Ledger) -> None:
    """Databases limit the values in one statement: SQLite to 32,766, PostgreSQL to 65,535."""
    paths = [f"/drop/{number}.jpg" for number in range(70_000)]
    drop(ledger, paths[0], paths[1000], paths[-1])
    assert set(ledger.recorded("finish", paths)) == {paths[0], paths[1000], paths[-1]}


@pytest.mark.parametrize("state", State)
def test_only_awaited_files_are_marked_gone(ledger: Ledger, sql: Any, state: State) -> None:
    """R30: an empty mount point changes nothing for what has been read, or is about to be."""
    drop(ledger, "/drop/a.jpg", state=state)
    drop(ledger, "/drop/a.jpg", state=state, camera="start")
    ledger.mark_gone("finish", ["/drop/a.jpg", "/drop/never-seen.jpg"])
    here, there = sql("file_status")
    assert here["state"] == ("gone" if state in _AWAITED else state)
    assert there["state"] == state


@pytest.mark.parametrize("new", [State.SETTLING, State.READY])
def test_new_content_under_an_old_name_starts_afresh(ledger: Ledger, sql: Any, new: State) -> None:
    """R15: what was known of the old content does not count for the new; the old photo's result stays."""
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042", content="old")
    drop(ledger, "/drop/a.jpg", state=new, number=2)
    (row,) = sql("file_status")
    assert (row["state"], row["attempts"], row["error"], row["image_id"]) == (new, 0, None, None)
    assert bibs(sql) == ["0042"]


def test_a_file_that_grows_keeps_its_arrival_time_and_a_new_photo_does_not(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg", state=State.SETTLING)
    (first,) = sql("file_status")
    drop(ledger, "/drop/a.jpg", number=2)
    assert sql("file_status")[0]["first_seen_at"] == first["first_seen_at"]
    read(ledger, content="old")
    assert sql("image_status")[0]["first_seen_at"] == first["first_seen_at"]
    while datetime.now(UTC).isoformat(timespec="milliseconds")[:23] <= first["first_seen_at"][:23]:
        pass  # the clock of the ledger has milliseconds
    drop(ledger, "/drop/a.jpg", number=3)
    assert sql("file_status")[0]["first_seen_at"] > first["first_seen_at"]


def test_a_photo_that_was_read_stays_done_when_its_file_goes(ledger: Ledger, sql: Any) -> None:
    """Other options want it read again, but there is nothing left to read: what was read stays, and stays shown."""
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042")
    ledger.recover([_OTHER_OPTIONS], 5)
    (again,) = claim(ledger)
    ledger.finish(_OTHER_OPTIONS, [Finished(again, state=State.GONE, error="not there")])
    (row,) = sql("image_status")
    assert (row["state"], row["error"]) == ("done", None)
    assert [row["bib"] for row in sql("bib_results")] == ["0042"]


def test_a_photo_that_was_read_stays_done_though_bibwatch_died_over_it(ledger: Ledger, sql: Any) -> None:
    """A quarantined by then, not merely one to read again."""
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042")
    ledger.recover([_OTHER_OPTIONS], 5)
    claim(ledger)
    ledger.recover([_OTHER_OPTIONS], 5)
    (again,) = claim(ledger)
    assert again.priority is Priority.QUARANTINED
    ledger.finish(_OTHER_OPTIONS, [Finished(again, state=State.GONE, error="not there")])
    (row,) = sql("image_status")
    assert (row["state"], row["error"]) == ("done", None)


def test_a_photo_that_was_never_read_is_not_done_when_its_file_goes(ledger: Ledger, sql: Any) -> None:
    """The model failed on it, so it is an image; a retry finds it gone."""
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    ledger.finish(_OCR, [Finished(taken, photo("a"), state=State.FAILED, error="no")])
    ledger.retry([State.FAILED])
    (again,) = claim(ledger)
    ledger.finish(_OCR, [Finished(again, state=State.GONE, error="not there")])
    assert states(sql) == {"/drop/a.jpg": "gone"}


@pytest.mark.heavy
def test_any_number_of_files_may_be_tried_again(ledger: Ledger) -> None:
    """More than a statement takes values."""
    paths = [f"/drop/{number}.jpg" for number in range(40_000)]
    drop(ledger, *paths, state=State.UNREADABLE)
    assert ledger.retry([State.UNREADABLE], paths) == 40_000


def test_how_a_folder_is(ledger: Ledger, report: Report) -> None:
    ledger.record_camera("start", "/drop/start", "watching", None)
    ledger.record_camera("finish", os.fsdecode(b"/drop/\xff"), "missing", "the folder does not exist")
    ledger.record_camera("start", "/drop/start", "polling", "no events")
    assert [(row["name"], row["state"], row["error"]) for row in report.camera_states()] == [
        ("finish", "missing", "the folder does not exist"),
        ("start", "polling", "no events"),
    ]


# For the pipeline: claims


def test_claims_come_oldest_first_and_are_counted_before_the_first_byte_is_read(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/b.jpg", "/drop/a.jpg", "/drop/c.jpg")
    drop(ledger, "/drop/d.jpg", state=State.SETTLING)
    assert ledger.ready(8) == 3
    assert ledger.ready(2) == 2  # counts no further
    taken = claim(ledger, 2)
    assert [each.path for each in taken] == ["/drop/b.jpg", "/drop/a.jpg"]
    assert [each.attempts for each in taken] == [1, 1]
    assert [each.priority for each in taken] == [Priority.FRESH, Priority.FRESH]
    assert states(sql) == {
        "/drop/b.jpg": "reading",
        "/drop/a.jpg": "reading",
        "/drop/c.jpg": "ready",
        "/drop/d.jpg": "settling",
    }
    assert [row["attempts"] for row in sql("file_status")] == [1, 1, 0, 0]
    assert ledger.ready(8) == 1
    assert [each.path for each in claim(ledger)] == ["/drop/c.jpg"]
    assert claim(ledger) == []


def test_released_files_are_as_if_never_claimed(ledger: Ledger, sql: Any) -> None:
    """R20: a model that cannot be reached is not the photo's fault, however often it is tried."""
    drop(ledger, "/drop/a.jpg")
    for _ in range(20):
        (taken,) = claim(ledger)
        assert (taken.attempts, taken.priority) == (1, Priority.FRESH)
        ledger.release([taken])
        ledger.release([taken])  # a second time does no harm
    (row,) = sql("file_status")
    assert (row["state"], row["attempts"], row["error"]) == ("ready", 0, None)


def test_a_release_leaves_a_changed_file_alone(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    taken = claim(ledger)
    drop(ledger, "/drop/a.jpg", state=State.SETTLING, number=2)
    ledger.release(taken)
    (row,) = sql("file_status")
    assert (row["state"], row["attempts"]) == ("settling", 0)


def test_suspects_are_claimed_alone_and_after_the_others(ledger: Ledger) -> None:
    """R18, R19: a photo that may kill the process takes no neighbour with it, and holds up none."""
    drop(ledger, "/drop/bad.jpg", "/drop/worse.jpg")
    claim(ledger)
    assert ledger.recover([_OCR], 5) == 2
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg")
    assert [each.path for each in claim(ledger)] == ["/drop/a.jpg", "/drop/b.jpg"]
    assert claim(ledger, quarantined=False) == []
    (first,) = claim(ledger)
    assert (first.path, first.priority, first.attempts) == ("/drop/bad.jpg", Priority.QUARANTINED, 2)
    (second,) = claim(ledger)
    assert second.path == "/drop/worse.jpg"


def test_a_released_suspect_is_still_a_suspect(ledger: Ledger) -> None:
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg")
    claim(ledger)
    ledger.recover([_OCR], 5)
    ledger.release(claim(ledger))
    (again,) = claim(ledger)
    assert (again.priority, again.attempts) == (Priority.QUARANTINED, 2)


def test_photos_read_before_come_after_new_ones(ledger: Ledger) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger)
    ledger.recover([_OTHER_OPTIONS], 5)
    drop(ledger, "/drop/b.jpg")
    taken = [*claim(ledger), *claim(ledger)]
    assert [(each.path, each.priority) for each in taken] == [
        ("/drop/b.jpg", Priority.FRESH),
        ("/drop/a.jpg", Priority.AGAIN),
    ]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_photo_that_kills_bibwatch_fails_at_last(ledger: Ledger, sql: Any, attempts: int) -> None:
    """R19: after so many deaths it is left alone, and a restart does not bring it back."""
    drop(ledger, "/drop/a.jpg")
    for death in range(1, attempts + 1):
        (taken,) = claim(ledger)
        assert taken.attempts == death
        assert ledger.recover([_OCR], attempts) == (death < attempts)
    (row,) = sql("file_status")
    assert (row["state"], row["error"]) == ("failed", f"bibwatch died {attempts} times while reading it")
    assert ledger.recover([_OCR], attempts) == 0
    assert claim(ledger) == []


def test_recovering_leaves_everything_else_alone(ledger: Ledger, sql: Any) -> None:
    for state in State:
        if state not in {State.READING, State.DONE}:
            drop(ledger, f"/drop/{state}.jpg", state=state)
    before = sql("file_status")
    assert ledger.recover([_OCR], 5) == 0
    assert sql("file_status") == before


# For the pipeline: results


def test_a_read_photo_is_in_every_view(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    sure = Reading("0042", 0.97, Verdict.ACCEPTED, Box(1, 2.5, 3, 4), read_as="00 42")
    reasons = (Reason("reply", "the model calls it illegible"), Reason("confidence", "confidence 0.500 is below 0.95"))
    unsure = Reading("M10151", 0.5, Verdict.REVIEW, reasons=reasons, read_as="m10151", model="better")
    ledger.finish(_OCR, [Finished(taken, photo(), replace(result(), judgement=Judgement((sure, unsure), ())))])
    (file,), (image,) = sql("file_status"), sql("image_status")
    assert (file["state"], file["image_id"], file["error"]) == ("done", image["image_id"], None)
    assert (image["camera"], image["path"], image["state"]) == ("finish", "/drop/a.jpg", "done")
    first, second = sorted(sql("bib_results"), key=lambda row: row["bib"])
    assert first["processed_at"].endswith("Z")
    assert {
        key: first[key] for key in first if key not in {"processed_at", "received_at", "image_id", "reading_id"}
    } == {
        "camera": "finish",
        "path": "/drop/a.jpg",
        "sha256": photo().sha256,
        "captured_at": "2026-11-21T10:00:05.042Z",
        "bib": "0042",
        "confidence": 0.97,
        "verdict": "accepted",
        "x1": 1,
        "y1": 2.5,
        "x2": 3,
        "y2": 4,
        "stage": "bib_number",
        "preset": "rapidocr",
        "model": "PP-OCR",
        "device": "cpu",
        "read_as": "00 42",
        "reasons": "",
        "decided_by": None,
        "decided_at": None,
        "width": 6000,
        "height": 4000,
        "entry_match": None,
        "entry": None,
    }
    assert [second[key] for key in ("bib", "verdict", "x1", "y1", "x2", "y2")] == ["M10151", "review", *[None] * 4]
    assert (second["read_as"], second["model"]) == ("m10151", "better")
    assert second["reasons"] == "the model calls it illegible; confidence 0.500 is below 0.95"
    assert first["received_at"] == file["first_seen_at"]
    assert sql("stage_outputs") == []


@pytest.mark.parametrize("bib", ["0042", "00", "M10151", "1e5", "9" * 40])
def test_bibs_are_strings(ledger: Ledger, sql: Any, bib: str) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger, bib)
    assert bibs(sql) == [bib]


def test_what_was_seen_is_kept_with_why_it_is_no_bib(ledger: Ledger, sql: Any) -> None:
    """All evidence of every candidate; NULL as a reason is for those that a reading came of."""
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    bib = Candidate("00 42", 0.97, Box(1, 2.5, 3, 4), source=Source.LINE, edge_distance=0.1, beside="M")
    banner = Candidate("RUN", 0.6, look=Look.SECOND_MODEL, model="better", alternatives=("R", "N"), about="00 42")
    doubted = Candidate("7", 0.5, doubt="the reply contradicts itself")
    judgement = Judgement((Reading("0042", 0.97, Verdict.ACCEPTED),), (None, "not of this race's form", "too short"))
    seen = replace(result(), candidates=(bib, banner, doubted), judgement=judgement, cut=3)
    seen = replace(seen, looks=(LookTaken(Look.PHOTO, 4), LookTaken(Look.TILE, 0, Box(0, 0, 9, 9), error="no idea")))
    ledger.finish(_OCR, [Finished(taken, photo(), seen)])
    first, second, third = sql("candidates")
    places = [first[side] for side in ("x1", "y1", "x2", "y2")]
    assert (first["path"], first["text"], first["score"], places) == ("/drop/a.jpg", "00 42", 0.97, [1, 2.5, 3, 4])
    evidence = ("source", "look", "model", "edge_distance", "beside", "reason")
    assert [first[key] for key in evidence] == ["line", "photo", "PP-OCR", 0.1, "M", None]
    assert (second["look"], second["model"], second["about"]) == ("second_model", "better", "00 42")
    assert (json.loads(second["alternatives_json"]), second["reason"]) == (["R", "N"], "not of this race's form")
    assert (third["doubt"], third["reason"], third["x1"]) == ("the reply contradicts itself", "too short", None)
    (row,) = sql("results")
    assert (row["candidates_cut"], row["judged_by"]) == (3, "eeeeeeeeeeee")
    assert [(each["look"], each["candidates"], each["error"]) for each in json.loads(row["looks_json"])] == [
        ("photo", 4, None),
        ("tile", 0, "no idea"),
    ]


def test_candidates_of_other_options_are_not_shown(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042")
    ledger.recover([_OTHER_OPTIONS], 5)
    read(ledger, "0043", recogniser=_OTHER_OPTIONS)
    assert [row["text"] for row in sql("candidates")] == ["0043"]


def test_a_photo_without_a_bib_is_done(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger)
    assert states(sql) == {"/drop/a.jpg": "done"}
    assert sql("bib_results") == []
    assert [row["state"] for row in sql("image_status")] == ["done"]
    assert ledger.known([_OCR], [photo().sha256]) == {photo().sha256}


def test_a_photo_of_unknown_time_has_none(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    timeless = Photo(_PIXEL, 1, 1, "0" * 64, None)
    ledger.finish(_OCR, [Finished(taken, timeless, result("0042"))])
    assert sql("bib_results")[0]["captured_at"] is None


def test_the_same_bytes_under_two_names_are_one_photo_with_one_result(ledger: Ledger, sql: Any) -> None:
    """R15; in one batch, in a later one, and from another camera."""
    drop(ledger, "/drop/a.jpg", "/drop/copy.jpg")
    batch = [Finished(taken, photo(), result("0042")) for taken in claim(ledger)]
    ledger.finish(_OCR, batch)
    drop(ledger, "/other/again.jpg", camera="start")
    (taken,) = claim(ledger)
    assert ledger.known([_OCR], [photo().sha256]) == {photo().sha256}
    ledger.finish(_OCR, [Finished(taken, photo())])
    assert bibs(sql) == ["0042"]
    assert sql("bib_results")[0]["path"] == "/drop/a.jpg"
    assert set(states(sql).values()) == {"done"}
    assert len(sql("image_status")) == 1
    assert len({row["image_id"] for row in sql("file_status")}) == 1


def test_only_this_recognisers_results_are_known(ledger: Ledger) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger, content="a")
    asked = [photo("a").sha256, photo("b").sha256]
    assert ledger.known([_OCR], asked) == {asked[0]}
    assert ledger.known([_OTHER_OPTIONS], asked) == set()
    assert ledger.known([_OTHER_PRESET], asked) == set()
    assert ledger.known([_OCR], []) == set()


@pytest.mark.parametrize("state", [State.SETTLING, State.READY])
def test_a_file_that_changed_while_it_was_read_keeps_its_new_state(ledger: Ledger, sql: Any, state: State) -> None:
    """The photo that was read is recorded all the same; what is there now is read next."""
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    drop(ledger, "/drop/a.jpg", state=state, number=2)
    ledger.finish(_OCR, [Finished(taken, photo("old"), result("0042"))])
    (file,) = sql("file_status")
    assert (file["state"], file["image_id"], file["attempts"]) == (state, None, 0)
    assert bibs(sql) == ["0042"]
    assert sorted(row["state"] for row in sql("image_status")) == sorted(["done", state])
    drop(ledger, "/drop/a.jpg", number=3)
    read(ledger, "0043", content="new")
    assert bibs(sql) == ["0042", "0043"]
    assert [row["state"] for row in sql("image_status")] == ["done", "done"]


def test_a_late_answer_for_an_old_claim_does_not_end_a_new_one(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    (old,) = claim(ledger)
    drop(ledger, "/drop/a.jpg", number=2)
    (new,) = claim(ledger)
    ledger.finish(_OCR, [Finished(old, state=State.UNDECODABLE, error="broken")])
    assert states(sql) == {"/drop/a.jpg": "reading"}
    ledger.finish(_OCR, [Finished(new, photo(), result())])
    assert states(sql) == {"/drop/a.jpg": "done"}


@pytest.mark.parametrize("state", sorted(TROUBLE - {State.FAILED}))
def test_a_file_that_cannot_be_read_says_why(ledger: Ledger, sql: Any, state: State) -> None:
    drop(ledger, "/drop/a.jpg")
    end(ledger, state, "this is why")
    (row,) = sql("image_status")
    assert (row["image_id"], row["state"], row["error"], row["attempts"]) == (None, state, "this is why", 1)
    assert sql("bib_results") == []


def test_a_photo_the_model_fails_on_is_tried_again_alone(ledger: Ledger, sql: Any) -> None:
    """Its attempts are kept, and it has no result."""
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg")
    bad, good = claim(ledger)
    ledger.finish(
        _OCR,
        [
            Finished(bad, photo("a"), state=State.READY, error="out of memory"),
            Finished(good, photo("b"), result("0042")),
        ],
    )
    assert states(sql) == {"/drop/a.jpg": "ready", "/drop/b.jpg": "done"}
    assert ledger.known([_OCR], [photo("a").sha256]) == set()
    assert claim(ledger, quarantined=False) == []
    (again,) = claim(ledger)
    assert (again.path, again.attempts) == ("/drop/a.jpg", 2)
    ledger.finish(_OCR, [Finished(again, photo("a"), state=State.FAILED, error="out of memory")])
    assert [row["state"] for row in sql("image_status")] == ["failed", "done"]
    assert ledger.known([_OCR], [photo("a").sha256]) == set()


def test_a_batch_is_recorded_all_or_nothing(ledger: Ledger, sql: Any) -> None:
    """R17: a result and its file's state are never apart."""
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg")
    first, second = claim(ledger)
    broken = said({"not JSON": object()})
    with pytest.raises(TypeError):
        ledger.finish(_OCR, [Finished(first, photo("a"), result("0042")), Finished(second, photo("b"), broken)])
    assert set(states(sql).values()) == {"reading"}
    assert sql("bib_results") == []


def test_what_another_stage_says_is_in_stage_outputs(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    recogniser = Recogniser("picture_description", "smol", "dddddddddddd")
    output = {"text": "Zieleinlauf in Zürich", "tags": ["finish", None], "n": 1}
    ledger.finish(recogniser, [Finished(taken, photo(), said(output))])
    (row,) = sql("stage_outputs")
    assert json.loads(row["output_json"]) == output
    assert (row["stage"], row["preset"], row["model"], row["device"]) == (*recogniser[:2], "SmolVLM", "cuda")
    assert sql("bib_results") == []


def test_an_empty_output_is_an_output(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    (taken,) = claim(ledger)
    ledger.finish(Recogniser("table", "smol", "d"), [Finished(taken, photo(), said({}))])
    assert [row["output_json"] for row in sql("stage_outputs")] == ["{}"]


# Other options, other presets


def test_changed_options_read_every_photo_again_and_replace_the_readings(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042")
    assert ledger.recover([_OTHER_OPTIONS], 5) == 0
    assert states(sql) == {"/drop/a.jpg": "ready"}
    assert bibs(sql) == ["0042"]  # until there is a better one
    read(ledger, "0043", recogniser=_OTHER_OPTIONS)
    assert bibs(sql) == ["0043"]
    assert len(sql("image_status")) == 1


def test_going_back_to_the_first_options_shows_the_first_readings(ledger: Ledger, sql: Any) -> None:
    """And no model is asked again."""
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042")
    ledger.recover([_OTHER_OPTIONS], 5)
    read(ledger, "0043", recogniser=_OTHER_OPTIONS)
    ledger.recover([_OCR], 5)
    assert bibs(sql) == ["0042"]
    assert states(sql) == {"/drop/a.jpg": "done"}
    ledger.recover([_OTHER_OPTIONS], 5)
    assert bibs(sql) == ["0043"]


def test_going_back_shows_the_first_readings_of_those_photos_that_have_them(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger, "1", content="a")
    ledger.recover([_OTHER_OPTIONS], 5)
    drop(ledger, "/drop/b.jpg")
    read(ledger, "2", content="b", recogniser=_OTHER_OPTIONS)
    read(ledger, "3", content="a", recogniser=_OTHER_OPTIONS)
    ledger.recover([_OCR], 5)
    assert states(sql) == {"/drop/a.jpg": "done", "/drop/b.jpg": "ready"}
    assert bibs(sql) == ["1", "2"]


def test_outputs_of_other_options_are_replaced_too(ledger: Ledger, sql: Any) -> None:
    first, second = Recogniser("table", "smol", "a"), Recogniser("table", "smol", "b")
    drop(ledger, "/drop/a.jpg")
    for number, recogniser in enumerate((first, second)):
        ledger.recover([recogniser], 5)
        ledger.finish(recogniser, [Finished(taken, photo(), said({"n": number})) for taken in claim(ledger)])
    assert [row["output_json"] for row in sql("stage_outputs")] == ['{"n": 1}']


def test_two_presets_stand_side_by_side(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg")
    read(ledger, "0042")
    ledger.recover([_OTHER_PRESET], 5)
    read(ledger, "0043", recogniser=_OTHER_PRESET)
    ledger.recover([_OCR], 5)
    assert {row["preset"]: row["bib"] for row in sql("bib_results")} == {"rapidocr": "0042", "another": "0043"}
    assert states(sql) == {"/drop/a.jpg": "done"}


def test_a_restart_with_the_same_options_reads_nothing(ledger: Ledger, sql: Any) -> None:
    """R16."""
    drop(ledger, *[f"/drop/{number}.jpg" for number in range(20)])
    ledger.finish(_OCR, [Finished(taken, photo(taken.path), result("0042")) for taken in claim(ledger, 20)])
    before = sql("file_status")
    assert ledger.recover([_OCR], 5) == 0
    assert sql("file_status") == before
    assert ledger.ready(1) == 0


# For people


def test_counts_are_by_state_and_by_camera(ledger: Ledger, report: Report) -> None:
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg")
    drop(ledger, "/drop/c.jpg", state=State.EMPTY)
    drop(ledger, "/other/d.jpg", camera="start")
    assert report.counts() == {State.READY: 3, State.EMPTY: 1}
    assert report.counts(["finish"]) == {State.READY: 2, State.EMPTY: 1}
    assert report.counts(["finish", "start", "unheard of"]) == {State.READY: 3, State.EMPTY: 1}
    assert report.counts([]) == {}


def test_the_oldest_of_each_state(ledger: Ledger, report: Report, database: Database) -> None:
    drop(ledger, "/drop/new.jpg", "/drop/old.jpg", "/drop/as-old.jpg")
    drop(ledger, "/drop/empty.jpg", state=State.EMPTY)
    with database.write() as connection:
        connection.execute(text("UPDATE files SET updated_at = '2020' WHERE path LIKE '%old.jpg'"))
    found = report.oldest([State.READY, State.EMPTY, State.FAILED])
    assert [(row["state"], row["path"]) for row in found] == [
        ("empty", "/drop/empty.jpg"),
        ("ready", "/drop/old.jpg"),
    ]
    assert report.oldest([State.FAILED]) == []


def test_a_person_can_have_trouble_tried_again(ledger: Ledger, sql: Any) -> None:
    """With fresh attempts, and alone: it may be what killed the process."""
    drop(ledger, "/drop/a.jpg")
    for _ in range(2):
        claim(ledger)
        ledger.recover([_OCR], 2)
    assert states(sql) == {"/drop/a.jpg": "failed"}
    assert ledger.retry([State.FAILED]) == 1
    (row,) = sql("file_status")
    assert (row["state"], row["attempts"], row["error"]) == ("ready", 0, None)
    (taken,) = claim(ledger)
    assert (taken.attempts, taken.priority) == (1, Priority.QUARANTINED)


def test_a_retry_takes_what_was_asked_for(ledger: Ledger, sql: Any) -> None:
    drop(ledger, "/drop/a.jpg", "/drop/b.jpg", state=State.UNDECODABLE)
    drop(ledger, "/drop/c.jpg", state=State.OVERSIZED)
    assert ledger.retry([State.UNDECODABLE], ["/drop/a.jpg", "/drop/c.jpg", "/drop/none.jpg"]) == 1
    assert states(sql) == {"/drop/a.jpg": "ready", "/drop/b.jpg": "undecodable", "/drop/c.jpg": "oversized"}
    assert ledger.retry([]) == 0
    assert ledger.retry(list(TROUBLE)) == 2


# All methods, in any order


class Race(RuleBasedStateMachine):
    """Cameras, pipeline, crashes and a person at work on a few files, in any order that can happen."""

    places = st.sampled_from([("finish", "/drop/a.jpg"), ("finish", "/drop/b.jpg"), ("start", "/start/a.jpg")])
    contents = st.sampled_from(["one", "two", "no bib"])
    recognisers = st.sampled_from([_OCR, _OTHER_OPTIONS, _OTHER_PRESET])
    empty: Path  # a migrated database

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{shutil.copy(self.empty, Path(self.folder.name) / 'race.db')}")
        self.ledger = Ledger(self.database)
        self.numbers = itertools.count(1)
        self.disk: dict[tuple[str, str], tuple[Stat, str]] = {}  # what lies in the folders
        self.claims: list[tuple[Claim, str]] = []  # in flight, each with the content that was read
        self.files: dict[int, dict[str, Any]] = {}  # the rows as they are after a step
        self.images: dict[int, str] = {}

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    @initialize(recogniser=recognisers)
    def start(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser
        assert self.ledger.recover([recogniser], 3) == 0

    def take(self, number: int) -> tuple[Claim, str]:
        return self.claims.pop(number % len(self.claims))

    @rule(place=places, content=contents, state=st.sampled_from([State.SETTLING, State.READY]))
    def see(self, place: tuple[str, str], content: str, state: State) -> None:
        """A file comes, or is overwritten."""
        camera, path = place
        found = stat(next(self.numbers))
        self.disk[place] = (found, content)
        self.ledger.record_sightings(camera, [Sighting(path, found, state)])

    @rule(state=st.sampled_from([State.RAW, State.PAIRED]))
    def see_raw(self, state: State) -> None:
        """A RAW photo, with its JPEG or without; it is never read."""
        place = ("finish", "/drop/a.cr3")
        self.disk.setdefault(place, (stat(next(self.numbers)), "raw"))
        self.ledger.record_sightings("finish", [Sighting(place[1], self.disk[place][0], state)])

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 100), content=contents)
    def overwrite(self, number: int, content: str) -> None:
        """A file that is being read gets other content."""
        claim, _ = self.claims[number % len(self.claims)]
        self.see((claim.camera, claim.path), content, State.READY)

    @precondition(lambda self: self.disk)
    @rule(number=st.integers(0, 100))
    def settle(self, number: int) -> None:
        """A file that was waited for is complete as it is."""
        (camera, path), (found, _) = list(self.disk.items())[number % len(self.disk)]
        if self.ledger.recorded(camera, [path])[path].state in {State.SETTLING, State.GONE}:
            self.ledger.record_sightings(camera, [Sighting(path, found, State.READY)])

    @rule(place=places)
    def miss(self, place: tuple[str, str]) -> None:
        camera, path = place
        self.ledger.mark_gone(camera, [path])

    @rule(limit=st.integers(2, 4), quarantined=st.booleans())
    def claim(self, limit: int, quarantined: bool) -> None:  # noqa: FBT001
        taken = self.ledger.claim(limit, quarantined=quarantined)
        assert len(taken) <= limit
        if any(each.priority is Priority.QUARANTINED for each in taken):
            assert quarantined
            assert len(taken) == 1
        for each in taken:
            found, content = self.disk[each.camera, each.path]
            assert each.stat == found
            self.claims.append((each, content))

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 100))
    def read(self, number: int) -> None:
        """The model answers; it is asked about each image once."""
        claim, content = self.take(number)
        seen = photo(content)
        asked = seen.sha256 not in self.ledger.known([self.recogniser], [seen.sha256])
        found = result(*([] if content == "no bib" else [content]))
        self.ledger.finish(self.recogniser, [Finished(claim, seen, found if asked else None)])

    @rule()
    def read_all(self) -> None:
        """A quiet hour: whatever is ready gets read."""
        while self.ledger.ready(1):
            self.claim(4, quarantined=True)
            self.everything_holds()
            while self.claims:
                self.read(0)
                self.everything_holds()

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 100), state=st.sampled_from([State.READY, State.FAILED]))
    def fail(self, number: int, state: State) -> None:
        """The model fails on a photo."""
        claim, content = self.take(number)
        self.ledger.finish(
            self.recogniser,
            [Finished(claim, photo(content), state=state, error="no")],
        )

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 100), state=st.sampled_from(sorted(TROUBLE - {State.FAILED} | {State.SETTLING})))
    def end(self, number: int, state: State) -> None:
        """The file cannot be read as a photo."""
        claim, _ = self.take(number)
        self.ledger.finish(self.recogniser, [Finished(claim, state=state, error="for a reason")])

    @precondition(lambda self: self.claims)
    @rule(number=st.integers(0, 100))
    def release(self, number: int) -> None:
        claim, _ = self.take(number)
        self.ledger.release([claim])

    @rule(recogniser=recognisers, attempts=st.integers(1, 3))
    def crash(self, recogniser: Recogniser, attempts: int) -> None:
        """`kill -9`, and a new start, perhaps with other options."""
        reading = [row for row in self.files.values() if row["state"] == State.READING]
        found = self.ledger.recover([recogniser], attempts)
        assert found == sum(row["attempts"] < attempts for row in reading)
        self.claims.clear()
        self.recogniser = recogniser

    @precondition(lambda self: any(row["state"] in TROUBLE for row in self.files.values()))
    @rule(states=st.sets(st.sampled_from(sorted(TROUBLE)), min_size=4), place=st.none() | places)
    def retry(self, states: set[State], place: tuple[str, str] | None) -> None:
        self.ledger.retry(states, [place[1]] if place else [])

    @invariant()
    def everything_holds(self) -> None:
        before, self.files = self.files, {row["id"]: row for row in rows(self.database, "files")}
        self.images = {row["id"]: row["sha256"] for row in rows(self.database, "images")}
        self.every_step_is_in_the_table(before)
        self.no_file_is_lost()
        self.what_is_being_read_is_in_one_pair_of_hands()
        self.results_are_unique_and_one_of_each_preset_is_shown()
        self.a_done_file_has_the_result_of_what_lies_there()
        self.image_status_has_a_row_for_each_image_and_each_file_that_is_none()

    def every_step_is_in_the_table(self, before: dict[int, dict[str, Any]]) -> None:
        assert self.files.keys() >= before.keys()
        for number, row in before.items():
            was, now = State(row["state"]), State(self.files[number]["state"])
            assert was is now or now in TRANSITIONS[was], f"{was} -> {now}"

    def no_file_is_lost(self) -> None:
        assert {(row["camera"], row["path"]) for row in rows(self.database, "file_status")} == self.disk.keys()

    def what_is_being_read_is_in_one_pair_of_hands(self) -> None:
        """And each such try is counted; no count is ever negative."""
        reading = {row["id"]: row for row in self.files.values() if row["state"] == State.READING}
        held = [
            each.id
            for each, _ in self.claims
            if each.id in reading and each.stat.mtime_ns == reading[each.id]["mtime_ns"]
        ]
        assert sorted(held) == sorted(reading)
        assert all(row["attempts"] >= (row["id"] in reading) for row in self.files.values())

    def results_are_unique_and_one_of_each_preset_is_shown(self) -> None:
        results = rows(self.database, "results")
        keys = ("image_id", "stage", "preset", "fingerprint")
        assert len({tuple(row[key] for key in keys) for row in results}) == len(results)
        shown = [tuple(row[key] for key in keys[:3]) for row in results if not row["superseded"]]
        assert sorted(shown) == sorted({tuple(row[key] for key in keys[:3]) for row in results})
        assert not any(row["superseded"] for row in results if tuple(row[key] for key in keys[1:]) == self.recogniser)

    def a_done_file_has_the_result_of_what_lies_there(self) -> None:
        """A photo has one row in `images`, and `bib_results` has the readings of just that photo."""
        assert len(set(self.images.values())) == len(self.images)
        read = {row["image_id"] for row in rows(self.database, "results")}  # perhaps by another recogniser
        for row in self.files.values():
            if row["state"] == State.DONE:
                _, content = self.disk[row["camera"], row["path"]]
                assert self.images[row["image_id"]] == photo(content).sha256
                assert row["image_id"] in read
        for row in rows(self.database, "bib_results"):
            assert self.images[row["image_id"]] == photo(row["bib"]).sha256 == row["sha256"]

    def image_status_has_a_row_for_each_image_and_each_file_that_is_none(self) -> None:
        found = rows(self.database, "image_status")
        assert sorted(row["image_id"] for row in found if row["image_id"] is not None) == sorted(self.images)
        rest = sorted((row["camera"], row["path"]) for row in found if row["image_id"] is None)
        assert rest == sorted((row["camera"], row["path"]) for row in self.files.values() if row["image_id"] is None)


def test_no_order_of_events_breaks_the_ledger(migrated: Path) -> None:
    Race.empty = migrated
    # What fails is shown as it was found: making it smaller takes minutes.
    modest = settings(
        max_examples=min(60, settings().max_examples),
        stateful_step_count=35,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        print_blob=False,
    )
    run_state_machine_as_test(Race, settings=modest)
