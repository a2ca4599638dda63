"""Test support for plugin authors: bibwatch's contracts as test classes, and a tiny model."""

import pytest

# pytest shows the values of a failing assert only in modules registered before they are imported.
for _name in ("interpreters", "runtimes", "stages"):
    pytest.register_assert_rewrite(f"bibwatch.testing.{_name}")

from bibwatch.testing.interpreters import InterpreterConformance  # noqa: E402
from bibwatch.testing.runtimes import RuntimeConformance  # noqa: E402
from bibwatch.testing.stages import StageConformance  # noqa: E402

__all__ = ["InterpreterConformance", "RuntimeConformance", "StageConformance"]
