"""`tests/loader/test_epochs.py` on the device "cpu"."""

from __future__ import annotations

from tests.loader import test_epochs
from tests.loader.on_device.again import take

take(globals(), test_epochs)
