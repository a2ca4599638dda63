"""What is read again, and what is only judged again, when settings change: counted in a real daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sites import Site

pytestmark = pytest.mark.heavy
Draw = Callable[..., bytes]


def once(site: Site, **environment: str) -> dict[str, Any]:
    """Run over what is there; return the log's last line, which counts what was opened and asked."""
    done = site.bibwatch("run", "--once", **environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    judged = sum(line.get("results", 0) for line in lines if line["event"] == "results.judged_again")
    return lines[-1] | {"judged_again": judged}


def test_what_is_read_again_and_what_is_only_judged_again(site: Site, draw: Draw) -> None:
    for number, bib in enumerate(("1042", "M10731", "M10151")):
        (site.camera / f"{number}.jpg").write_bytes(draw(bib, seed=number))
    assert once(site)["model_images"] == 3
    read = site.query("SELECT path, bib, verdict FROM bib_results ORDER BY path")
    assert [row[1:] for row in read] == [("1042", "accepted"), ("M10731", "accepted"), ("M10151", "accepted")]

    strict = once(site, BIBWATCH_RACE__ACCEPT_AT="1.0")
    assert (strict["model_images"], strict["photo_files_loaded"], strict["judged_again"]) == (0, 0, 3)
    assert {verdict for (verdict,) in site.query("SELECT verdict FROM bib_results")} == {"review"}

    form = once(site, BIBWATCH_RACE__BIBS=r"\d{4}")
    assert (form["model_images"], form["photo_files_loaded"]) == (0, 0)
    assert site.query("SELECT bib, verdict FROM bib_results") == [("1042", "accepted")]
    reasons = dict(site.query("SELECT text, reason FROM candidates"))
    assert (reasons["1042"], reasons["M10731"]) == (None, "not of this race's form")

    same = once(site)
    assert (same["model_images"], same["photo_files_loaded"], same["judged_again"]) == (0, 0, 3)
    assert site.query("SELECT path, bib, verdict FROM bib_results ORDER BY path") == read
    assert once(site)["judged_again"] == 0

    smaller = once(site, BIBWATCH_PRESETS='{"rapidocr": {"base": "rapidocr", "longest_side": 1024}}')
    assert (smaller["model_images"], smaller["photo_files_loaded"]) == (3, 3)


def test_decisions_outlast_reading_and_judging(site: Site, draw: Draw) -> None:
    photo = site.camera / "0.jpg"
    photo.write_bytes(draw("1042"))
    once(site)
    corrected = site.bibwatch("correct", str(photo), "--bib", "1042", "--to", "1047", "--by", "Anna", "--note", "video")
    assert corrected.stdout == "image 1: 1047 accepted\n", corrected.stderr
    shown = "SELECT bib, verdict, read_as, decided_by FROM bib_results"
    assert site.query(shown) == [("1047", "accepted", "1042", "Anna")]
    judged = site.bibwatch("judge", "--accept-at", "1")
    assert judged.stdout == "1 results judged again, 1 changed\n"
    once(site, BIBWATCH_PRESETS='{"rapidocr": {"base": "rapidocr", "longest_side": 1024}}')
    assert site.query(shown) == [("1047", "accepted", "1042", "Anna")]


def test_a_mistake_in_the_race_is_one_line(site: Site) -> None:
    """Of an unquoted EnvironmentFile systemd makes `d{3,4}`, and no bib would ever be read."""
    failed = site.bibwatch("run", "--once", BIBWATCH_RACE__BIBS="d{3,4}")
    assert failed.returncode == 78
    assert "race.bibs: 'd{3,4}' matches no digit" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    moved = site.bibwatch("run", "--once", BIBWATCH_STAGES=r'{"bib_number": {"accept_confidence": 0.9}}')
    assert moved.returncode == 78
    assert moved.stderr == (
        "bibwatch: stages.bib_number.accept_confidence is now race.accept_at (environment: BIBWATCH_RACE__ACCEPT_AT)\n"
    )


def test_the_order_of_photos_and_a_kill_do_not_change_the_final_readings(tmp_path: Path, draw: Draw) -> None:
    """The form of the race is learned as photos come in; what was judged before it was known is judged again."""
    bibs = ("A10347", "B10882", "C11610", "766", "D12367", "2026", "A10866", "A10766")
    photos = {f"{bib}.jpg": draw(bib, seed=number, size=(900, 600)) for number, bib in enumerate(bibs)}
    final = []
    for place, names in (("forwards", list(photos)), ("backwards", list(photos)[::-1])):
        (tmp_path / place).mkdir()
        site = Site(tmp_path / place)
        try:
            for name in names[:4]:
                (site.camera / name).write_bytes(photos[name])
            daemon = site.start()
            site.wait(lambda site=site: site.query("SELECT count(*) FROM results") == [(4,)])
            daemon.kill()
            daemon.wait()
            for name in names[4:]:
                (site.camera / name).write_bytes(photos[name])
            once(site)
            rows = site.query("SELECT path, bib, round(confidence, 6), verdict, reasons FROM bib_results")
            final.append(sorted((row[0].rsplit("/", 1)[-1], *row[1:]) for row in rows))
        finally:
            site.close()
    assert final[0] == final[1]
    assert len({row[1] for row in final[0]}) > 4
