"""`bibwatch compare`: presets side by side, each in its own process."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bibwatch import cli, drawing
from bibwatch.comparison import CompareResult, Trial, agreement, read_labels, score
from bibwatch.errors import BibwatchError
from servers import Asked, Server, chat, error

Compare = Callable[..., Result]
QUICK = '[presets.quick]\nbase = "rapidocr"\nlongest_side = 640\n'


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., bytes]) -> Compare:
    """Call `bibwatch compare` in a folder with two photos, their labels, and a preset `quick` of its own."""
    monkeypatch.chdir(tmp_path)
    Path("config.toml").write_text(QUICK)
    Path("one.jpg").write_bytes(draw("1042"))
    Path("two.jpg").write_bytes(draw("317", "2456"))
    Path("labels.csv").write_text("file,bibs\none.jpg,1042\ntwo.jpg,2456 318\nelsewhere.jpg,5\n")

    def compare(*words: str) -> Result:
        result = CliRunner().invoke(cli.cli, ["compare", *words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return compare


def serve(server: Server) -> None:
    """Configure a preset `served` for the server."""
    with Path("config.toml").open("a") as file:
        file.write(
            f'[presets.served]\nkind = "vision_openailike_api"\napi_url = "{server.url}"\nmodel_name = "m"\n'
            "batch_size = 2\n"
        )


def bibs(*numbers: str) -> str:
    return json.dumps({"bibs": [{"number": number} for number in numbers]})


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.heavy
def test_two_presets_on_labelled_photos(compare: Compare) -> None:
    result = compare(
        "--preset", "rapidocr", "--preset", "quick", "one.jpg", "two.jpg", "--labels", "labels.csv", "--json"
    )
    assert result.exit_code == 0, result.output
    *presets, one, two, pair = records(result)
    assert [preset["preset"] for preset in presets] == ["rapidocr", "quick"]
    for preset in presets:
        assert preset["device"] == "cpu"
        assert (preset["photos"], preset["failed"], preset["batch_size"]) == (2, 0, 2)
        assert preset["load_seconds"] > 0
        assert preset["seconds_an_image"] > 0
        assert preset["images_a_second"] > 0
        assert 100 < preset["memory_mb"] < 10_000
        assert preset["cuda_memory_mb"] is None
        assert (preset["labelled_photos"], preset["exact_photos"]) == (2, 1)
        assert (preset["precision"], preset["recall"], preset["f"]) == (0.6667, 0.6667, 0.6667)
    assert one == {
        "path": "one.jpg",
        "label": ["1042"],
        "found": {"rapidocr": ["1042"], "quick": ["1042"]},
        "errors": {},
    }
    assert two["found"] == {"rapidocr": ["2456", "317"], "quick": ["2456", "317"]}
    assert pair == {"presets": ["rapidocr", "quick"], "same": 2, "photos": 2, "agreement": 1.0}


@pytest.mark.heavy
def test_the_tables(compare: Compare, server: Server) -> None:
    serve(server)
    server.answer = lambda _: chat(bibs("1042"))
    result = compare("--preset", "quick", "--preset", "cogvlm", "--preset", "served", "one.jpg", "two.jpg")
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "quick served" in lines
    assert f"device cpu 127.0.0.1:{server.port}" in lines
    assert "failed 0 0" in lines
    assert not any(line.startswith(("precision", "CUDA")) for line in lines)
    assert any(re.fullmatch(r"one.jpg 1042 \(\d+%.*\) 1042 \(\d+%.*\)", line) for line in lines)
    assert "quick and served agree on 1 of 2 photos (50%)" in lines
    assert lines[-1].startswith("cogvlm cannot run: preset cogvlm cannot be run: ")


PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"


def words(printed: str) -> list[str]:
    """Return the sorted words of the output, without measurements, confidences and verdicts."""
    measured = r"^ *(load,|one by one,|batched,|memory,).*$|\(\d+%|review|[─(),]"
    return sorted(re.sub(measured, " ", printed, flags=re.MULTILINE).split())


@pytest.mark.heavy
def test_the_docs_show_what_is_printed(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photos are drawn from the labels. smolvlm-256m is left out: it runs if transformers is installed."""
    monkeypatch.setenv("COLUMNS", "96")
    shown = PAGE.read_text().partition("$ bibwatch compare ")[2].partition("\n")[2].partition("smolvlm-256m cannot")[0]
    labels = dict(re.findall(r"^ (p\d\.jpg)   (\S+(?: \S+)*)", shown, re.MULTILINE))
    for number, (name, label) in enumerate(labels.items()):
        Path(name).write_bytes(drawing.jpeg(drawing.photo(label.split(), seed=number)))
    Path("labels.csv").write_text("file,bibs\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))
    result = compare("--preset", "rapidocr", "--preset", "quick", "--labels", "labels.csv", *labels)
    assert words(result.stdout) == words(shown)
    for head in ("load, s", "one by one, s/image", "batched, images/s", "memory, MB"):
        assert head in shown
        assert head in result.stdout


@pytest.mark.heavy
def test_each_photo_is_read_in_a_batch_and_alone(compare: Compare, server: Server) -> None:
    serve(server)
    server.answer = lambda _: chat("A banner.")
    words = ("--stage", "picture_description", "--preset", "served")
    assert compare(*words, "one.jpg", "two.jpg", "one.jpg").exit_code == 0
    widths = [asked.picture.width for asked in server.asked if asked.method == "POST"]
    assert widths == [64, *[600] * 5]  # the warm-up's blank picture, the first photo, two in a batch, two alone


@pytest.mark.heavy
def test_a_preset_that_cannot_run_is_reported_and_the_others_run(compare: Compare, server: Server) -> None:
    serve(server)
    server.answer = lambda _: error(404, "no such model")
    result = compare("--preset", "cogvlm", "--preset", "served", "--preset", "quick", "one.jpg", "--json")
    assert result.exit_code == 1
    refused, absent, ran, photo = records(result)
    assert (refused["preset"], absent["preset"], ran["preset"]) == ("cogvlm", "served", "quick")
    assert "preset cogvlm cannot be run: " in refused["error"]
    assert "no such model" in absent["error"]
    assert ran["photos"] == 1
    assert photo["found"] == {"quick": ["1042"]}


@pytest.mark.heavy
def test_a_preset_that_does_not_fit_the_stage_is_reported(compare: Compare, server: Server) -> None:
    serve(server)
    server.answer = lambda _: chat("A banner.")
    result = compare("--stage", "picture_description", "--preset", "quick", "--preset", "served", "one.jpg", "--json")
    assert result.exit_code == 1
    refused, ran, photo = records(result)
    assert "preset quick returns lines of text, but this stage needs replies" in refused["error"]
    assert ran["failed"] == 0
    assert "A banner." in photo["found"]["served"][0]


@pytest.mark.heavy
def test_an_unreadable_photo_is_reported_once(compare: Compare, server: Server) -> None:
    serve(server)
    server.answer = lambda _: chat(bibs("1042"))
    with Path("config.toml").open("a") as file:
        file.write('[presets.again]\nbase = "served"\n')
    Path("note.jpg").write_text("this is no photo at all")
    words = ("--preset", "served", "--preset", "again", "note.jpg", "gone.jpg", "one.jpg")
    result = compare(*words)
    assert result.exit_code == 1
    assert result.stderr.count("note.jpg: undecodable: not a photo") == 1
    assert result.stderr.count("gone.jpg: gone:") == 1
    assert "on 1 of 1 photos (100%)" in result.stdout
    assert "note.jpg" not in result.stdout
    assert "not a photo" in records(compare(*words, "--json"))[2]["errors"]["again"]


@pytest.mark.heavy
def test_a_photo_without_an_answer_counts_as_failed(
    compare: Compare, server: Server, draw: Callable[..., bytes]
) -> None:
    serve(server)

    def answer(asked: Asked) -> Any:
        return error(400, "a strange picture") if asked.picture.width == 500 else chat(bibs("1042"))

    server.answer = answer
    Path("odd.jpg").write_bytes(draw("7", size=(500, 200)))
    words = ("--preset", "served", "one.jpg", "odd.jpg")
    result = compare(*words, "--json")
    assert result.exit_code == 1
    preset, one, odd = records(result)
    assert (preset["photos"], preset["failed"]) == (2, 1)
    assert one["errors"] == {}
    assert odd["found"] == {}
    assert "a strange picture" in odd["errors"]["served"]
    assert "error: " in compare(*words).stdout


@pytest.mark.heavy
def test_the_preset_overrides_the_stages_own_model(compare: Compare) -> None:
    with Path("config.toml").open("a") as file:
        file.write('[stages.bib_number]\nmodel_options = "qwen-vllm"\nask_below = 1.0\n')
    result = compare("--preset", "quick", "one.jpg", "--json")
    assert result.exit_code == 0, result.output
    assert records(result)[0]["model"] == "PP-OCRv6-small"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("one.jpg",), "Missing option '--preset'"),
        (("--preset", "rapidorc", "one.jpg"), "unknown preset 'rapidorc'; did you mean 'rapidocr'?"),
        (("--preset", "quick"), "Missing argument 'FILE...'"),
        (("--preset", "quick", "--stage-bib-number-model", "quick", "one.jpg"), "set the same option; drop it"),
        (("--preset", "quick", "config.toml", "--labels", "labels.csv"), "labels.csv names none of the photos"),
    ],
)
def test_mistakes_are_usage_errors(compare: Compare, words: tuple[str, ...], message: str) -> None:
    result = compare(*words)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg,12\n", "must name the columns: file,bibs"),
        (b"file,bibs\n\xff", "cannot be read as labels"),
        (None, "No such"),
    ],
)
def test_bad_labels_are_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BibwatchError, match=message):
        read_labels(path, ["a.jpg"])


