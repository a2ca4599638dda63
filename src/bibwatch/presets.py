"""Built-in presets: model options with a name. Data, not code; the registry makes options of them.

A preset of your own, or a changed one, goes into config.toml: `[presets.NAME]`, with `kind` or `base`.
"""

from __future__ import annotations

from typing import Any

BUILT_IN: dict[str, dict[str, Any]] = {
    "rapidocr": {"kind": "vision_ocr"},
}
