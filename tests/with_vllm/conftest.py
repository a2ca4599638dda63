"""A small model with random weights, and real vLLM servers."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_PATIENCE = 180  # seconds; it takes 25 on an idle machine
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def pytest_configure(config: pytest.Config) -> None:
    """Ignore the socket context that vLLM leaves to the garbage collector."""
    config.addinivalue_line("filterwarnings", "ignore:Unclosed context:ResourceWarning")


@pytest.fixture(scope="session", autouse=True)
def collected() -> Iterator[None]:
    """Collect it while the warning is ignored: when pytest exits, it no longer is."""
    yield
    gc.collect()


@dataclass
class VllmServer:
    """A running server and its log."""

    url: str
    model: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Kill it and all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_until_it_answers(self) -> None:
        """Wait for its health check; on failure, show the end of its log."""
        deadline = time.monotonic() + _PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(self.url.replace("/v1", "/health"), timeout=5).close()  # noqa: S310  # our own
                return
            time.sleep(0.2)
        pytest.fail(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision-language model with random weights."""
    from bibwatch.testing.tiny_vlm import make_tiny_vlm

    return make_tiny_vlm(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """A vLLM server on a free port of this machine."""
    with _serving(model_folder, tmp_path_factory.mktemp("vllm") / "server.log") as running:
        yield running


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[VllmServer]]:
    """Serve the model in a folder, with a log in a file, on a free port or on the one given."""
    return _serving


@contextlib.contextmanager
def _serving(folder: Path, log: Path, port: int = 0) -> Iterator[VllmServer]:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    flags = f"--served-model-name tiny --host 127.0.0.1 --port {port} --dtype float32 --enforce-eager"
    limits = "--max-model-len 1024 --max-num-seqs 4"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *flags.split(), *limits.split()],
            env=os.environ | _ENVIRONMENT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = VllmServer(f"http://127.0.0.1:{port}/v1", "tiny", process, log)
    try:
        running.wait_until_it_answers()
        yield running
    finally:
        running.kill()
