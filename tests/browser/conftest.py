"""The fixtures of this folder; what they are made of is in labpage.py."""

from __future__ import annotations

import importlib.util

import pytest
from labpage import browser, chromium, lab, lab_after_run

__all__ = ["browser", "lab", "lab_after_run"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, where there is no browser to drive (in CI that is a failure)."""
    if item.get_closest_marker("browser") is None:
        return
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: it is in the extra `dev`")
    if chromium() is None:
        pytest.skip("no chromium: `apt-get install chromium`, or name one in the environment variable CHROMIUM")
