"""What tests of packing share."""

from __future__ import annotations

import pytest

from tests.pack.inside import end_idle_workers


@pytest.fixture
def fresh_workers():
    """Workers that only this test uses."""
    end_idle_workers()
    yield
    end_idle_workers()
