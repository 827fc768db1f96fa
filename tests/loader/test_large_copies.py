"""Large arrays in the user's code are mapped by the workers' copies, and stay each worker's own."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.loader import user_copies
from tests.datasets.packed import pack_numbered

COUNT = 48


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Samples whose `x` is full of their number, which is also their `y`."""
    return pack_numbered(tmp_path_factory.mktemp("numbered") / "ds", COUNT).url


class RememberingMuch:
    """As `Remembering`, in arrays so large that copies map them."""

    def __init__(self) -> None:
        self.array = np.zeros((600, 600), "f4")
        self.tensor = torch.zeros(2, 600, 600)[1]
        self.fixed = np.arange(1 << 20, dtype="u1")
        self.fixed.flags.writeable = False

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        assert not self.fixed.flags.writeable
        self.array[:6, :6] = sample["x"].numpy()
        self.tensor[:6, :6] = sample["x"]
        for _ in range(30):
            torch.rand(10).sum()  # lets go of Python's lock
        both = self.array[:6, :6] + self.tensor[:6, :6].numpy()
        return {"x": torch.from_numpy(both / 2), "y": sample["y"]}


@pytest.mark.parametrize("workers", [0, 4])
def test_values_never_meet_in_large_arrays_either(url: str, workers: int) -> None:
    transform = RememberingMuch()
    dataset = dp.Dataset(url, transform=transform, cache=False)
    for batch in dp.DataLoader(dataset, 3, num_workers=workers):
        assert torch.equal(batch["x"][:, 0, 0].double(), batch["y"])
    assert transform.array.any() == (workers == 0)
    assert bool(transform.tensor.any()) == (workers == 0)


MEMORY = """
import sys, numpy as np, torch
import dataplane as dp

def used_mib():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024

class Table:
    def __init__(self):
        self.array = np.ones((64, 1 << 20), "u1")
        self.tensor = torch.ones(64, 1 << 20, dtype=torch.uint8)
    def __call__(self, sample):
        return {"sum": int(self.array[:, ::4096].sum()) + int(self.tensor[:, ::4096].sum())}

dataset = dp.Dataset(sys.argv[1], transform=Table(), cache=False)
before = used_mib()
batches = iter(dp.DataLoader(dataset, 2, num_workers=6))
for _ in range(12):
    assert next(batches)["sum"].tolist() == [2 * 64 * 256] * 2
print(used_mib() - before)
"""


def test_what_is_large_is_in_memory_once_more_and_not_for_each_worker(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, url], check=True, capture_output=True, text=True, timeout=100
    )
    assert (
        100 < float(done.stdout) < 128 * 3
    )  # of 6 workers, each of which reads each page of 128 MiB


def copied(value: Any, count: int = 1) -> list[Any]:
    return user_copies.copies(value, count)


def test_what_is_read_only_stays_so_and_can_be_written_through_torch() -> None:
    given = np.frombuffer(bytes(4 << 20), "f4")
    (copy,) = copied(given)
    assert not copy.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of exactly that
        torch.from_numpy(copy)[:10].add_(1)
    assert copy[:11].tolist() == [1.0] * 10 + [0.0]
    assert not given.any()


def test_tensors_that_share_memory_share_it_in_the_copy_and_are_written_once() -> None:
    whole = torch.arange(1 << 20)
    given = [*whole.split(1 << 15), whole]
    one, other = copied(given, 2)
    one[0][0] = 77
    assert one[-1][0] == 77
    assert (other[-1][0], whole[0]) == (0, 0)
    assert all(map(torch.equal, other, given))


def test_tensors_that_begin_together_keep_their_lengths() -> None:
    memory = np.arange(1 << 20)
    given = [torch.from_numpy(memory[: 1 << 19]), torch.from_numpy(memory)]
    for order in (given, given[::-1]):
        (found,) = copied(order)
        assert all(map(torch.equal, found, order))


def test_a_copy_takes_one_descriptor_however_many_arrays_it_has() -> None:
    given = [np.full(1 << 20, number, "u1") for number in range(40)]
    before = len(os.listdir("/proc/self/fd"))
    made = copied(given, 3)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    for copy in made:
        assert all(map(np.array_equal, copy, given))
    del made, copy
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_is_mapped_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.arange(1 << 18, dtype="f8"))
    table = np.load(tmp_path / "table.npy", mmap_mode="r+")
    mapped, plain = copied([table, np.asarray(table)])[0]
    assert np.shares_memory(mapped, table)
    assert np.shares_memory(plain, table)
    private = np.load(tmp_path / "table.npy", mmap_mode="c")
    assert not np.shares_memory(copied(private)[0], private)


def test_a_default_device_is_not_that_of_what_is_copied() -> None:
    given = torch.arange(1 << 19)
    with torch.device("meta"):
        (found,) = copied(given)
    assert torch.equal(found, given)


def test_sparse_tensors_are_copied() -> None:
    (found,) = copied(torch.eye(3).to_sparse())
    assert torch.equal(found.to_dense(), torch.eye(3))
