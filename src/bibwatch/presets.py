"""The built-in presets; the registry makes options of them."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

BUILT_IN: Final = files("bibwatch") / "presets.toml"
