"""`tests/loader/test_lifetime.py` on the device "cpu"."""

from __future__ import annotations

from tests.loader import test_lifetime
from tests.loader.on_device.again import take

take(
    globals(),
    test_lifetime,
    but={
        # A program that makes its loader itself.
        "test_a_program_that_ends_in_the_middle_of_an_epoch_ends",
    },
)
