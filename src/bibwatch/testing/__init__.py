"""What a plugin author's tests need: the contracts of bibwatch as test classes, and a model made in seconds."""

import pytest

# A failing assert shows its values only in modules that are rewritten before they are imported.
for _name in ("interpreters", "runtimes", "stages"):
    pytest.register_assert_rewrite(f"bibwatch.testing.{_name}")

from bibwatch.testing.interpreters import InterpreterConformance  # noqa: E402
from bibwatch.testing.runtimes import RuntimeConformance  # noqa: E402
from bibwatch.testing.stages import StageConformance  # noqa: E402

__all__ = ["InterpreterConformance", "RuntimeConformance", "StageConformance"]