def test_labels_name_files_and_may_have_no_bibs(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\ufeffbibs,file\nm101  12,one.jpg\n,two.jpg\n3,three.jpg\n", encoding="utf-8")
    assert read_labels(path, ["x/one.jpg", "two.jpg", "four.jpg"]) == {"x/one.jpg": {"M101", "12"}, "two.jpg": set()}


@pytest.mark.parametrize(
    ("files", "photos", "found"),
    [
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "./b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),  # as given
        (["a/1.jpg", "b/1.jpg"], ["lists/b/1.jpg", "lists/a/1.jpg"], ["b/1.jpg", "a/1.jpg"]),  # from the CSV's folder
        (["../a/1.jpg", "../b/1.jpg"], ["b/1.jpg", "{}/a/1.jpg"], ["../b/1.jpg", "../a/1.jpg"]),
        (["1.jpg", "a/1.jpg"], ["lists/a/1.jpg", "1.jpg"], ["a/1.jpg", "1.jpg"]),
        (["lists/1.jpg", "1.jpg"], ["lists/1.jpg"], ["lists/1.jpg"]),  # as given comes first
        (["old/1.jpg", "2.jpg"], ["new/1.jpg", "new/2.jpg"], ["old/1.jpg", "2.jpg"]),  # by the name alone
        (["a/1.jpg"], ["b/1.jpg", "a/1.jpg"], [None, "a/1.jpg"]),  # that label is another photo's
        (["a/1.jpg", "b/1.jpg"], ["c/1.jpg", "a/1.jpg"], [None, "a/1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ["c/1.jpg"], "1.jpg may be a/1.jpg or b/1.jpg; "),
        (["1.jpg"], ["c/1.jpg", "2.jpg", "d/1.jpg"], "1.jpg may be c/1.jpg or d/1.jpg; "),
        (["1.jpg"], ["c/2.jpg", "d/2.jpg"], [None, None]),
    ],
)
def test_labels_match_by_path_then_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], photos: list[str], found: list[str | None] | str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists").mkdir()
    path = Path("lists", "labels.csv")
    path.write_text("file,bibs\n" + "".join(f"{file},{file}\n" for file in files))  # each label says whose it is
    photos = [photo.format(tmp_path) for photo in photos]
    if isinstance(found, str):
        with pytest.raises(BibwatchError, match=f"^lists/labels.csv: {found}"):
            read_labels(path, photos)
        return
    expected = {photo: {file.upper()} for photo, file in zip(photos, found, strict=True) if file}
    assert read_labels(path, photos) == expected


def test_the_score_by_hand() -> None:
    labels = {"a": frozenset({"1", "2"}), "b": frozenset[str](), "c": frozenset({"3"}), "d": frozenset({"4"})}
    answers = {
        "a": CompareResult(found=("1", "9")),
        "b": CompareResult(),
        "c": CompareResult(error="no sense"),
        "d": CompareResult(error="no photo", unreadable=True),
        "x/a": CompareResult(found=("5",)),
    }
    found = score(Trial("p", answers=answers), labels)
    assert (found.photos, found.exact, found.right, found.wrong, found.labelled) == (3, 1, 1, 1, 3)
    assert (found.precision, found.recall, found.f) == (1 / 2, 1 / 3, 2 / 5)
    nothing = score(Trial("p", answers={"b": CompareResult()}), labels)
    assert (nothing.precision, nothing.recall, nothing.f, nothing.exact) == (None, None, None, 1)


ANSWERS = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        CompareResult,
        found=st.frozensets(st.sampled_from("123")).map(lambda bibs: tuple(sorted(bibs))),
        error=st.sampled_from([None, None, "no"]),
    ),
    min_size=1,
)
LABELS = st.dictionaries(st.sampled_from("abc"), st.frozensets(st.sampled_from("123")))


