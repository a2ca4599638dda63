"""`kill -9` at random moments: every image exactly once, nothing lost."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
KILLS, PHOTOS = 20, 300


def test_every_image_has_one_result_after_twenty_kills(site: Any, draw: Callable[..., bytes]) -> None:
    """Photos arrive meanwhile; the kills fall anywhere: while it starts, decodes, reads or commits."""
    dice = random.Random(2026)
    bibs = [str(1000 + number) for number in range(PHOTOS)]
    photos = {bib: draw(bib, seed=int(bib), size=(240, 180)) for bib in bibs}
    arriving = iter(photos.items())
    for _ in range(KILLS):
        for _ in range(PHOTOS // KILLS):
            bib, data = next(arriving)
            (site.camera / f"{bib}.jpg").write_bytes(data)
        daemon = site.start(ready=False)
        time.sleep(dice.uniform(0.3, 4.0))
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    assert site.bibwatch("run", "--once").returncode == 0
    assert site.query("PRAGMA integrity_check") == [("ok",)]
    assert site.query("SELECT state, count(*) FROM image_status GROUP BY state") == [("done", PHOTOS)]
    assert site.query("SELECT count(*), count(DISTINCT image_id) FROM results") == [(PHOTOS, PHOTOS)]
    assert site.query("SELECT count(DISTINCT sha256) FROM images") == [(PHOTOS,)]
    assert site.query(
        "SELECT count(*) FROM (SELECT 1 FROM bib_results GROUP BY image_id, bib HAVING count(*) > 1)"
    ) == [(0,)]
    assert site.bibwatch("audit").returncode == 0
