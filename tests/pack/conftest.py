"""What tests of packing share."""

from __future__ import annotations

import pytest

from dataplane.pack.vtk import subprocess_reader


@pytest.fixture
def fresh_workers():
    """Workers that only this test uses."""
    subprocess_reader._close_idle()
    yield
    subprocess_reader._close_idle()
