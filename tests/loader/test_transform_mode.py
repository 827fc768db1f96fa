"""The user's code in worker processes gives what it gives in threads, and in none."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, get_worker_info

import dataplane as dp
from tests.cache.fakes import wait_until
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.test_lifetime import assert_no_loader_threads
from tests.loader.test_user_copies import draw, drawn

NAMES = ["fields/velocity", "global_data/mach"]


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, NAMES, cache=False) as opened:
        yield opened


def in_processes(dataset: Any, **given: Any) -> dp.DataLoader[Any]:
    arguments = {"batch_size": 2, "num_workers": 2, "transform_mode": "process", **given}
    return dp.DataLoader(dataset, **arguments)


def where(sample: dict[str, Any]) -> dict[str, Any]:
    info = get_worker_info()
    return {"id": info.id, "pid": os.getpid(), "of": info.num_workers, "key": sample["__key__"]}


def has_ended(pid: int) -> bool:
    """Whether a child is no more, but for its parent's look at how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_values_are_those_that_threads_give(dataset: dp.Dataset) -> None:
    factor = 3

    def scaled(sample: dict[str, Any]) -> dict[str, Any]:
        noise = torch.rand(()) + np.random.rand()
        return {"v": sample["fields/velocity"] * factor, "noise": noise, "k": sample["__key__"]}

    dataset.transform = scaled
    found = []
    for mode, workers in (("thread", 2), ("process", 2), ("process", 1), ("thread", 0)):
        loader = dp.DataLoader(
            dataset, 3, shuffle=True, seed=4, num_workers=workers, transform_mode=mode
        )
        found.append([batch for _ in range(2) for batch in loader])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert one["k"] == same["k"]
            assert torch.equal(one["v"], same["v"])
            assert torch.equal(one["noise"], same["noise"])


def test_processes_stay_from_pass_to_pass_and_end_with_their_loader(dataset: dp.Dataset) -> None:
    dataset.transform = where
    loader = in_processes(dataset)
    passes = [list(loader) for _ in range(3)]
    pids = {int(pid) for batches in passes for batch in batches for pid in batch["pid"]}
    assert len(pids) == 2
    assert os.getpid() not in pids
    for batches in passes:
        assert [batch["id"].tolist()[0] for batch in batches] == [n % 2 for n in range(6)]
    del loader
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_each_pass_has_a_fresh_copy_unless_workers_are_persistent(dataset: dp.Dataset) -> None:
    class Counting:
        def __init__(self) -> None:
            self.count = 0

        def __call__(self, sample: dict[str, Any]) -> int:
            self.count += 1
            return self.count

    for mode in ("thread", "process"):
        for persistent in (False, True):
            dataset.transform = Counting()
            loader = in_processes(
                dataset, batch_size=1, num_workers=1, transform_mode=mode,
                persistent_workers=persistent,
            )  # fmt: skip
            counts = [int(batch[0]) for _ in range(2) for batch in loader]
            first = list(range(1, SAMPLES + 1))
            second = [SAMPLES * persistent + count for count in first]
            assert counts == first + second
            assert dataset.transform.count == 0


def test_what_code_draws_is_the_same_in_processes(dataset: dp.Dataset) -> None:
    def of_number(sample: dict[str, Any]) -> dict[str, Any]:
        return draw({"y": sample["global_data/mach"]})

    dataset.transform = of_number
    expected = drawn(dp.DataLoader(dataset, 3, seed=2))
    assert drawn(in_processes(dataset, seed=2)) == expected


_kept = np.zeros(3)


def keeping(sample: dict[str, Any]) -> dict[str, Any]:
    _kept[:] = float(sample["global_data/mach"])
    return {"pid": os.getpid(), "mach": _kept.copy()}


def test_code_that_keeps_a_module_s_variable_has_one_in_each_process(dataset: dp.Dataset) -> None:
    dataset.transform = keeping
    pids = {int(pid) for batch in in_processes(dataset) for pid in batch["pid"]}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not _kept.any()
    loader = dp.DataLoader(dataset, num_workers=2, transform_mode="thread")
    with pytest.warns(UserWarning, match=r"test_transform_mode\._kept, of which there is one"):
        assert {int(pid) for batch in loader for pid in batch["pid"]} == {os.getpid()}


def test_code_that_cannot_be_sent_is_refused_where_processes_are_asked_for(
    dataset: dp.Dataset,
) -> None:
    lock = threading.Lock()

    def locked(sample: dict[str, Any]) -> dict[str, Any]:
        with lock:
            return sample

    dataset.transform = locked
    with pytest.raises(dp.ConfigError, match="cannot be sent to a process"):
        list(in_processes(dataset))


