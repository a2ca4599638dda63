"""The pipeline against a real ledger, with a model that does what the test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text
from structlog.testing import capture_logs

from bibwatch.domain.box import Box
from bibwatch.domain.states import State
from bibwatch.errors import (
    BibwatchError,
    ConfigurationError,
    ModelBusyError,
    ModelDisconnectedError,
    ModelError,
    ModelFaultError,
    ModelRejectedError,
    ModelUnreachableError,
)
from bibwatch.files import Stat
from bibwatch.images import ImageLimits
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.judging import Judge
from bibwatch.pipeline import model_health
from bibwatch.pipeline import pipeline as module
from bibwatch.pipeline.failover import Failover
from bibwatch.pipeline.model_health import ModelHealth
from bibwatch.pipeline.pipeline import Pipeline
from bibwatch.runtimes.base import ModelOptions, OutputKind, Prediction, Runtime, TextLine
from bibwatch.settings import PipelineSettings
from bibwatch.stages.bib_number import BibNumber, BibNumberOptions
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Sighting
from bibwatch.store.report import Report

LINE = TextLine("123", 0.99, Box(40, 40, 60, 60))


class ScriptedOptions(ModelOptions):
    """Options of an OCR."""

    output_kind = OutputKind.LINES


class RemoteOptions(ScriptedOptions):
    """Options of one behind a server."""

    is_remote = True


class Scripted(Runtime[ModelOptions]):
    """Answers every image with `answer`, and remembers how many it was asked about together."""

    options_type = ScriptedOptions

    def __init__(self, options: ModelOptions, calls: int = 1) -> None:
        super().__init__(options)
        self.calls = calls
        self.batches: list[int] = []
        self.shades: list[int] = []  # of the photos of the batch last begun
        self.answer: Callable[[Image.Image], Prediction] = lambda _: Prediction(lines=(LINE,), device="cpu")

    @property
    def concurrent_calls(self) -> int:
        return self.calls

    def load(self) -> None:
        """There is nothing to load."""

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: object = None
    ) -> Iterator[Prediction]:
        del prompt, constraint
        pictures = list(images)
        self.shades = [image.getpixel((0, 0))[0] for image in pictures]  # type: ignore[index]
        self.batches.append(0)
        for image in pictures:
            self.batches[-1] += 1
            yield self.answer(image)

    def close(self) -> None:
        """There is nothing to close."""


class Bench:
    """A folder of photos, a ledger that knows them as ready, and a pipeline over both."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.database = Database(f"sqlite:///{place / 'x.db'}")
        self.database.migrate()
        self.ledger = Ledger(self.database)
        self.report = Report(self.database)
        self.runtime = Scripted(ScriptedOptions(kind="scripted", name="scripted", batch_size=4))
        self.settings = PipelineSettings(batch_wait_seconds=0, max_attempts=3)
        self.fallback = Scripted(ScriptedOptions(kind="scripted", name="fallback", batch_size=4, longest_side=640))
        self.pipeline = self.make()

    def make(self, *, fallback_after: float | None = None, reread: bool = False) -> Pipeline:
        """Make a pipeline as a new process would; the second model is there to fall back to after so many seconds."""
        runtimes = [self.runtime] if fallback_after is None else [self.runtime, self.fallback]
        self.failover = Failover([self.model(runtime) for runtime in runtimes], fallback_after or 0.0)
        self.failover.start(lambda: False)
        del self.runtime.batches[-1]  # that was a probe
        events = {"stop": threading.Event(), "news": threading.Event()}
        return Pipeline(self.failover, self.settings, ImageLimits(), self.ledger, Judge(), reread=reread, **events)

    @staticmethod
    def model(runtime: Scripted) -> ModelHealth:
        options = BibNumberOptions(model_options=runtime.options)
        return ModelHealth("bib_number", BibNumber(options, runtime, BibLines(BibLinesOptions())))

    def add(self, name: str, shade: int) -> Path:
        """Put a photo there and tell the ledger that it is ready."""
        path = self.place / name
        Image.new("RGB", (100, 100), (shade, shade, shade)).save(path)
        self.ledger.record_sightings("cam", [Sighting(str(path), Stat.of(path.stat()), State.READY)])
        return path

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Let the pipeline work until a condition holds, then stop it."""
        if not self.pipeline._thread.is_alive():
            self.pipeline.start()
        end = time.monotonic() + 30
        while not condition() and self.pipeline.failure is None:
            assert time.monotonic() < end, self.report.counts()
            time.sleep(0.01)
        self.pipeline.stop.set()
        assert self.pipeline.join(10)
        assert self.pipeline.failure is None

    def bibs(self) -> list[str]:
        with self.database.query() as connection:
            return list(connection.execute(text("SELECT bib FROM bib_results")).scalars())

    def counts(self) -> dict[State, int]:
        return self.report.counts()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


def test_ready_files_are_read_in_batches(bench: Bench) -> None:
    for shade in range(10):
        bench.add(f"{shade}.png", shade)
    bench.run_until(lambda: bench.counts() == {State.DONE: 10})
    assert bench.runtime.batches == [4, 4, 2]
    assert bench.bibs() == ["123"] * 10


def test_a_batch_that_is_not_full_waits_for_its_age(bench: Bench) -> None:
    """With an endless wait nothing is read until the batch is full."""
    bench.settings = PipelineSettings(batch_wait_seconds=3600)
    bench.pipeline = bench.make()
    for shade in range(3):
        bench.add(f"{shade}.png", shade)
    bench.pipeline.start()
    bench.pipeline._news.set()
    time.sleep(0.2)
    assert bench.counts() == {State.READY: 3}
    bench.add("3.png", 3)
    bench.pipeline._news.set()
    end = time.monotonic() + 30
    while bench.counts() != {State.DONE: 4}:
        assert time.monotonic() < end
        time.sleep(0.01)
    bench.pipeline.stop.set()
    bench.pipeline._news.set()
    assert bench.pipeline.join(10)
    assert bench.runtime.batches == [4]


def test_the_same_bytes_are_asked_about_once(bench: Bench) -> None:
    """Within a batch, and against what was read before."""
    for name in ("a.png", "b.png", "c.png"):
        bench.add(name, 7)
    bench.run_until(lambda: bench.counts() == {State.DONE: 3})
    bench.pipeline = bench.make()
    bench.add("d.png", 7)
    bench.run_until(lambda: bench.counts() == {State.DONE: 4})
    assert bench.runtime.batches == [1]
    assert bench.bibs() == ["123"]


def test_one_bad_image_does_not_cost_its_neighbours(bench: Bench) -> None:
    """It is tried again, alone, and ends as `failed` with the model's words."""

    def answer(image: Image.Image) -> Prediction:
        return Prediction(error=ModelError("too dark")) if image.getpixel((0, 0)) == (0, 0, 0) else Prediction()

    bench.runtime.answer = answer
    for shade in range(4):
        bench.add(f"{shade}.png", shade)
    bench.run_until(lambda: bench.counts() == {State.DONE: 3, State.FAILED: 1})
    assert bench.runtime.batches == [4, 1, 1]
    (trouble,) = bench.report.oldest([State.FAILED])
    assert (trouble["error"], trouble["attempts"]) == ("too dark", 3)


