"""What unit tests share: an empty database, and plugin distributions made on the spot."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from bibwatch.store.database import Database

_GOOD = """
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    from bibwatch.runtimes.base import ModelOptions, Prediction, Runtime

    Path(__file__).with_suffix(".imported").touch()


    class Options(ModelOptions):
        kind: Literal["{kind}"] = "{kind}"
        wisdom: int = 1


    class Plugin(Runtime[Options]):
        options_type = Options

        def load(self) -> None:
            pass

        def predict_batch(self, images, prompt, *, constraint=None) -> Iterator[Prediction]:
            return (Prediction(text="42") for _ in images)

        def close(self) -> None:
            pass
"""


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an empty database with the schema; to copy it is cheaper than to migrate."""
    file = tmp_path_factory.mktemp("migrated") / "empty.db"
    database = Database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    return file


@pytest.fixture
def database(tmp_path: Path, migrated: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{shutil.copy(migrated, tmp_path / 'race.db')}")
    yield database
    database.close()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a distribution on sys.path that brings a runtime; return the file that its import makes."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, kind: str, source: str = _GOOD, *, target: str = "Plugin", group: str = "runtimes") -> Path:
        module = f"plugin_{name.replace('-', '_')}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(dedent(source).replace("{kind}", kind))
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bibwatch.{group}]\n{kind} = {module}:{target}\n")
        return tmp_path / f"{module}.imported"

    return install
