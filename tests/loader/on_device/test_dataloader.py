"""`tests/loader/test_dataloader.py` on the device "cpu"."""

from __future__ import annotations

from tests.loader import test_dataloader
from tests.loader.on_device.again import take

take(
    globals(),
    test_dataloader,
    but={
        # Batches in pinned memory, which a loader with a device does not make.
        "test_pinning_without_an_accelerator_warns_as_torch_does",
        "test_batches_are_pinned_on_request",
        # The stages by name: test_device.py has those of a loader with a device.
        "test_statistics_say_what_was_done_and_who_was_waited_for",
    },
)
