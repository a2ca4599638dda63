"""Photos with known bibs: a CSV with the labels, and what lies beside it.

Knows the files and their columns. Does not know how readings are compared with the labels.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bibwatch.domain.box import Box
from bibwatch.domain.candidates import normalized
from bibwatch.errors import BibwatchError, one_line

EXTRAS, NOTES = "extras.csv", "label-notes.csv"
_SIDES = 4
_FEW = 3  # names that an error lists


@dataclass(frozen=True)
class Label:
    """A bib that is in a photo."""

    bib: str
    seen: tuple[str, ...] = ()  # what the notes say the photo shows; `?` is a character that cannot be made out
    box: Box | None = None  # in pixels of the upright photo

    def accepts(self, text: str) -> bool:
        """Return whether a text is this bib: as it is labelled, or as the notes say."""
        plain = normalized(text)
        return plain == self.bib or any(_is_like(plain, seen) for seen in self.seen)


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and all that is known of it."""

    file: str  # as the labels name it
    path: Path
    labels: tuple[Label, ...] = ()  # each bib once
    extras: frozenset[str] = frozenset()  # bibs whose reading is neither right nor wrong
    race: str = ""


def read_labels(path: Path, images: Path | None = None) -> list[LabelledPhoto]:
    """Read the labels of photos, with `extras.csv` and `label-notes.csv` of the same folder where they exist.

    The photos are in `images`; by default in the folder `images` beside the labels, or else in that of the labels.
    Raises BibwatchError for a file or a value that cannot be used, and for photos that are missing.
    """
    rows = list(_rows(path, "file", "bibs"))
    if not rows:
        raise BibwatchError(f"{path} names no photo; write one line for each, such as IMG_1.JPG,1042 317")
    if images is None:
        images = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    extras = _beside(path.parent / EXTRAS, "bib")
    notes = _beside(path.parent / NOTES, "labelled", "seen")
    photos: dict[str, LabelledPhoto] = {}
    for line, row in rows:
        file, where = row["file"], f"{path}, line {line}"
        if not file:
            raise BibwatchError(f"{where}: the column file is empty")
        if file in photos:
            raise BibwatchError(f"{where}: {file} is there twice; put all its bibs into one line")
        photos[file] = LabelledPhoto(
            file=file,
            path=images / file,
            labels=_labels(row["bibs"], row.get("boxes", ""), notes.get(file, []), where),
            extras=frozenset(normalized(bib) for (bib,) in extras.get(file, [])),
            race=row.get("race", ""),
        )
    missing = [file for file, photo in photos.items() if not photo.path.is_file()]
    if missing:
        few = ", ".join(missing[:_FEW]) + ", ..." * (len(missing) > _FEW)
        raise BibwatchError(
            f"{len(missing)} of the {len(photos)} photos of {path} are not in {images}: {few}; name their folder with "
            "--images"
        )
    return list(photos.values())


def _labels(bibs: str, boxes: str, notes: list[tuple[str, ...]], where: str) -> tuple[Label, ...]:
    if any(sign in bibs for sign in ",;"):
        raise BibwatchError(f"{where}: separate bibs by spaces: {bibs}")
    numbers = [normalized(bib) for bib in bibs.split()]
    places = _boxes(boxes, where) if boxes else [None] * len(numbers)
    if len(places) != len(numbers):
        raise BibwatchError(f"{where}: {len(numbers)} bibs, but {len(places)} boxes; give a box for each bib, or none")
    found: dict[str, Label] = {}
    for bib, box in zip(numbers, places, strict=True):
        seen = tuple(normalized(shown) for labelled, shown in notes if normalized(labelled) == bib and shown)
        found.setdefault(bib, Label(bib, seen, box))
    return tuple(found.values())


def _boxes(text: str, where: str) -> list[Box | None]:
    try:
        return [_box(sides) for sides in json.loads(text)]
    except (ValueError, TypeError) as exc:
        raise BibwatchError(f"{where}: the boxes are not JSON such as [[x1, y1, x2, y2]]: {one_line(exc)}") from exc


def _box(sides: list[float]) -> Box:
    numbers = [float(side) for side in sides]
    if len(numbers) != _SIDES or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{sides} is not four numbers")
    return Box(*numbers)


def _beside(path: Path, *columns: str) -> dict[str, list[tuple[str, ...]]]:
    """Return the values of some columns by file; none where there is no such table."""
    found: dict[str, list[tuple[str, ...]]] = {}
    if path.exists():
        for _, row in _rows(path, "file", *columns):
            found.setdefault(row["file"], []).append(tuple(row[column] for column in columns))
    return found


def _rows(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row of a CSV with its line number. Raises BibwatchError where a column is missing."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines, restkey="")
            missing = [column for column in columns if column not in (table.fieldnames or ())]
            if missing:
                raise BibwatchError(f"{path}: the first line must name the columns {','.join(columns)}")
            for row in table:
                if row.get(""):
                    raise BibwatchError(
                        f"{path}, line {table.line_num}: more values than columns; quote those with commas"
                    )
                yield table.line_num, {name: (value or "").strip() for name, value in row.items() if name}
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BibwatchError(f"{path} cannot be read as CSV: {one_line(exc)}") from exc


def _is_like(text: str, seen: str) -> bool:
    return len(text) == len(seen) and all(shown in {"?", char} for char, shown in zip(text, seen, strict=True))
