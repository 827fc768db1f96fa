"""The pool lends memory once at a time, takes it back, and stays within its bounds."""

from __future__ import annotations

import gc
import mmap
import os
import threading

import numpy as np
import pytest
import torch

from dataplane.buffers import MIN_POOLED_BYTES, BufferPool, shared_pool, slab_bytes
from dataplane.errors import ConfigError

FLOAT = np.dtype("float32")
COUNT = MIN_POOLED_BYTES  # elements: four times what is pooled at least


def test_memory_is_reused_after_the_array_dies() -> None:
    pool = BufferPool()
    first = pool.array((COUNT,), FLOAT)
    address = first.ctypes.data
    del first
    second = pool.array((COUNT,), FLOAT)
    assert second.ctypes.data == address
    assert (pool.allocated_count, pool.reused_count) == (1, 1)


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array,
        lambda array: array[10:20],
        lambda array: array.reshape(2, -1)[1],
        lambda array: array.view(np.uint8)[3:],
        lambda array: array[5:].reshape(-1)[1:].view(np.int32),
        torch.from_numpy,
        lambda array: torch.from_numpy(array)[7:9],
        lambda array: torch.from_numpy(array).numpy(),
        lambda array: torch.from_numpy(array)[4:].view(torch.int32).numpy()[2:],
        torch.from_dlpack,
        lambda array: torch.from_numpy(array).untyped_storage(),
        memoryview,
    ],
)
def test_memory_is_not_reused_while_anything_made_from_it_lives(keep) -> None:
    pool = BufferPool()
    kept = keep(pool.array((COUNT,), FLOAT))
    gc.collect()
    pool.array((COUNT,), FLOAT)[:] = 1
    assert pool.allocated_count == 2
    del kept
    gc.collect()
    assert pool.free_bytes == 2 * slab_bytes(COUNT * 4)


def test_live_arrays_never_overlap() -> None:
    pool = BufferPool()
    rng = np.random.default_rng(0)
    live: list[tuple[np.ndarray, int]] = []
    for tag in range(300):
        array = pool.array((int(rng.integers(COUNT, 3 * COUNT)),), FLOAT)
        array[:] = tag
        live.append((array, tag))
        while len(live) > 8:
            array, expected = live.pop(int(rng.integers(len(live))))
            assert (array == expected).all()
    assert pool.reused_count > 100


def test_sizes_that_differ_a_little_share_memory() -> None:
    pool = BufferPool()
    pool.array((COUNT,), FLOAT)
    pool.array((COUNT - COUNT // 16,), FLOAT)
    assert pool.allocated_count == 1


def test_the_best_fit_that_was_freed_last_is_lent() -> None:
    pool = BufferPool()
    sizes = (MIN_POOLED_BYTES * 9 // 8, MIN_POOLED_BYTES, MIN_POOLED_BYTES)
    large, first, second = (pool.array((size,), np.dtype("u1")) for size in sizes)
    places = [array.ctypes.data for array in (large, first, second)]
    del large, first
    del second
    lent = [pool.array((MIN_POOLED_BYTES,), np.dtype("u1")) for _ in range(3)]
    assert [array.ctypes.data for array in lent] == [places[2], places[1], places[0]]
    assert pool.allocated_count == 3
    assert pool.free_bytes == 0


def test_a_lease_does_not_look_at_every_free_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small blocks are free at times, and each lease looked at all of them."""
    looked = 0

    class Slab(mmap.mmap):
        def __len__(self) -> int:
            nonlocal looked
            looked += 1
            return super().__len__()

    monkeypatch.setattr(
        "dataplane.buffers._allocate", lambda size_bytes: Slab(-1, size_bytes, mmap.MAP_PRIVATE)
    )
    pool = BufferPool()
    arrays = [pool.array((MIN_POOLED_BYTES,), np.dtype("u1")) for _ in range(500)]
    arrays.clear()
    assert pool.free_bytes == 500 * MIN_POOLED_BYTES
    looked = 0
    kept = [pool.array((MIN_POOLED_BYTES,), np.dtype("u1")) for _ in range(100)]
    assert looked <= 5 * len(kept)
    assert pool.reused_count == len(kept)


def test_idle_memory_is_bounded() -> None:
    pool = BufferPool(max_free_bytes=3 * slab_bytes(COUNT * 4))
    arrays = [pool.array((COUNT,), FLOAT) for _ in range(10)]
    del arrays
    assert pool.free_bytes == 3 * slab_bytes(COUNT * 4)
    pool.clear()
    assert pool.free_bytes == 0


def test_small_arrays_do_not_come_from_the_pool() -> None:
    pool = BufferPool()
    assert pool.array((3, 5), FLOAT).shape == (3, 5)
    assert pool.array((0, 3), FLOAT).shape == (0, 3)
    assert pool.array((), FLOAT).shape == ()
    assert pool.allocated_count == 0


@pytest.mark.parametrize("nbytes", [1, 4096, 4097, 100_000, 2**20, 2**20 + 1, 10**9 + 7])
def test_slab_sizes_hold_the_request_and_waste_an_eighth_at_most(nbytes: int) -> None:
    size = slab_bytes(nbytes)
    assert size >= nbytes
    assert size % 4096 == 0
    assert size <= nbytes * 1.125 + 4096


def test_threads_never_get_the_same_memory() -> None:
    pool = BufferPool()
    wrong: list[int] = []

    def work(tag: int) -> None:
        for _ in range(200):
            array = pool.array((COUNT,), FLOAT)
            array[:] = tag
            if not (array == tag).all():
                wrong.append(tag)

    threads = [threading.Thread(target=work, args=(tag,)) for tag in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.allocated_count <= 8


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_write_into_the_memory_of_its_parent() -> None:
    pool = shared_pool()
    array = pool.array((COUNT,), FLOAT)
    array[:] = 1
    pid = os.fork()
    if pid == 0:
        array[:] = 2
        fresh = shared_pool() is not pool and shared_pool().reused_count == 0
        del array
        os._exit(0 if fresh else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (array == 1).all()


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ConfigError):
        BufferPool(max_free_bytes=-1)
