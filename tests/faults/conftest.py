"""The marker of the tests that inject faults; they run with ``make test-faults``."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Known under --strict-markers."""
    config.addinivalue_line("markers", "faults: killed processes, full disks and damaged files; run with make test-faults")
