"""Metrics for Prometheus, and the port they are served on. Does not know who updates them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from bibwatch.errors import ConfigurationError

PHOTO_BYTES_LOADED = Counter("bibwatch_photo_bytes_loaded", "Bytes of photo files read")
PHOTO_FILES_LOADED = Counter("bibwatch_photo_files_loaded", "Photo files opened and read")
MODEL_IMAGES = Counter("bibwatch_model_images", "Images sent to the model")
FINISHED = Counter("bibwatch_files_finished", "Files processed, by resulting state", ["state"])
BATCH_SECONDS = Histogram("bibwatch_batch_seconds", "Time from claiming a batch to committing it")
SCANS = Counter("bibwatch_scans", "Full scans of a camera folder", ["camera"])
SCAN_SECONDS = Gauge("bibwatch_scan_seconds", "Duration of the last full scan", ["camera"])
CAMERA_HEALTHY = Gauge("bibwatch_camera_healthy", "1 if the last scan of the camera folder succeeded", ["camera"])
WATCHER_UP = Gauge("bibwatch_watcher_up", "1 while the kernel reports changes in the camera folder", ["camera"])
RESCANS = Counter("bibwatch_event_overflows", "Times the event queue overflowed and a scan replaced it", ["camera"])
MODEL_AVAILABLE = Gauge("bibwatch_model_available", "1 while the preset's model is available", ["preset"])
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
    """Return the value of a counter that has no labels."""
    return int(next(iter(counter.collect())).samples[0].value)


def serve_metrics(host: str, port: int) -> None:
    """Serve `GET /metrics` on `host:port`. Raises ConfigurationError if the port is unavailable."""
    try:
        start_http_server(port, host)
    except OSError as exc:
        raise ConfigurationError(f"metrics_port = {port}: {exc.strerror}") from exc