def test_an_error_in_a_process_takes_the_place_of_its_batch(dataset: dp.Dataset) -> None:
    def broken(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "case-004":
            raise KeyError("no such boundary")
        return {"k": sample["__key__"]}

    dataset.transform = broken
    batches = iter(in_processes(dataset))
    assert [next(batches)["k"] for _ in range(2)] == [
        ["case-000", "case-001"],
        ["case-002", "case-003"],
    ]
    with pytest.raises(KeyError, match="no such boundary") as caught:
        next(batches)
    assert any("case-004" in note for note in caught.value.__notes__)
    assert [batch["k"][0] for batch in batches] == ["case-006", "case-008", "case-010"]


def test_a_process_that_is_killed_is_an_error_and_not_a_hang(dataset: dp.Dataset) -> None:
    dataset.transform = where
    loader = in_processes(dataset, num_workers=1)
    batches = iter(loader)
    pid = int(next(batches)["pid"][0])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="dp-worker-0"):
        list(batches)
    del batches
    gc.collect()
    assert_no_loader_threads()  # a pass that nobody refers to ends, whatever was raised in it
    # The next pass has another process in its place.
    assert {int(other) for batch in loader for other in batch["pid"]}.isdisjoint({pid})


def test_a_persistent_process_that_is_killed_is_replaced_in_the_next_pass(
    dataset: dp.Dataset,
) -> None:
    dataset.transform = where
    loader = in_processes(dataset, num_workers=1, persistent_workers=True)
    pid = int(next(iter(loader))["pid"][0])
    os.kill(pid, signal.SIGKILL)
    wait_until(partial(has_ended, pid))  # what is killed goes on until it is scheduled
    assert len({int(other) for batch in loader for other in batch["pid"]} - {pid}) == 1


def test_a_class_of_the_users_reads_in_the_processes(packed: Packed) -> None:
    class Pairs(torch.utils.data.Dataset[Any]):
        def __init__(self) -> None:
            self.inner = dp.Dataset(packed.url, NAMES, cache=False)

        def __len__(self) -> int:
            return len(self.inner) - 1

        def __getitem__(self, i: int) -> tuple[int, torch.Tensor]:
            one, other = self.inner[i], self.inner[i + 1]
            return os.getpid(), one["fields/velocity"] - other["fields/velocity"]

    dataset = Pairs()
    here = list(torch.utils.data.DataLoader(dataset, batch_size=2))
    there = list(in_processes(dataset))
    assert os.getpid() not in {int(pid) for batch in there for pid in batch[0]}
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one[1], other[1])
    some = list(in_processes(Subset(dataset, [3, 1])))
    assert torch.equal(some[0][1][0], dataset[3][1])


def test_arguments_of_where_code_runs_are_checked(dataset: dp.Dataset) -> None:
    with pytest.raises(dp.ConfigError, match='transform_mode must be "thread" or "process"'):
        dp.DataLoader(dataset, transform_mode="fiber")
    with pytest.raises(dp.ConfigError, match="is one string"):
        dp.DataLoader(dataset, ragged="points")


def test_what_is_left_out_in_a_process_counts(packed: Packed) -> None:
    def broken(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] in ("case-001", "case-007"):
            raise ValueError("not this one")
        return {"k": sample["__key__"]}

    with dp.Dataset(
        packed.url, NAMES, cache=False, transform=broken, transform_errors="skip"
    ) as dataset:
        for counted in (2, 4):
            assert sum(len(batch["k"]) for batch in in_processes(dataset)) == SAMPLES - 2
            assert dataset.counters["dataset_samples_skipped"] == counted


def test_a_tensor_in_shared_memory_stays_one_or_is_refused(dataset: dp.Dataset) -> None:
    class Curriculum:
        def __init__(self) -> None:
            self.step = torch.zeros(1).share_memory_()

        def __call__(self, sample: dict[str, Any]) -> float:
            return float(self.step)

    dataset.transform = transform = Curriculum()
    loader = dp.DataLoader(dataset, 1, num_workers=1, prefetch_factor=1)
    seen = []
    for step, batch in enumerate(loader):
        seen.append(float(batch[0]))
        transform.step.fill_(step + 1)
    assert seen[-1] > 0
    with pytest.raises(dp.ConfigError, match="a tensor in shared memory"):
        list(in_processes(dataset))
