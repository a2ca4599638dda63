"""Metrics: counters and gauges for Prometheus, and the port they are served on. Does not know who counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from bibwatch.errors import ConfigurationError

PHOTO_BYTES_LOADED = Counter("bibwatch_photo_bytes_loaded", "Bytes of photo files read")
PHOTO_FILES_LOADED = Counter("bibwatch_photo_files_loaded", "Photo files opened and read")
MODEL_IMAGES = Counter("bibwatch_model_images", "Images sent to the model")
FINISHED = Counter("bibwatch_files_finished", "Files that left the batch, by the state they went to", ["state"])
BATCH_SECONDS = Histogram("bibwatch_batch_seconds", "Time from claiming a batch to committing it")
SCANS = Counter("bibwatch_scans", "Full scans of a camera folder", ["camera"])
SCAN_SECONDS = Gauge("bibwatch_scan_seconds", "Length of the last full scan", ["camera"])
CAMERA_HEALTHY = Gauge("bibwatch_camera_healthy", "1 when the camera folder could be scanned", ["camera"])
WATCHER_UP = Gauge("bibwatch_watcher_up", "1 when the kernel's events hasten the scans of a folder", ["camera"])
RESCANS = Counter("bibwatch_event_overflows", "Times the events were too many and a scan took their place", ["camera"])
MODEL_AVAILABLE = Gauge("bibwatch_model_available", "1 when the model of a preset can be asked", ["preset"])
READY_FILES = Gauge("bibwatch_ready_files", "Files waiting to be read")

METRICS = (
    PHOTO_BYTES_LOADED,
    PHOTO_FILES_LOADED,
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