def is_probe(image: Image.Image) -> bool:
    return image.size == (64, 64)


def gone(_: Image.Image) -> Prediction:
    return Prediction(error=ModelUnreachableError("connection refused"))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let probes follow each other at once."""
    monkeypatch.setattr(model_health, "_LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.001)


@pytest.mark.usefixtures("hasty")
def test_a_model_that_is_away_costs_no_attempt_and_is_tried_with_probes_only(bench: Bench) -> None:
    """The outage is logged once, and so is its end; no photo is claimed meanwhile."""
    probes = 0

    def answer(image: Image.Image) -> Prediction:
        nonlocal probes
        probes += is_probe(image)
        return gone(image) if probes < 30 else Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    for shade in range(4):
        bench.add(f"{shade}.png", shade)
    with capture_logs() as logs:
        bench.run_until(lambda: bench.counts() == {State.DONE: 4})
    assert bench.bibs() == ["123"] * 4
    assert [size for size in bench.runtime.batches if size > 1] == [4, 4]  # when it went, and when it was back
    assert bench.runtime.batches.count(1) == 30
    assert [line["event"] for line in logs if line["event"].startswith("model.")] == [
        "model.unavailable",
        "model.available",
    ]
    with bench.database.query() as connection:
        assert set(connection.execute(text("SELECT attempts FROM file_status")).scalars()) == {1}


@pytest.mark.usefixtures("hasty")
def test_a_reason_that_changes_is_logged_again(bench: Bench) -> None:
    reasons = iter([*[ModelUnreachableError("refused")] * 5, *[ModelBusyError("loading")] * 5])

    def answer(_: Image.Image) -> Prediction:
        error = next(reasons, None)
        return Prediction(error=error) if error else Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    bench.add("a.png", 1)
    with capture_logs() as logs:
        bench.run_until(lambda: bench.counts() == {State.DONE: 1})
    told = [line["error"] for line in logs if line["event"] == "model.unavailable"]
    assert told == ["refused", "loading"]


def test_a_busy_server_is_given_the_time_it_asks_for(bench: Bench) -> None:
    error = ModelBusyError("busy")
    error.retry_after = 3600.0
    model = bench.failover.preferred
    model.fail(error)
    assert 100 < model._breaker.retry_at - time.monotonic() <= model_health._LONGEST_RETRY_AFTER


def test_a_photo_that_was_read_while_others_failed_hastens_no_probe(bench: Bench) -> None:
    """Its batch was under way already when the server asked for time."""
    busy = ModelBusyError("busy")
    busy.retry_after = 3600.0
    model = bench.failover.preferred
    model.fail(busy)
    model.succeed()
    bench.runtime.batches.clear()
    with ThreadPoolExecutor(1) as probes:
        assert not model.is_available(probes)
    assert bench.runtime.batches == []


def one_of_four_fails(bench: Bench) -> list[tuple[object, ...]]:
    """Have four photos read, of which one fails; return state, attempts and error of each."""
    for shade in range(4):
        bench.add(f"{shade}.png", shade)
    bench.run_until(lambda: bench.counts() == {State.DONE: 3, State.FAILED: 1})
    with bench.database.query() as connection:
        rows = connection.execute(text("SELECT state, attempts, error FROM file_status ORDER BY state")).all()
    return list(map(tuple, rows))


@pytest.mark.usefixtures("hasty")
def test_the_photo_that_a_server_fails_at_is_found_and_its_neighbours_cost_nothing(bench: Bench) -> None:
    """One photo brings the whole batch down each time: each is read alone, and only that one fails."""
    poison = 2

    def answer(image: Image.Image) -> Prediction:
        down = not is_probe(image) and poison in bench.runtime.shades
        return Prediction(error=ModelFaultError("500")) if down else Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    assert one_of_four_fails(bench) == [("done", 1, None)] * 3 + [("failed", 3, "500")]


@pytest.mark.usefixtures("hasty")
def test_a_photo_that_breaks_connections_is_found_and_costs_nobody_anything_while_the_server_is_away(
    bench: Bench,
) -> None:
    """With company it is free, and alone an attempt, but only if the probe fares better."""
    poison, probes = 2, 0

    def answer(image: Image.Image) -> Prediction:
        nonlocal probes
        probes += is_probe(image)
        if (is_probe(image) and probes % 3 == 1) or poison in bench.runtime.shades:
            return Prediction(error=ModelDisconnectedError("broke"))
        return Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    assert one_of_four_fails(bench) == [("done", 1, None)] * 3 + [("failed", 3, "broke")]


def test_a_server_that_answers_probes_only_is_asked_less_and_less_and_told_of_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    fail = ModelHealth.fail

    def noted(self: ModelHealth, error: BaseException) -> None:
        fail(self, error)
        pauses.append(self._breaker.retry_at - time.monotonic())
        self._breaker.retry_at = 0.0

    monkeypatch.setattr(ModelHealth, "fail", noted)
    monkeypatch.setattr(module, "_IDLE_SECONDS", 0.001)
    bench.runtime.answer = lambda image: Prediction(lines=(LINE,)) if is_probe(image) else gone(image)
    bench.add("a.png", 1)
    with capture_logs() as logs:
        bench.run_until(lambda: len(pauses) > 8)
    assert pauses[0] < 1.1
    assert pauses[7] > 14
    assert [line["event"] for line in logs] == ["model.unavailable", "model.available"]


def test_a_server_with_no_time_is_not_bothered_with_a_probe(bench: Bench) -> None:
    busy = ModelBusyError("429")
    busy.retry_after = 3600.0
    bench.runtime.answer = lambda image: Prediction(lines=(LINE,)) if is_probe(image) else Prediction(error=busy)
    bench.add("a.png", 1)
    bench.run_until(lambda: bench.failover.preferred.error is not None)
    assert bench.runtime.batches == [1]
    assert bench.failover.preferred._breaker.retry_at - time.monotonic() > 100


def test_a_fallback_is_not_loaded_where_nothing_waits(bench: Bench) -> None:
    bench.runtime.answer = gone
    bench.pipeline = bench.make(fallback_after=0.001)
    looks = 0
    look = bench.failover.current

    def current(*, needed: bool = True) -> ModelHealth | None:
        nonlocal looks
        looks += 1
        bench.pipeline._news.set()
        return look(needed=needed)

    bench.failover.current = current  # type: ignore[method-assign]
    bench.run_until(lambda: looks > 50)
    assert bench.fallback.batches == []


@pytest.mark.usefixtures("hasty")
def test_what_a_fallback_has_read_does_not_fail(bench: Bench) -> None:
    """The preferred model, available again, fails on it."""
    back = threading.Event()
    bench.runtime.answer = lambda image: (
        gone(image)
        if not back.is_set()
        else Prediction(lines=(LINE,))
        if is_probe(image)
        else Prediction(error=ModelError("too dark"))
    )
    bench.pipeline = bench.make(fallback_after=0.001, reread=True)
    bench.add("a.png", 1)
    bench.pipeline.start()
    wait_for(lambda: bench.counts() == {State.DONE: 1})
    back.set()
    with capture_logs() as logs:
        wait_for(
            lambda: sum(size == 1 for size in bench.runtime.batches) > 3 and bench.failover.preferred.error is None
        )
        wait_for(lambda: any(line["event"] == "photo.failed" for line in logs))
    bench.run_until(lambda: bench.counts() == {State.DONE: 1})
    assert presets(bench) == [("a.png", "fallback")]


@pytest.mark.usefixtures("hasty")
def test_a_refusal_costs_the_photo_an_attempt_if_the_probe_is_not_refused(bench: Bench) -> None:
    bench.runtime.answer = lambda image: (
        Prediction(lines=(LINE,)) if is_probe(image) else Prediction(error=ModelRejectedError("400: too large"))
    )
    bench.add("a.png", 1)
    bench.run_until(lambda: bench.counts() == {State.FAILED: 1})
    assert bench.runtime.batches == [1, 1] * 3  # a photo, a probe; three attempts


@pytest.mark.usefixtures("hasty")
def test_a_server_that_refuses_whatever_it_is_asked_costs_nothing(bench: Bench) -> None:
    refusals = iter(range(20))

    def answer(_: Image.Image) -> Prediction:
        refused = next(refusals, None) is not None
        return Prediction(error=ModelRejectedError("400: unknown field")) if refused else Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    bench.add("a.png", 1)
    bench.run_until(lambda: bench.counts() == {State.DONE: 1})
    with bench.database.query() as connection:
        assert list(connection.execute(text("SELECT attempts FROM file_status")).scalars()) == [1]


def presets(bench: Bench) -> list[tuple[str, str]]:
    """Which preset has read which photo, as (file name, preset)."""
    with bench.database.query() as connection:
        rows = connection.execute(text("SELECT path, preset FROM bib_results ORDER BY path, preset")).all()
    return [(Path(path).name, preset) for path, preset in rows]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("reread", [False, True])
def test_a_fallback_reads_while_the_preferred_model_is_away(bench: Bench, *, reread: bool) -> None:
    """Every result says who made it; the preferred model takes back, and reads again what it is to."""
    back = threading.Event()
    bench.runtime.answer = lambda image: Prediction(lines=(LINE,)) if back.is_set() else gone(image)
    bench.pipeline = bench.make(fallback_after=0.001, reread=reread)
    bench.add("a.png", 1)
    bench.add("b.png", 2)
    bench.pipeline.start()
    wait_for(lambda: bench.counts() == {State.DONE: 2})
    assert presets(bench) == [("a.png", "fallback"), ("b.png", "fallback")]
    back.set()
    wait_for(lambda: bench.failover.preferred.error is None)
    bench.add("c.png", 3)
    bench.pipeline._news.set()
    both = [("a.png", "fallback"), ("a.png", "scripted"), ("b.png", "fallback"), ("b.png", "scripted")]
    once = [("a.png", "fallback"), ("b.png", "fallback")]
    wait_for(lambda: presets(bench) == [*(both if reread else once), ("c.png", "scripted")])
    bench.run_until(lambda: True)
    # A new process does not change its mind.
    counting = bench.failover.models[:1] if reread else bench.failover.models
    bench.ledger.recover([model.recogniser for model in counting], 3)
    assert bench.counts() == {State.DONE: 3}


@pytest.mark.usefixtures("hasty")
def test_an_engine_that_died_and_cannot_be_started_again_is_fallen_back_from(bench: Bench) -> None:
    def answer(image: Image.Image) -> Prediction:
        if is_probe(image):
            return gone(image)
        raise ConfigurationError("vLLM cannot load it: out of memory")

    bench.pipeline = bench.make(fallback_after=0.001)
    bench.runtime.answer = answer
    bench.add("a.png", 1)
    bench.run_until(lambda: bench.counts() == {State.DONE: 1})
    assert presets(bench) == [("a.png", "fallback")]


@pytest.mark.usefixtures("hasty")
def test_photos_wait_for_the_preferred_model_till_the_fallback_is_due(bench: Bench) -> None:
    probes = 0

    def answer(image: Image.Image) -> Prediction:
        nonlocal probes
        probes += is_probe(image)
        return gone(image)

    bench.runtime.answer = answer
    bench.pipeline = bench.make(fallback_after=3600)
    bench.add("a.png", 1)
    bench.run_until(lambda: probes > 20)
    assert bench.counts() == {State.READY: 1}
    assert bench.fallback.batches == []  # it is not even loaded


@pytest.mark.usefixtures("hasty")
def test_a_fallback_that_cannot_be_loaded_leaves_the_work_to_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: Scripted) -> None:
        if self.options.name == "broken":
            raise ConfigurationError("no torch here")

    monkeypatch.setattr(Scripted, "load", load)
    bench.runtime.answer = gone
    bench.make()
    broken = Scripted(ScriptedOptions(kind="scripted", name="broken"))
    bench.failover = Failover([bench.model(each) for each in (bench.runtime, broken, bench.fallback)], 0.001)
    bench.failover.start(lambda: False)
    events = {"stop": threading.Event(), "news": threading.Event()}
    bench.pipeline = Pipeline(bench.failover, bench.settings, ImageLimits(), bench.ledger, Judge(), **events)
    bench.add("a.png", 1)
    bench.run_until(lambda: bench.counts() == {State.DONE: 1})
    assert presets(bench) == [("a.png", "fallback")]


@pytest.mark.parametrize("options", [ScriptedOptions, RemoteOptions])
def test_only_a_fallback_behind_a_server_is_loaded_at_the_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, options: type[ModelOptions]
) -> None:
    """Loading that costs nothing, and shows a missing key; how many calls a model takes says nothing of that."""
    loaded: list[str] = []
    monkeypatch.setattr(Scripted, "load", lambda self: loaded.append(self.options.name))
    fallback = Scripted(options(kind="scripted", name="fallback"), calls=2)
    failover = Failover([bench.model(each) for each in (bench.runtime, fallback)], 0.0)
    failover.start(lambda: False)
    failover.close()
    assert ("fallback" in loaded) is options.is_remote


def test_a_runtime_that_raises_anything_ends_the_start_with_one_line(bench: Bench) -> None:
    """It may be a plugin's."""

    def short_answers() -> AbstractContextManager[None]:
        raise AttributeError("no\nengine")

    bench.runtime.short_answers = short_answers  # type: ignore[method-assign]
    with pytest.raises(BibwatchError, match=r"^preset scripted: AttributeError: no engine$"):
        bench.make()


