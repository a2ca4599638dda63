"""Retries and load balancing, with real HTTP servers and a clock that stands still."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from PIL import Image
from tenacity import sleep_using_event

from bibwatch import backoff
from bibwatch.errors import (
    ModelBusyError,
    ModelError,
    ModelFaultError,
    ModelNotServedError,
    ModelRejectedError,
    ModelReplyError,
    ModelTimeoutError,
    ModelUnavailableError,
    ModelUnreachableError,
)
from bibwatch.runtimes.base import Prediction
from bibwatch.runtimes.openai import VisionOpenAILikeApi, VisionOpenAILikeApiOptions
from bibwatch.runtimes.openai import runtime as openai_runtime
from bibwatch.runtimes.openai import servers as policy
from servers import Answer, Asked, Server, chat, error, picture

_PATIENCE = 30  # seconds until a test stops waiting for another thread
_AGES = 3600


class Clock:
    """The clock for cooldowns; tests advance it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Remove the pauses between retries, and stop the clock for cooldowns."""
    clock = Clock()
    monkeypatch.setattr(backoff, "time", clock)
    monkeypatch.setattr(policy, "_FIRST_PAUSE", 0.0)
    return clock


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses, in seconds, which are recorded instead of waited for."""
    waited: list[float] = []
    monkeypatch.undo()  # the real pauses
    monkeypatch.setattr(policy, "sleep_using_event", lambda _: waited.append)
    return waited


@pytest.fixture
def other() -> Iterator[Server]:
    """Start a second server."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def absent() -> Iterator[Callable[[], str]]:
    """Return a function that makes URLs of ports on which nothing listens."""
    taken = []

    def absent() -> str:
        taken.append(socket.socket())
        taken[-1].bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken[-1].getsockname()[1]}/v1"

    yield absent
    for each in taken:
        each.close()


@pytest.fixture
def remote() -> Iterator[Callable[..., VisionOpenAILikeApi]]:
    """Return a function that creates a runtime for some servers; close the runtimes afterwards."""
    made = []

    def remote(*servers: Server | str, **changed: Any) -> VisionOpenAILikeApi:
        urls = tuple(each if isinstance(each, str) else each.url for each in servers)
        usual: dict[str, Any] = {"model_name": "smol", "timeout_seconds": _PATIENCE, "batch_size": 50}
        made.append(VisionOpenAILikeApi(VisionOpenAILikeApiOptions(name="mine", api_url=urls, **(usual | changed))))
        return made[-1]

    yield remote
    for runtime in made:
        runtime.close()


Remote = Callable[..., VisionOpenAILikeApi]


def ask(runtime: VisionOpenAILikeApi, images: int = 1) -> list[Prediction]:
    return list(runtime.predict_batch(map(picture, range(images)), "Which number?"))


def numbered(asked: Asked) -> Answer:
    """Reply with the image's number."""
    return chat(str(asked.number))


def in_turn(*answers: Answer | None) -> Callable[[Asked], Answer | None]:
    """Return these responses in turn, then successful ones."""
    rest = iter(answers)
    return lambda asked: next(rest, numbered(asked))


def assert_all_read(predictions: list[Prediction], images: int) -> None:
    """Assert that each image has its own reply, in order."""
    assert [(each.text, each.error) for each in predictions] == [(str(number), None) for number in range(images)]


# Retries at the same server


