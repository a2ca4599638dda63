"""Scales images to fit, in memory or as temporary files that are removed once the photo has been read.

Knows images and temporary folders. Never writes next to a photo.
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

_FOLDER: ContextVar[str | None] = ContextVar("folder of temporary copies", default=None)


class ImageScaler:
    """Scales images down to a width and a height in pixels; either may be None."""

    def __init__(self, scale_width: int | None = None, scale_height: int | None = None) -> None:
        for name, side in (("scale_width", scale_width), ("scale_height", scale_height)):
            if side is not None and not (isinstance(side, Real) and side >= 1):
                raise ConfigurationError(f"{name} = {side!r} is not a number of pixels: use 1 or more, or None")
        self.scale_width = scale_width
        self.scale_height = scale_height

    def scale(self, image: Image.Image) -> Image.Image:
        """Return the RGB image, scaled down if it does not fit. Keep proportions; never enlarge."""
        width, height = image.size
        factor = min((self.scale_width or width) / width, (self.scale_height or height) / height)
        return shrink(image, max(1, int(max(image.size) * factor)))

    def scale_file(self, image_path: str, limits: ImageLimits | None = None) -> str:
        """Return the path of the photo, or of a smaller, upright copy if it does not fit. Raise PhotoError.

        The copy is removed at the end of `copies_removed`; without it, the caller must remove it.
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
    """Remove the copies made inside the `with` block."""
    with tempfile.TemporaryDirectory(prefix="bibwatch-") as folder:
        token = _FOLDER.set(folder)
        try:
            yield
        finally:
            _FOLDER.reset(token)
