"""Labels of photos: the files, and how mistakes in them are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from bibwatch.domain.box import Box
from bibwatch.errors import BibwatchError
from bibwatch.labels import Label, LabelledPhoto, read_labels


def labels(folder: Path, text: str, *photos: str) -> Path:
    """Write labels, and a file for each photo they name."""
    for name in photos:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_bibs_boxes_and_race_of_each_photo(tmp_path: Path) -> None:
    text = 'file,bibs,boxes,race\na.jpg,0042 m10151,"[[1, 2, 3, 4], [5, 6, 7, 8.5]]",spring\nb.jpg,,,\n'
    one, other = read_labels(labels(tmp_path, text, "a.jpg", "b.jpg"))
    assert one.labels == (Label("0042", box=Box(1, 2, 3, 4)), Label("M10151", box=Box(5, 6, 7, 8.5)))
    assert one.race == "spring"
    assert other == LabelledPhoto("b.jpg", tmp_path / "b.jpg")


def test_what_lies_beside_the_labels_is_used(tmp_path: Path) -> None:
    (tmp_path / "extras.csv").write_text("file,bib,note\na.jpg,77,behind\na.jpg,s78,\nelsewhere.jpg,1,\n")
    (tmp_path / "label-notes.csv").write_text("file,labelled,seen\na.jpg,359,3594\na.jpg,42,4?\nb.jpg,5,6\n")
    (photo,) = read_labels(labels(tmp_path, "file,bibs\na.jpg,359 42 5\n", "a.jpg"))
    assert photo.extras == {"77", "S78"}
    assert photo.labels == (Label("359", ("3594",)), Label("42", ("4?",)), Label("5"))


def test_a_bib_labelled_twice_is_one(tmp_path: Path) -> None:
    (photo,) = read_labels(labels(tmp_path, 'file,bibs,boxes\na.jpg,7 7,"[[0,0,1,1],[2,2,3,3]]"\n', "a.jpg"))
    assert photo.labels == (Label("7", box=Box(0, 0, 1, 1)),)


@pytest.mark.parametrize(
    ("label", "text", "same"),
    [
        (Label("M10151"), "m 10151", True),
        (Label("0042"), "42", False),
        (Label("359", ("3594",)), "359", True),
        (Label("359", ("3594",)), "3594", True),
        (Label("359", ("3594",)), "594", False),
        (Label("3521", ("352?",)), "3527", True),
        (Label("3521", ("352?",)), "352", False),
        (Label("3521", ("352?",)), "3627", False),
    ],
)
def test_a_label_accepts_what_is_labelled_and_what_the_notes_say(label: Label, text: str, *, same: bool) -> None:
    assert label.accepts(text) is same


def test_photos_lie_beside_the_labels_in_images_or_where_it_is_said(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,bibs\nx/a.jpg,1\n", "x/a.jpg", "images/x/a.jpg", "other/x/a.jpg")
    assert read_labels(path)[0].path == tmp_path / "images/x/a.jpg"
    assert read_labels(path, tmp_path / "other")[0].path == tmp_path / "other/x/a.jpg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.jpg\n", "the first line must name the columns file,bibs"),
        ("", "the first line must name the columns file,bibs"),
        ("file,bibs\n", "names no photo"),
        ("file,bibs\n,12\n", "line 2: the column file is empty"),
        ("file,bibs\na.jpg,1\na.jpg,2\n", "line 3: a.jpg is there twice"),
        ("file,bibs\na.jpg,1,2\n", "line 2: more values than columns"),
        ('file,bibs\na.jpg,"1, 2"\n', "line 2: separate bibs by spaces: 1, 2"),
        ("file,bibs,boxes\na.jpg,1 2,[]\n", "line 2: 2 bibs, but 0 boxes"),
        ("file,bibs,boxes\na.jpg,1,x\n", "line 2: the boxes are not JSON such as [[x1, y1, x2, y2]]"),
        ('file,bibs,boxes\na.jpg,1,"[[1,2,3]]"\n', "line 2: the boxes are not JSON such as [[x1, y1, x2, y2]]"),
        ('file,bibs,boxes\na.jpg,1,"[[1,2,3,NaN]]"\n', "line 2: the boxes are not JSON"),
        ("file,bibs,boxes\na.jpg,1,7\n", "line 2: the boxes are not JSON"),
        ("file,bibs\na.jpg,1\nb.jpg,2\nc.jpg,\nd.jpg,\ne.jpg,\n", "4 of the 5 photos"),
        ("file,bibs\nb.jpg,2\n", "b.jpg; name their folder with --images"),
        ("file,bibs\n\0\xff,2\n", "cannot be read as CSV"),
    ],
)
def test_mistakes_are_told_on_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = labels(tmp_path, "", "a.jpg")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BibwatchError) as raised:
        read_labels(path)
    assert message in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_a_file_beside_the_labels_is_held_to_its_columns(tmp_path: Path) -> None:
    path = labels(tmp_path, "file,bibs\na.jpg,1\n", "a.jpg")
    (tmp_path / "extras.csv").write_text("file,number\na.jpg,1\n")
    with pytest.raises(BibwatchError, match=r"extras.csv: the first line must name the columns file,bib"):
        read_labels(path)


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BibwatchError, match=r"none.csv cannot be read as CSV: .*No such file"):
        read_labels(tmp_path / "none.csv")
