"""Watching takes one of the kernel's few inotify instances, and gives it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bibwatch.ingest import folder_watcher
from bibwatch.ingest.folder_watcher import FolderWatcher


def instances() -> int:
    """Count the inotify instances of this process."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            count += "inotify" in str(descriptor.readlink())
        except OSError:  # the listing's own descriptor
            continue
    return count


def test_a_missing_folder_costs_nothing(tmp_path: Path) -> None:
    """It is tried again at every scan, for hours."""
    before = instances()
    for _ in range(5):
        assert FolderWatcher.watching(str(tmp_path / "missing")) == (None, None)
    assert instances() == before


def test_a_folder_that_goes_costs_nothing(tmp_path: Path) -> None:
    before = instances()
    for _ in range(5):
        (tmp_path / "drop").mkdir()
        watcher, _ = FolderWatcher.watching(str(tmp_path / "drop"))
        assert watcher
        assert instances() == before + 1
        (tmp_path / "drop").rmdir()
        watcher.close()
    assert instances() == before


def test_the_kernels_refusal_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(folder_watcher, "Observer", refuse)
    assert FolderWatcher.watching(str(tmp_path)) == (None, "inotify instance limit reached")