@given(ANSWERS, LABELS)
def test_f_lies_between_precision_and_recall(
    answers: dict[str, CompareResult], labels: dict[str, frozenset[str]]
) -> None:
    found = score(Trial("p", answers=answers), labels)
    assert found.exact <= found.photos
    if found.precision is not None and found.recall is not None:
        assert found.f is not None
        assert min(found.precision, found.recall) - 1e-9 <= found.f <= max(found.precision, found.recall) + 1e-9


@given(ANSWERS, st.data())
def test_agreement_is_symmetric_and_complete_only_for_equal_answers(
    answers: dict[str, CompareResult], data: st.DataObject
) -> None:
    others = {
        path: data.draw(st.sampled_from([answer, CompareResult(found=("7",))])) for path, answer in answers.items()
    }
    one, other = Trial("p", answers=answers), Trial("q", answers=others)
    same, photos = agreement(one, other)
    assert (same, photos) == agreement(other, one)
    assert photos == len(answers)
    assert (same == photos) == (answers == others and all(answer.error is None for answer in answers.values()))


@pytest.mark.heavy
def test_a_process_that_dies_is_reported_as_the_presets_error(compare: Compare, server: Server) -> None:
    """The server kills its client, as the system does when memory runs out."""
    serve(server)

    def answer(_: Asked) -> None:
        (child,) = multiprocessing.active_children()
        child.kill()

    server.answer = answer
    result = compare("--preset", "served", "one.jpg", "--json")
    assert result.exit_code == 1
    assert records(result) == [{"preset": "served", "error": "its process was killed; is there enough memory?"}]
