"""`bibwatch audit`: every photo in the folders is in the database, unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bibwatch.cli import cli
from bibwatch.domain.states import State
from bibwatch.files import Stat
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Sighting


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("state", [None, *State])
def test_a_photo_that_is_missing_from_the_ledger_or_differs_is_listed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: State | None,
    changed: bool,  # noqa: FBT001
) -> None:
    """A photo that is still settling may differ; one recorded as gone has come back."""
    photo = tmp_path / "drop" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"photo")
    url = f"sqlite:///{tmp_path / 'race.db'}"
    database = Database(url)
    database.migrate()
    if state:
        found = Stat.of(photo.stat())
        sighting = Sighting(str(photo), found._replace(size=1) if changed else found, state)
        Ledger(database).record_sightings("finish", [sighting])
    database.close()
    monkeypatch.setenv("BIBWATCH_DATABASE_URL", url)
    monkeypatch.setenv("BIBWATCH_CAMERAS", json.dumps({"finish": {"path": str(photo.parent)}}))
    ran = CliRunner().invoke(cli, ["audit", "--json"])
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    accounted_for = state is State.SETTLING or (state not in {None, State.GONE} and not changed)
    assert lines == ([{"photos": 1}] if accounted_for else [{"problem": f"missing or changed: {photo}"}])
    assert (ran.exit_code == 0) == accounted_for
