"""The pipeline against a real ledger, with a model that does what the test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import text

from bibwatch.errors import ModelError, ModelUnavailableError
from bibwatch.files import Stat
from bibwatch.images import ImageLimits
from bibwatch.interpreters.bib_lines import BibLines, BibLinesOptions
from bibwatch.pipeline import pipeline as module
from bibwatch.pipeline.pipeline import Pipeline
from bibwatch.runtimes.base import Box, Gives, ModelOptions, Prediction, Runtime, TextLine
from bibwatch.settings import PipelineSettings
from bibwatch.stages.bib_number import BibNumber, BibNumberOptions
from bibwatch.states import State
from bibwatch.store.database import Database
from bibwatch.store.ledger import Ledger
from bibwatch.store.records import Sighting
from bibwatch.store.report import Report

LINE = TextLine("123", 0.99, Box(40, 40, 60, 60))


class ScriptedOptions(ModelOptions):
    """Options of an OCR."""

    gives = Gives.LINES


class Scripted(Runtime[ModelOptions]):
    """Answers every image with `answer`, and remembers how many it was asked about together."""

    options_type = ScriptedOptions

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self.batches: list[int] = []
        self.answer: Callable[[Image.Image], Prediction] = lambda _: Prediction(lines=(LINE,), device="cpu")

    def load(self) -> None:
        """There is nothing to load."""

    def predict_batch(
        self, images: Iterable[Image.Image], prompt: str, *, constraint: object = None
    ) -> Iterator[Prediction]:
        del prompt, constraint
        self.batches.append(0)
        for image in images:
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
        self.pipeline = self.make()

    def make(self) -> Pipeline:
        """Make a pipeline as a new process would."""
        stage = BibNumber(
            BibNumberOptions(model_options=self.runtime.options), self.runtime, BibLines(BibLinesOptions())
        )
        events = {"stop": threading.Event(), "news": threading.Event()}
        return Pipeline("bib_number", stage, self.settings, ImageLimits(), self.ledger, **events)

    def add(self, name: str, shade: int) -> Path:
        """Put a photo there and tell the ledger that it is ready."""
        path = self.place / name
        Image.new("RGB", (100, 100), (shade, shade, shade)).save(path)
        self.ledger.see("cam", [Sighting(str(path), Stat.of(path.stat()), State.READY)])
        return path

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Let the pipeline work until a condition holds, then stop it."""
        self.pipeline.start()
        end = time.monotonic() + 30
        while not condition() and self.pipeline.failure is None:
            assert time.monotonic() < end, self.report.counts()
            time.sleep(0.01)
        self.pipeline.stop.set()
        assert self.pipeline.join(10)
        assert self.pipeline.failure is None

    def bibs(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(text("SELECT bib FROM bib_results")).scalars())

    def counts(self) -> dict[State, int]:
        return self.report.counts()


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


def test_a_model_that_cannot_be_reached_costs_no_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More refusals than there are attempts; then it answers, and all photos are read."""
    monkeypatch.setattr(module, "_UNAVAILABLE_SECONDS", 0.01)
    refusals = iter(range(30))

    def answer(_: Image.Image) -> Prediction:
        if next(refusals, None) is None:
            return Prediction(lines=(LINE,))
        return Prediction(error=ModelUnavailableError("connection refused"))

    bench.runtime.answer = answer
    for shade in range(4):
        bench.add(f"{shade}.png", shade)
    bench.run_until(lambda: bench.counts() == {State.DONE: 4})
    assert bench.bibs() == ["123"] * 4
    assert bench.pipeline.unavailable is None


def test_suspects_are_read_alone_and_last(bench: Bench) -> None:
    """What was being read when the process died comes after the rest, one by one."""
    for shade in range(3):
        bench.add(f"{shade}.png", shade)
    assert len(bench.ledger.claim(4, suspects=True)) == 3
    assert bench.ledger.recover(bench.pipeline.reader, 3) == 3
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
