"""Where log lines go when bibwatch is used as a library: never to stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_WARN = """
from bibwatch.registry import Registry

registry = Registry()
registry.runtime(registry.model_options("smol-inline-gpu"))

from bibwatch.runtimes.devices import log

log.warning("device.fallback", wanted="cuda")
"""
_OWN = """
import sys, structlog
structlog.configure(
    processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(sys.stdout)
)
"""


def run(code: str, folder: Path) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_warnings_go_to_stderr_by_default(tmp_path: Path) -> None:
    out, err = run(_WARN, tmp_path)
    assert out == ""
    assert "device.fallback" in err
    assert "cuda" in err


def test_an_existing_structlog_configuration_is_kept(tmp_path: Path) -> None:
    for code in (
        _OWN + _WARN,
        _WARN.replace("from bibwatch.runtimes.devices", _OWN + "from bibwatch.runtimes.devices"),
    ):
        out, err = run(code, tmp_path)
        assert (out, err) == ('{"wanted": "cuda", "event": "device.fallback"}\n', "")
