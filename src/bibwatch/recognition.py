"""Reading photo files with a stage: opened in batches, results in the order of the files.

Knows photo files and stages. Records nothing, and does not know what the results are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from bibwatch import images
from bibwatch.errors import PhotoError, one_line
from bibwatch.images import ImageLimits, Photo
from bibwatch.stages.base import Outcome, Stage

_MAX_LENGTH = 500  # characters of an error message
ReadResult = tuple[Photo, Outcome]  # the outcome has no error
Prepare = Callable[[Photo], Photo] | None  # applied to each photo before the stage reads it


def read(
    stage: Stage[Any], paths: Iterable[str], limits: ImageLimits, prepare: Prepare = None
) -> Iterator[tuple[str, ReadResult | Exception]]:
    """Yield each path, in order, with its photo and the stage's outcome, or with the error."""
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
    """Yield the files in batches of the model's size: each path with its photo or the error."""
    waiting = iter(paths)
    while batch := list(islice(waiting, stage.options.model_options.batch_size)):
        yield [(path, _open(path, limits, stage.longest_side, prepare)) for path in batch]


def reason(error: Exception) -> str:
    """Return an error as one line; the state comes first if the file could not be read as a photo."""
    state = f"{error.state}: " if isinstance(error, PhotoError) else ""
    return state + one_line(error, _MAX_LENGTH)


def _open(path: str, limits: ImageLimits, longest_side: int | None, prepare: Prepare) -> Photo | Exception:
    try:
        photo = images.open_photo(path, limits=limits, longest_side=longest_side)
        return prepare(photo) if prepare else photo
    except Exception as exc:  # noqa: BLE001  # one bad file must not fail the batch
        return exc
