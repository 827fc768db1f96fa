"""What tests of packing share."""

from __future__ import annotations

import pytest

from dataplane.pack import apart


@pytest.fixture
def fresh_workers():
    """Workers that only this test uses."""
    apart._close_idle()
    yield
    apart._close_idle()
