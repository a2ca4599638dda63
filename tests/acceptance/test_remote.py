"""`bibwatch run` with a model behind a server that comes, goes and misbehaves: a real HTTP server of the tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers import Answer, Asked, Server, chat, error
from sites import Site

pytestmark = pytest.mark.heavy

_SECRET = "sk-finish-line-4711"  # noqa: S105  # of nobody


def bib(number: str = "123") -> Answer:
    return chat(json.dumps({"bibs": [{"number": number}]}))


def preset(server: Server, **changed: Any) -> str:
    """Write the setting `presets` with one for the server."""
    remote = {"kind": "vision_openailike_api", "api_url": server.url, "model_name": "qwen", "batch_size": 4}
    return json.dumps({"remote": remote | changed})


@pytest.fixture
def remote(site: Site, server: Server, draw: Callable[..., bytes]) -> Site:
    """A site whose model is behind the server, with twelve photos."""
    server.answer = lambda _: bib()
    site.environment |= {
        "BIBWATCH_PRESETS": preset(server),
        "BIBWATCH_PRESET": "remote",
        "BIBWATCH_STAGES": json.dumps({"bib_number": {"crops": "none"}}),
    }
    for number in range(12):
        (site.camera / f"{number:02}.jpg").write_bytes(draw("1", seed=number))
    return site


def photos(asked: list[Asked]) -> list[Asked]:
    """Leave out the probes, and what is no question."""
    return [each for each in asked if each.body and each.body["max_tokens"] > 4]


def all_are_done(site: Site) -> bool:
    states = list(site.states().values())
    return len(states) == 12 and set(states) == {"done"}


def test_photos_wait_for_a_server_and_cost_it_nothing_but_probes(remote: Site, server: Server) -> None:
    """It is not ready at first; then every image is asked about once, and recorded once."""
    up = False
    server.answer = lambda _: bib() if up else error(503, "loading")
    remote.start()
    remote.wait(lambda: list(remote.states().values()) == ["ready"] * 12)
    remote.wait(lambda: len(server.asked) > 4)
    assert photos(server.asked) == []
    up = True
    remote.wait(lambda: all_are_done(remote))
    assert remote.query("SELECT count(*), count(DISTINCT image_id) FROM bib_results") == [(12, 12)]
    assert remote.query("SELECT DISTINCT attempts FROM file_status") == [(1,)]
    assert len(photos(server.asked)) == 12
    assert len(remote.events("model.unavailable")) == 1
    assert len(remote.events("model.available")) == 1


def test_a_fallback_reads_meanwhile_and_the_preferred_model_reads_again(remote: Site, server: Server) -> None:
    """The bundled OCR stands in; each result says who made it, and both are kept."""
    up = False
    server.answer = lambda _: bib("999") if up else None
    remote.start(
        BIBWATCH_FALLBACK_PRESETS='["rapidocr"]', BIBWATCH_FALLBACK_AFTER="0.5", BIBWATCH_REREAD_FALLBACK="true"
    )
    remote.wait(lambda: all_are_done(remote))
    counted = "SELECT preset, count(DISTINCT image_id) FROM results GROUP BY preset ORDER BY preset"
    assert remote.query(counted) == [("rapidocr", 12)]
    up = True
    remote.wait(lambda: remote.query(counted) == [("rapidocr", 12), ("remote", 12)])
    remote.wait(lambda: all_are_done(remote))
    told = [(line["preset"], line["instead_of"]) for line in remote.events("model.failover")]
    assert told == [("rapidocr", "remote"), ("remote", "rapidocr")]
    assert remote.query("SELECT DISTINCT bib FROM bib_results WHERE preset = 'remote'") == [("999",)]


def test_once_reads_with_the_fallback_what_the_server_fails_at(remote: Site, server: Server) -> None:
    server.answer = lambda _: error(500)
    done = remote.bibwatch("run", "--once", BIBWATCH_FALLBACK_PRESETS='["rapidocr"]', BIBWATCH_FALLBACK_AFTER="0")
    assert done.returncode == 0, done.stderr
    assert remote.query("SELECT DISTINCT preset FROM results") == [("rapidocr",)]


def test_a_stop_is_obeyed_while_the_server_hangs_before_anything_was_read(remote: Site, server: Server) -> None:
    hang = threading.Event()
    server.answer = lambda _: (hang.wait(60), bib())[1]
    daemon = remote.start(ready=False)
    remote.wait(lambda: server.asked)
    assert remote.stop(daemon) == 0
    hang.set()


def test_once_with_nothing_to_read_needs_no_server(remote: Site, server: Server) -> None:
    assert remote.bibwatch("run", "--once").returncode == 0
    server.stop()
    again = remote.bibwatch("run", "--once")
    assert again.returncode == 0, again.stderr


def test_the_key_is_in_nothing_that_is_written(remote: Site, server: Server, tmp_path: Path) -> None:
    """Not even where the server repeats it, in what it says of a refusal, a fault or nonsense."""
    secrets = tmp_path / "credentials"
    secrets.mkdir()
    key = secrets / "vllm"
    key.write_text(_SECRET + "\n")
    remote.environment |= {
        "CREDENTIALS_DIRECTORY": str(secrets),
        "BIBWATCH_PRESETS": preset(server, api_key_file="${CREDENTIALS_DIRECTORY}/vllm", retries=0),
        "BIBWATCH_LOG_LEVEL": "debug",
        "BIBWATCH_PIPELINE__MAX_ATTEMPTS": "2",
    }

    def echo(asked: Asked) -> Answer:
        said = f"you came with {asked.headers.get('Authorization')}"
        kinds = (
            error(401, said), error(400, said), error(500, said), error(429, said), Answer(said.encode()), chat(said),
        )  # fmt: skip
        return kinds[len(photos(server.asked)) % len(kinds)] if photos([asked]) else bib()

    server.answer = echo
    daemon = remote.start(ready=True)
    remote.wait(lambda: len(photos(server.asked)) > 24)
    printed = [
        remote.bibwatch(*command)
        for command in (
            ["config"], ["check"], ["check", "--json"], ["presets", "--json"], ["status", "--json"], ["status"],
            ["read", str(remote.camera / "00.jpg")], ["read", "--json", str(remote.camera / "01.jpg")],
        )
    ]  # fmt: skip
    remote.stop(daemon)
    assert {each.headers.get("Authorization") for each in server.asked} == {f"Bearer {_SECRET}"}
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != key}
    assert remote.log in written
    assert remote.database in written
    assert [path for path, data in written.items() if _SECRET.encode() in data] == []
    assert [done.args for done in printed if _SECRET in done.stdout + done.stderr] == []
    assert all(done.stdout or done.stderr for done in printed)


def test_check_tells_what_is_wrong_in_words(remote: Site, server: Server) -> None:
    def answer(asked: Asked) -> Answer:
        return bib() if asked.method == "POST" else Answer(json.dumps({"data": [{"id": "qwen"}]}).encode())

    server.answer = answer
    good = remote.bibwatch("check", "--json")
    assert good.returncode == 0, good.stderr
    steps = [json.loads(line) for line in good.stdout.splitlines()]
    assert [(each["step"], each["wrong"]) for each in steps] == [("load", False), ("server", False), ("probe", False)]
    assert steps[1]["says"] == "lists qwen"
    server.answer = lambda asked: error(404, "no such model") if asked.method == "POST" else answer(asked)
    wrong = remote.bibwatch("check", BIBWATCH_PRESETS=preset(server, model_name="llava"))
    assert wrong.returncode == 1
    assert "does not list llava; it lists: qwen" in wrong.stdout
    assert "has no model 'llava'; it lists: qwen" in wrong.stdout
    server.stop()
    gone = remote.bibwatch("check")
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stdout


def test_check_calls_a_server_that_hangs_wrong_at_once(remote: Site, server: Server) -> None:
    hang = threading.Event()
    server.answer = lambda _: (hang.wait(60), bib())[1]
    done = remote.bibwatch("check", "--json", BIBWATCH_PRESETS=preset(server, timeout_seconds=0.5))
    hang.set()
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["step"], last["wrong"]) == ("server", True)
    assert "no complete response within timeout_seconds = 0.5" in last["says"]


def test_check_looks_at_each_server_and_each_fallback(remote: Site, server: Server) -> None:
    other = Server()
    other.answer = lambda _: error(401)
    done = remote.bibwatch(
        "check",
        "--json",
        BIBWATCH_PRESETS=preset(server, api_url=[server.url, other.url]),
        BIBWATCH_FALLBACK_PRESETS='["rapidocr"]',
    )
    other.stop()
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    probes = [(each["preset"], each["place"], each["wrong"]) for each in steps if each["step"] == "probe"]
    assert probes == [
        ("remote", f"127.0.0.1:{server.port}", False),
        ("remote", f"127.0.0.1:{other.port}", True),
        ("rapidocr", "cpu", False),
    ]
