"""Structured logs on stderr: text, coloured on a terminal, or JSON.

Does not decide what is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, Literal, TextIO, cast

import structlog


class _Stderr:
    """Standard error without its errors: a full disk or a closed pipe must not stop the daemon."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def keep_logs_off_stdout() -> None:
    """Log to stderr unless structlog is already configured; its default is stdout, which is for results."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())))


def set_up_logs(level: str, form: Literal["auto", "text", "json"]) -> None:
    """Log structured lines to stderr. `auto` and `text` are coloured on a terminal and plain elsewhere."""
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
