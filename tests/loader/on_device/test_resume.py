"""`tests/loader/test_resume.py` on the device "cpu"."""

from __future__ import annotations

from tests.loader import test_resume
from tests.loader.on_device.again import take

take(globals(), test_resume)
