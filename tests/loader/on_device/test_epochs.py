"""`tests/loader/test_epochs.py` on the device "cpu"."""

from __future__ import annotations

from tests.loader import test_epochs
from tests.loader.on_device.again import take

ROUTES = ("gpu",)  # what is copied is the same in both, and so is the order

take(globals(), test_epochs)
