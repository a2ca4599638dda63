"""The built-in presets, as a file; the registry turns them into options."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

BUILT_IN: Final = files("bibwatch") / "presets.toml"
