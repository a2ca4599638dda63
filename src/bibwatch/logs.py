"""Logs: structured lines on stderr, for journald, as JSON, or in colours on a terminal.

Does not know what is worth a line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, Literal, TextIO, cast

import structlog


class _Stderr:
    """Standard error, whose troubles (a full disk, a closed pipe) are no reason to stop reading photos."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def keep_logs_off_stdout() -> None:
    """Send lines to stderr if nobody has said where they go; structlog's own default is stdout, where answers are."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())))


def set_up_logs(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Send structured log lines to stderr. `auto` is coloured text on a terminal and plain text elsewhere."""
    terminal = sys.stderr.isatty()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=terminal, repr_native_str=True)
        if terminal
        else structlog.processors.KeyValueRenderer(key_order=["level", "event"])
    )
    stamp = [] if "JOURNAL_STREAM" in os.environ and form != "json" else [structlog.processors.TimeStamper("iso")]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            *stamp,
            structlog.processors.format_exc_info,
            structlog.processors.UnicodeDecoder(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
