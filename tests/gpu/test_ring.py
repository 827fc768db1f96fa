"""The ring of pinned buffers, on a stream that runs late."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from dataplane.errors import LoaderError
from dataplane.gpu.device import CpuDevice
from dataplane.gpu.ring import ALIGN, PinnedRing
from tests.gpu.fakes import LateDevice


def send(ring: PinnedRing, device: LateDevice, value: int, count: int = 100) -> torch.Tensor:
    """Fill a slot, queue its copy, and release it behind that."""
    slot = ring.acquire()
    tensor, array = slot.allocate((count,), np.dtype("i4"))
    array[...] = value
    target = slot.upload(tensor)
    ring.release(slot, device.mark())
    return target


def test_a_slot_is_not_written_before_its_copies_are_done() -> None:
    device = LateDevice()
    ring = PinnedRing(device, slots=2)
    sent = [send(ring, device, value) for value in range(7)]
    assert device.ran == 5  # what the two slots that are lent last still hold has not run
    device.run_until(7)
    assert [one.unique().tolist() for one in sent] == [[value] for value in range(7)]


def test_the_host_waits_only_for_the_slot_that_it_takes() -> None:
    device = LateDevice()
    ring = PinnedRing(device, slots=2)
    for value in range(4):
        send(ring, device, value)
    happened = [what for what in device.log if what != "pinned"]
    assert happened == [
        *("copy", "mark 1", "copy", "mark 2"),
        *("wait 1", "copy", "mark 3"),
        *("wait 2", "copy", "mark 4"),
    ]


def test_a_ring_that_did_not_wait_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    device = LateDevice()
    ring = PinnedRing(device, slots=2)
    monkeypatch.setattr("tests.gpu.fakes.LateEvent.wait", lambda self: None)
    sent = [send(ring, device, value) for value in range(4)]
    device.run_until(4)
    assert [one.unique().tolist() for one in sent] == [[2], [3], [2], [3]]


def test_what_is_in_the_slot_is_not_copied_again_and_other_memory_is() -> None:
    device = LateDevice()
    slot = PinnedRing(device).acquire()
    inside, array = slot.allocate((5, 3), np.dtype("f4"))
    array[...] = 1
    outside = torch.arange(10.0)
    assert slot.holds(inside)
    assert slot.holds(inside[1:])
    assert not slot.holds(inside.T)
    assert not slot.holds(outside)
    targets = [slot.upload(inside), slot.upload(outside), slot.upload(inside.T)]
    outside.zero_()
    device.run_until(3)
    assert torch.equal(targets[0], torch.ones(5, 3))
    assert torch.equal(targets[1], torch.arange(10.0))
    assert torch.equal(targets[2], torch.ones(3, 5))


def test_arrays_begin_at_cache_lines_and_do_not_overlap() -> None:
    slot = PinnedRing(CpuDevice()).acquire()
    arrays = [slot.allocate((size,), np.dtype("u1"))[1] for size in (1, 63, 64, 65, 0, 3 << 20, 9)]
    for number, array in enumerate(arrays):
        assert not array.size or array.ctypes.data % ALIGN == 0
        array[...] = number
    assert all((array == number).all() for number, array in enumerate(arrays))


def test_a_slot_that_grew_has_one_buffer_for_all_of_it_the_next_time() -> None:
    device = LateDevice()
    ring = PinnedRing(device, slots=1)
    counts = []
    for _ in range(4):
        slot = ring.acquire()
        before = device.log.count("pinned")
        for _ in range(5):
            slot.bytes(1 << 20)
        counts.append(device.log.count("pinned") - before)
        ring.release(slot, device.mark())
    assert counts[0] > 1
    assert counts[1:] == [0, 0, 0]
    assert device.log.count("pinned") == counts[0] + 1


def test_who_waits_for_a_slot_gets_it_when_it_is_released() -> None:
    ring = PinnedRing(CpuDevice(), slots=1)
    slot = ring.acquire()
    got = []
    waiter = threading.Thread(target=lambda: got.append(ring.acquire()))
    waiter.start()
    ring.release(slot, None)
    waiter.join(60)
    assert got == [slot]


def test_a_closed_ring_wakes_who_waits_and_lends_nothing() -> None:
    ring = PinnedRing(CpuDevice(), slots=1)
    ring.acquire()
    failed: list[str] = []

    def wait() -> None:
        try:
            ring.acquire()
        except LoaderError as err:
            failed.append(str(err))

    waiter = threading.Thread(target=wait)
    waiter.start()
    ring.close()
    waiter.join(60)
    assert failed == ["the loader was closed while a batch was made"]
    with pytest.raises(LoaderError, match="closed"):
        ring.acquire()


def test_values_come_back_from_the_device_through_the_slot() -> None:
    device = LateDevice()
    slot = PinnedRing(device).acquire()
    back = slot.download(torch.arange(12).reshape(3, 4))
    device.run_until(1)
    assert torch.equal(back, torch.arange(12).reshape(3, 4))
    assert slot.holds(back)


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4", "u8", "i4", "f2", "f8", "c8", "c16"])
def test_what_is_lent_has_the_storage_of_its_buffer(dtype: str) -> None:
    """Torch's allocator finds the pinned memory that a copy reads by its storage."""
    slot = PinnedRing(CpuDevice()).acquire()
    buffer = slot.bytes(10)
    for shape in ((), (3, 4), (0, 2)):
        tensor, array = slot.allocate(shape, np.dtype(dtype))
        assert tensor.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        assert (tuple(tensor.shape), array.dtype) == (shape, np.dtype(dtype))
        array[...] = 1
        assert torch.equal(tensor, torch.ones(shape, dtype=tensor.dtype))
