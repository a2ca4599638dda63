"""Files to outcomes: opened in batches, read by a stage, given back in the order they came.

Knows photo files and stages. Records nothing, and does not know what becomes of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from bibwatch import images
from bibwatch.errors import PhotoError, one_line
from bibwatch.images import ImageLimits, Photo
from bibwatch.stages.base import Outcome, Stage

_LENGTH = 500  # characters of a reason that are kept
ReadResult = tuple[Photo, Outcome]  # the outcome has no error
Prepare = Callable[[Photo], Photo] | None  # what is done with each photo before the stage sees it


def read(
    stage: Stage[Any], paths: Iterable[str], limits: ImageLimits, prepare: Prepare = None
) -> Iterator[tuple[str, ReadResult | Exception]]:
    """Yield each path, in order, with its photo and what the stage made of it, or with why there is no answer."""
    for batch in batches(stage, paths, limits, prepare):
        outcomes = stage.read([photo for _, photo in batch if isinstance(photo, Photo)])
        for path, photo in batch:
            if isinstance(photo, Photo):
                outcome = next(outcomes)
                yield path, outcome.error or (photo, outcome)
            else:
                yield path, photo


def batches(
    stage: Stage[Any], paths: Iterable[str], limits: ImageLimits, prepare: Prepare = None
) -> Iterator[list[tuple[str, Photo | Exception]]]:
    """Yield the files in batches of the model's size: each path with its photo or why there is none."""
    waiting = iter(paths)
    while batch := list(islice(waiting, stage.options.model_options.batch_size)):
        yield [(path, _open(path, limits, stage.longest_side, prepare)) for path in batch]


def reason(error: Exception) -> str:
    """Say on one line why there is no answer; of a file that is no photo its state comes first."""
    state = f"{error.state}: " if isinstance(error, PhotoError) else ""
    return state + one_line(error, _LENGTH)


def _open(path: str, limits: ImageLimits, longest_side: int | None, prepare: Prepare) -> Photo | Exception:
    try:
        photo = images.open_photo(path, limits=limits, longest_side=longest_side)
        return prepare(photo) if prepare else photo
    except Exception as exc:  # noqa: BLE001  # no path, and no photo, may cost its neighbours their answers
        return exc