def test_a_model_that_has_use_for_it_is_asked_about_several_batches_at_a_time(bench: Bench) -> None:
    """And about no more: the barrier breaks unless two are under way, and a third would be counted."""
    together = threading.Barrier(2, timeout=30)
    under_way: list[int] = []
    most = 0

    def answer(_: Image.Image) -> Prediction:
        nonlocal most
        if is_probe(_):
            return Prediction(lines=(LINE,))
        under_way.append(1)
        most = max(most, len(under_way))
        together.wait()
        under_way.pop()
        return Prediction(lines=(LINE,))

    bench.runtime = Scripted(ScriptedOptions(kind="scripted", name="scripted", batch_size=1), calls=2)
    bench.runtime.answer = answer
    bench.pipeline = bench.make()
    for shade in range(8):
        bench.add(f"{shade}.png", shade)
    bench.run_until(lambda: bench.counts() == {State.DONE: 8})
    assert most == 2
    assert bench.bibs() == ["123"] * 8


def test_a_model_without_use_for_it_is_asked_by_one_thread_at_a_time(bench: Bench) -> None:
    under_way = threading.Lock()

    def answer(_: Image.Image) -> Prediction:
        assert under_way.acquire(blocking=False)
        time.sleep(0.001)
        under_way.release()
        return Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    stage = bench.failover.preferred.stage
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: stage.warm_up(), range(20)))