@pytest.mark.parametrize(
    "first",
    [
        None,  # drops the connection
        error(500),
        error(502),
        error(503),
        error(429),
        error(429, Retry_After="0"),
        Answer(b"no JSON"),
        chat("1", choices=2),
        chat("half an ans", "abort"),
        Answer(b"no gzip", 200, {"Content-Encoding": "gzip"}),
    ],
)
def test_a_temporary_error_is_retried_with_the_same_request(
    server: Server, remote: Remote, first: Answer | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is encoded as JPEG only once."""
    written: list[str] = []
    write = openai_runtime._data_url

    def kept(image: Image.Image, quality: int) -> str:
        written.append(write(image, quality))
        return written[-1]

    monkeypatch.setattr(openai_runtime, "_data_url", kept)
    server.answer = in_turn(first, first)
    assert_all_read(ask(remote(server)), 1)
    one, two, three = (asked.body for asked in server.asked)
    assert one == two == three
    assert [one["messages"][0]["content"][0]["image_url"]["url"]] == written


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (error(400), ModelRejectedError),
        (error(413), ModelRejectedError),
        (error(422), ModelRejectedError),
        (error(401), ModelNotServedError),
        (error(403), ModelNotServedError),
        (error(404), ModelNotServedError),
        (error(405), ModelNotServedError),
        (Answer(b"", 307, {"Location": "https://elsewhere"}), ModelNotServedError),
        (chat("1", model="another"), ModelNotServedError),
        (error(408), ModelTimeoutError),
        (error(504), ModelTimeoutError),
        (chat(None), ModelReplyError),
        (chat("1", "content_filter"), ModelReplyError),
        (chat("1", completion_tokens=10_000), ModelReplyError),
    ],
)
def test_a_permanent_error_is_not_retried(
    server: Server, remote: Remote, first: Answer, kind: type[ModelError]
) -> None:
    server.answer = lambda asked: first if server.posts == 1 else numbered(asked)
    (prediction,) = ask(remote(server))
    assert type(prediction.error) is kind
    assert server.posts == 1


def test_a_request_that_timed_out_is_not_retried(server: Server, remote: Remote) -> None:
    """It has used up the timeout; the next photo may try again."""

    def hang(_: Asked) -> None:
        server.stopped.wait(_PATIENCE)

    server.answer = hang
    (prediction,) = ask(remote(server, timeout_seconds=0.2))
    assert type(prediction.error) is ModelTimeoutError
    assert server.posts == 1


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_number_of_retries_is_configurable(server: Server, remote: Remote, retries: int) -> None:
    server.answer = lambda _: error(500)
    (prediction,) = ask(remote(server, retries=retries))
    assert type(prediction.error) is ModelFaultError
    assert server.posts == 1 + retries


def test_pauses_grow_up_to_a_limit_with_jitter(server: Server, remote: Remote, pauses: list[float]) -> None:
    server.answer = lambda _: error(500)
    ask(remote(server, retries=7))
    longest = [0.25, 0.5, 1, 2, 4, 5, 5]
    assert len(pauses) == len(longest)
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len({pause / most for pause, most in zip(pauses, longest, strict=True)}) > 1


_PAST = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "retry_after",
    [
        "0",
        "-3",
        "",
        "soon",
        "nan",
        "inf",
        _PAST,
        "Sun, 06 Nov 2094 08:49:37",  # without a time zone
        "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
    ],
)
def test_a_busy_server_without_retry_after_is_retried_soon(
    server: Server, remote: Remote, pauses: list[float], status: int, retry_after: str
) -> None:
    server.answer = in_turn(error(status, Retry_After=retry_after))
    assert_all_read(ask(remote(server)), 1)
    assert len(pauses) == 1
    assert 0.125 <= pauses[0] <= 0.25


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("seconds", [0.9, 2, 5])
def test_retry_after_is_respected(
    server: Server, remote: Remote, pauses: list[float], status: int, seconds: float
) -> None:
    server.answer = in_turn(error(status, Retry_After=str(seconds)))
    assert_all_read(ask(remote(server)), 1)
    assert pauses == [seconds]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "retry_after",
    # With an explicit id: parallel workers must agree on test names.
    [str(_AGES), pytest.param(format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True), id="tomorrow")],
)
def test_a_long_retry_after_is_not_waited_for(
    server: Server, remote: Remote, pauses: list[float], status: int, retry_after: str
) -> None:
    """The photo waits in the ledger, for as long as the error says."""
    server.answer = lambda _: error(status, Retry_After=retry_after)
    (prediction,) = ask(remote(server))
    assert isinstance(prediction.error, ModelBusyError)
    assert prediction.error.retry_after is not None
    assert _AGES <= prediction.error.retry_after <= 24 * _AGES
    assert (server.posts, pauses) == (1, [])


@pytest.mark.parametrize("servers", [1, 2])
def test_many_refusals_lose_no_photo(server: Server, other: Server, remote: Remote, servers: int) -> None:
    """Two of three requests are refused; those that wait for a retry do not block others."""
    lock = threading.Lock()
    came: Counter[int] = Counter()

    def answer(asked: Asked) -> Answer:
        with lock:
            came[asked.number] += 1
            return numbered(asked) if came[asked.number] == 3 else error(429)

    asked = [server, other][:servers]
    for each in asked:
        each.answer = answer
    assert_all_read(ask(remote(*asked, concurrency=3), 40), 40)
    assert set(came.values()) == {3}
    assert all(each.most_under_way <= 3 for each in asked)


# Several servers


def test_the_least_busy_server_gets_the_request(server: Server, other: Server, remote: Remote) -> None:
    """The first server holds its request until the second has received all others."""
    all_came = threading.Event()

    def count() -> None:
        if server.posts + other.posts == 10:
            all_came.set()

    def slow(asked: Asked) -> Answer:
        count()
        assert all_came.wait(_PATIENCE)
        return numbered(asked)

    def quick(asked: Asked) -> Answer:
        count()
        return numbered(asked)

    server.answer, other.answer = slow, quick
    predictions = ask(remote(server, other, concurrency=2), 10)
    assert_all_read(predictions, 10)
    assert 1 <= server.posts <= 2
    assert Counter(each.device for each in predictions) == {server.place: server.posts, other.place: other.posts}


def test_each_server_gets_as_many_requests_as_concurrency_allows(server: Server, other: Server, remote: Remote) -> None:
    """Four requests wait for each other, at most two at a server: so each has two."""
    all_there = threading.Barrier(4, timeout=_PATIENCE)

    def answer(asked: Asked) -> Answer:
        all_there.wait()
        return numbered(asked)

    server.answer = other.answer = answer
    assert_all_read(ask(remote(server, other, concurrency=2), 12), 12)
    assert (server.most_under_way, other.most_under_way) == (2, 2)


@pytest.mark.parametrize(
    "broken", [None, error(500), error(503), error(401), error(404), error(504), chat("1", model="another")]
)
def test_a_failed_server_loses_no_photo_and_cools_down(
    server: Server, other: Server, remote: Remote, clock: Clock, broken: Answer | None
) -> None:
    server.answer, other.answer = lambda _: broken, numbered
    runtime = remote(server, other, concurrency=4, retries=1)
    predictions = ask(runtime, 40)
    assert_all_read(predictions, 40)
    assert {each.device for each in predictions} == {other.place}
    before = server.posts
    assert 1 <= before <= 8  # those sent before the first failure was known
    for _ in range(3):
        clock.now += 31
        assert_all_read(ask(runtime, 10), 10)
    assert server.posts == before + 3  # one after each cooldown
    assert other.posts == 70


def test_the_cooldown_grows_and_respects_retry_after(
    server: Server, other: Server, remote: Remote, clock: Clock
) -> None:
    other.answer = numbered
    server.answer = in_turn(error(500), error(500), error(503, Retry_After="100"))
    runtime = remote(server, other, retries=1)
    came = []
    for seconds in (0, 0.9, 1.1, 1.9, 2.1, 31, 68, 1.1):
        clock.now += seconds
        assert_all_read(ask(runtime), 1)
        came.append(server.posts)
    assert came == [1, 1, 2, 2, 3, 3, 3, 4]


def test_a_recovering_server_gets_one_request_first(
    server: Server, other: Server, remote: Remote, clock: Clock
) -> None:
    server.answer, other.answer = lambda _: None, numbered
    runtime = remote(server, other, concurrency=2, retries=1)
    assert_all_read(ask(runtime), 1)
    clock.now += 31
    others_done = threading.Event()

    def first(asked: Asked) -> Answer:
        assert others_done.wait(_PATIENCE)
        return numbered(asked)

    def others(asked: Asked) -> Answer:
        if other.posts == 10:  # one from before, nine of ten now
            others_done.set()
        return numbered(asked)

    server.answer, other.answer = first, others
    assert_all_read(ask(runtime, 10), 10)
    assert (server.posts, other.posts) == (2, 10)

    all_there = threading.Barrier(4, timeout=_PATIENCE)

    def together(asked: Asked) -> Answer:
        all_there.wait()
        return numbered(asked)

    server.answer = other.answer = together
    assert_all_read(ask(runtime, 8), 8)


def test_when_one_server_hangs_the_other_replies(server: Server, other: Server, remote: Remote) -> None:
    def hang(_: Asked) -> None:
        server.stopped.wait(_PATIENCE)

    server.answer, other.answer = hang, numbered
    predictions = ask(remote(server, other, retries=1, timeout_seconds=2))
    assert_all_read(predictions, 1)
    assert (predictions[0].device, server.posts) == (other.place, 1)


def test_an_unreachable_server_loses_no_photo(other: Server, remote: Remote, absent: Callable[[], str]) -> None:
    other.answer = numbered
    assert_all_read(ask(remote(absent(), other, retries=1), 40), 40)


def test_without_any_server_the_photos_wait(remote: Remote, absent: Callable[[], str]) -> None:
    runtime = remote(absent(), absent(), retries=1)
    assert [type(each.error) for each in ask(runtime, 5)] == [ModelUnreachableError] * 5
    assert {each.device for each in ask(runtime)} == {runtime.options.place}


@pytest.mark.usefixtures("clock")  # which stands still
def test_a_photo_rejected_by_one_server_is_sent_to_the_other(server: Server, other: Server, remote: Remote) -> None:
    """A server that rejects what another accepts is at fault, and cools down."""
    server.answer, other.answer = lambda _: error(400), numbered
    runtime = remote(server, other, concurrency=1)
    assert_all_read(ask(runtime, 4), 4)
    refused = server.posts  # before the server was known to be at fault
    assert refused >= 1
    assert_all_read(ask(runtime, 20), 20)
    assert (server.posts, other.posts) == (refused, 24)


def test_a_photo_rejected_by_all_servers_does_not_make_them_unhealthy(
    server: Server, other: Server, remote: Remote
) -> None:
    server.answer = other.answer = lambda _: error(400)
    runtime = remote(server, other)
    predictions = ask(runtime, 3)
    assert [type(each.error) for each in predictions] == [ModelRejectedError] * 3
    assert server.posts == other.posts == 3
    server.answer = other.answer = numbered
    assert_all_read(ask(runtime, 3), 3)


@pytest.mark.parametrize("never", [error(401), error(504), error(503, Retry_After=str(_AGES))])
def test_a_retry_goes_to_the_server_with_a_temporary_error(
    server: Server, other: Server, remote: Remote, never: Answer
) -> None:
    server.answer, other.answer = lambda _: never, in_turn(error(500))
    assert_all_read(ask(remote(server, other)), 1)
    assert (server.posts, other.posts) == (1, 2)


def test_with_two_failed_servers_the_one_with_fewer_failures_is_used(
    server: Server, other: Server, remote: Remote, clock: Clock
) -> None:
    """One failure of a server must not send all photos to the other, which is down."""
    server.answer = lambda _: None
    runtime = remote(server, other, retries=1)
    for _ in range(3):
        clock.now += 31
        ask(runtime)
    other.answer = in_turn(error(429), error(429))
    ask(runtime)
    other.answer = numbered
    before = server.posts
    assert_all_read(ask(runtime, 5), 5)
    assert server.posts == before


# Closing


def test_closing_ends_the_wait_before_a_retry(server: Server, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_FIRST_PAUSE", _AGES)
    monkeypatch.setattr(policy, "_LONGEST_PAUSE", _AGES)
    waits = threading.Event()

    def noticed(closed: threading.Event) -> Callable[[float], None]:
        def wait(seconds: float) -> None:
            waits.set()
            sleep_using_event(closed)(seconds)

        return wait

    monkeypatch.setattr(policy, "sleep_using_event", noticed)
    server.answer = lambda _: error(500)
    predictions = closed_while(remote(server), waits, images=1)
    assert [type(each.error) for each in predictions] == [ModelUnreachableError]
    assert server.posts == 1


@pytest.mark.parametrize("images", [1, 8])
def test_closing_ends_the_wait_for_a_free_server(server: Server, remote: Remote, images: int) -> None:
    """No photo is at fault, and no request is sent afterwards."""
    came, closed = threading.Event(), threading.Event()

    def hang_up_in_the_end(_: Asked) -> None:
        came.set()
        assert closed.wait(_PATIENCE)

    server.answer = hang_up_in_the_end
    predictions = closed_while(remote(server, concurrency=1), came, images, closed)
    assert len(predictions) == images
    assert all(isinstance(each.error, ModelUnavailableError) for each in predictions)
    assert server.posts == 1


def test_closing_does_not_wait_for_requests_in_flight(
    server: Server, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, waits = threading.Event(), threading.Event()

    def hang(_: Asked) -> None:
        came.set()
        server.stopped.wait(_PATIENCE)

    server.answer = hang
    runtime = remote(server)
    servers = policy.Servers([runtime.server(runtime.options.addresses[0])], concurrency=1, retries=0)
    wait = servers._changed.wait

    def noticed() -> bool:
        waits.set()
        return wait()

    monkeypatch.setattr(servers._changed, "wait", noticed)
    errors: list[Exception] = []

    def ask_once() -> None:
        try:
            servers.ask(b"{}", 1)
        except ModelUnavailableError as exc:
            errors.append(exc)

    first, second = (threading.Thread(target=ask_once, daemon=True) for _ in range(2))
    first.start()
    assert came.wait(_PATIENCE)
    second.start()
    assert waits.wait(_PATIENCE)
    servers.close()
    second.join(_PATIENCE)
    assert not second.is_alive()
    assert any("have been closed" in str(error) for error in errors)
    server.stopped.set()
    first.join(_PATIENCE)
    assert not first.is_alive()
    assert server.posts == 1


def test_a_photo_sent_while_the_runtime_closes_is_not_at_fault(server: Server, remote: Remote) -> None:
    runtime = remote(server)
    runtime.load()
    assert runtime._workers is not None
    runtime._workers.shutdown()
    (prediction,) = ask(runtime)
    assert type(prediction.error) is ModelUnavailableError
    assert server.posts == 0


def closed_while(
    runtime: VisionOpenAILikeApi, event: threading.Event, images: int, closed: threading.Event | None = None
) -> list[Prediction]:
    """Predict in another thread, close the runtime after an event, and return the predictions."""
    predictions: list[Prediction] = []
    thread = threading.Thread(target=lambda: predictions.extend(ask(runtime, images)), daemon=True)
    thread.start()
    assert event.wait(_PATIENCE)
    runtime.close()
    if closed:
        closed.set()
    thread.join(_PATIENCE)
    assert not thread.is_alive()
    return predictions
