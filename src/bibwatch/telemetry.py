"""Logs and metrics: structured lines on stderr, counters for Prometheus.

Knows how a line is written (journald, JSON, or colours on a terminal). Does not know what is worth a line.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Any, Literal, TextIO, cast

import structlog
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from bibwatch.errors import ConfigurationError

PHOTO_BYTES = Counter("bibwatch_photo_bytes_read", "Bytes of photo files read")
PHOTOS_READ = Counter("bibwatch_photo_files_read", "Photo files opened and read")
MODEL_IMAGES = Counter("bibwatch_model_images", "Images sent to the model")
FINISHED = Counter("bibwatch_files_finished", "Files that left the batch, by the state they went to", ["state"])
BATCH_SECONDS = Histogram("bibwatch_batch_seconds", "Time from claiming a batch to committing it")
SCANS = Counter("bibwatch_scans", "Full scans of a camera folder", ["camera"])
SCAN_SECONDS = Gauge("bibwatch_scan_seconds", "Length of the last full scan", ["camera"])
CAMERA_HEALTHY = Gauge("bibwatch_camera_healthy", "1 when the camera folder could be scanned", ["camera"])
WATCHER_UP = Gauge("bibwatch_watcher_up", "1 when the kernel's events hasten the scans of a folder", ["camera"])
RESCANS = Counter("bibwatch_hint_overflows", "Times the hints were too many and a scan took their place", ["camera"])
MODEL_AVAILABLE = Gauge("bibwatch_model_available", "1 when the model of a preset can be asked", ["preset"])
READY_FILES = Gauge("bibwatch_ready_files", "Files waiting to be read")

METRICS = (
    PHOTO_BYTES,
    PHOTOS_READ,
    MODEL_IMAGES,
    FINISHED,
    BATCH_SECONDS,
    SCANS,
    SCAN_SECONDS,
    CAMERA_HEALTHY,
    WATCHER_UP,
    RESCANS,
    MODEL_AVAILABLE,
    READY_FILES,
)


def value(counter: Counter) -> int:
    """Return what a counter without labels stands at."""
    return int(next(iter(counter.collect())).samples[0].value)


def serve_metrics(host: str, port: int) -> None:
    """Answer `GET /metrics` on `host:port`. Raises ConfigurationError if the port cannot be had."""
    try:
        start_http_server(port, host)
    except OSError as exc:
        raise ConfigurationError(f"metrics_port = {port}: {exc.strerror}") from exc


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
