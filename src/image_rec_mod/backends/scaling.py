"""Pictures made to fit: in memory, or as a file of their own that is gone once the photo has been read.

Knows pictures and temporary folders. Never writes beside a photo.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from pathlib import Path

from PIL import Image

from bibwatch.errors import ConfigurationError
from bibwatch.images import ImageLimits, open_photo, shrink

_FOLDER: ContextVar[str | None] = ContextVar("folder of the files that are being read", default=None)


class ImageScaler:
    """Makes pictures fit into a width and a height in pixels; either may be left open."""

    def __init__(self, scale_width: int | None = None, scale_height: int | None = None) -> None:
        for name, side in (("scale_width", scale_width), ("scale_height", scale_height)):
            if side is not None and not (isinstance(side, Real) and side >= 1):
                raise ConfigurationError(f"{name} = {side!r} is no number of pixels: give 1 or more, or None")
        self.scale_width = scale_width
        self.scale_height = scale_height

    def scale(self, image: Image.Image) -> Image.Image:
        """Return the RGB picture, smaller if it does not fit: proportions are kept, nothing is enlarged."""
        width, height = image.size
        factor = min((self.scale_width or width) / width, (self.scale_height or height) / height)
        return shrink(image, max(1, int(max(image.size) * factor)))

    def scale_file(self, image_path: str, limits: ImageLimits | None = None) -> str:
        """Return the path of a photo that fits: the photo's own, or that of a smaller, upright copy.

        The copy is removed when `copies_removed` ends; outside of it that is left to the caller. Raises PhotoError.
        """
        image = open_photo(image_path, limits=limits).image
        scaled = self.scale(image)
        if scaled.size == image.size:
            return image_path
        suffix = f"-{Path(image_path).stem[:50]}.png"
        with tempfile.NamedTemporaryFile(dir=_FOLDER.get(), suffix=suffix, delete=False) as file:
            scaled.save(file, "PNG", compress_level=1)
        return file.name


@contextmanager
def copies_removed() -> Iterator[None]:
    """Remove the copies that are made inside of the `with`."""
    with tempfile.TemporaryDirectory(prefix="bibwatch-") as folder:
        token = _FOLDER.set(folder)
        try:
            yield
        finally:
            _FOLDER.reset(token)