def test_suspects_are_read_alone_and_last(bench: Bench) -> None:
    """What was being read when the process died comes after the rest, one by one."""
    for shade in range(3):
        bench.add(f"{shade}.png", shade)
    assert len(bench.ledger.claim(4, quarantined=True)) == 3
    assert bench.ledger.recover([bench.failover.preferred.recogniser], 3) == 3
    for shade in range(3, 8):
        bench.add(f"{shade}.png", shade)
    bench.run_until(lambda: bench.counts() == {State.DONE: 8})
    assert bench.runtime.batches == [4, 1, 1, 1, 1]


def test_a_file_that_changed_since_it_was_seen_is_left_to_settle(bench: Bench) -> None:
    path = bench.add("a.png", 1)
    path.write_bytes(path.read_bytes() + b"more")
    bench.run_until(lambda: bench.counts() == {State.SETTLING: 1})
    assert bench.runtime.batches == []


def test_after_a_stop_the_batch_in_flight_is_finished_and_the_next_given_back(bench: Bench) -> None:
    """No photo is left `reading`, and none loses an attempt."""
    for shade in range(12):
        bench.add(f"{shade}.png", shade)

    def answer(_: Image.Image) -> Prediction:
        bench.pipeline.stop.set()
        return Prediction(lines=(LINE,))

    bench.runtime.answer = answer
    bench.run_until(bench.pipeline.stop.is_set)
    assert bench.counts() == {State.DONE: 4, State.READY: 8}
    (first,) = bench.report.oldest([State.READY])
    assert first["attempts"] == 0


def test_a_stop_does_not_wait_for_a_slow_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the time to drain is over, what was answered is recorded and the rest given back."""
    monkeypatch.setattr(module, "_DRAIN_SECONDS", -1.0)
    for shade in range(4):
        bench.add(f"{shade}.png", shade)
    bench.runtime.answer = lambda _: bench.pipeline.stop.set() or Prediction(lines=(LINE,))  # type: ignore[func-returns-value]
    bench.run_until(bench.pipeline.stop.is_set)
    assert bench.counts() == {State.DONE: 1, State.READY: 3}
