"""Workers, errors and time limits are as torch's loader has them.

Where the two can be compared, torch's own loader runs beside ours over the same dataset. What holds
for any dataset is tried over a packed one, a `Subset` of it and a class of the user's around it,
which the engine reads in three ways.
"""

from __future__ import annotations

import gc
import itertools
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    get_worker_info,
)

import dataplane as dp
from tests.cache.fakes import wait_until
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.inside import ready_count
from tests.loader.test_lifetime import assert_no_loader_threads
from tests.loader.torch_parity.kinds import (
    CODE,
    IN_WORKERS,
    KEYS,
    KINDS,
    NAMES,
    WORKERS,
    Around,
    dataset_of,
    key_of,
    keys_collated,
    keys_of,
    named,
)

# Workers.


_init: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()


def note_init(worker: int) -> None:
    info = get_worker_info()
    _init.put((worker, info.seed, torch.initial_seed()))


def _noted() -> list[tuple[int, int, int]]:
    found = []
    while not _init.empty():
        found.append(_init.get_nowait())
    return sorted(found)


@CODE
@pytest.mark.parametrize("persistent", [False, True])
def test_worker_init_fn_gets_each_number_and_finds_the_worker_s_seed(
    packed: Packed, kind: str, persistent: bool
) -> None:
    loader = dp.DataLoader(
        dataset_of(kind, packed, key_of),
        num_workers=3,
        worker_init_fn=note_init,
        persistent_workers=persistent,
    )
    bases = set()
    for number in range(2):
        list(loader)
        found = _noted()
        if persistent and number:
            assert found == []  # workers that stay are begun once
            continue
        assert [worker for worker, _, _ in found] == [0, 1, 2]
        assert all(seed == drawn for _, seed, drawn in found)
        (base,) = {seed - worker for worker, seed, _ in found}
        bases.add(base)
    assert len(bases) == 2 - persistent


@CODE
def test_worker_init_fn_is_not_called_without_workers(packed: Packed, kind: str) -> None:
    loader = dp.DataLoader(dataset_of(kind, packed, key_of), worker_init_fn=note_init)
    list(loader)
    assert _noted() == []


@IN_WORKERS
def test_what_worker_init_fn_does_to_the_dataset_of_its_worker_counts_there(
    plain: dp.Dataset, mode: Any
) -> None:
    class Marked(Around):
        mark = -1

        def __getitem__(self, i: int) -> Any:
            return self.mark

    def mark(worker: int) -> None:
        get_worker_info().dataset.mark = 10 + worker

    dataset = Marked(plain)
    loader = dp.DataLoader(dataset, 2, num_workers=2, worker_init_fn=mark, transform_mode=mode)
    assert [batch[0].item() for batch in loader] == [10, 11, 10, 11, 10, 11]
    assert dataset.mark == -1


def info_of(sample: Any) -> Any:
    info = get_worker_info()
    return None if info is None else (info.id, info.num_workers, info.seed, len(info.dataset))


@CODE
@IN_WORKERS
def test_worker_info_has_the_fields_of_torch_s(packed: Packed, kind: str, mode: Any) -> None:
    dataset = dataset_of(kind, packed, info_of)
    loader = dp.DataLoader(dataset, num_workers=2, transform_mode=mode, collate_fn=list)
    infos = [batch[0] for batch in loader]
    assert [info[0] for info in infos] == [n % 2 for n in range(SAMPLES)]
    assert {info[1] for info in infos} == {2}
    assert len({info[2] - info[0] for info in infos}) == 1
    assert {info[3] for info in infos} == {SAMPLES}
    assert get_worker_info() is None


@CODE
def test_there_is_no_worker_info_without_workers(packed: Packed, kind: str) -> None:
    loader = dp.DataLoader(dataset_of(kind, packed, info_of), collate_fn=list)
    assert {one for batch in loader for one in batch} == {None}


@CODE
@IN_WORKERS
def test_worker_info_cannot_be_changed(packed: Packed, kind: str, mode: Any) -> None:
    def change(sample: Any) -> str:
        try:
            get_worker_info().id = 7
        except Exception as err:
            return type(err).__name__
        return "changed"

    def as_torch_does() -> str:
        from torch.utils.data._utils.worker import WorkerInfo

        try:
            WorkerInfo(id=0, num_workers=1, seed=0, dataset=None).id = 7
        except Exception as err:
            return type(err).__name__
        return "changed"

    dataset = dataset_of(kind, packed, change)
    loader = dp.DataLoader(
        dataset, num_workers=1, transform_mode=mode, collate_fn=list, sampler=[0, 1]
    )
    assert [one for batch in loader for one in batch] == [as_torch_does()] * 2
    assert as_torch_does() != "changed"


@CODE
@IN_WORKERS
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_stay_keep_their_copies_and_others_get_new_ones(
    packed: Packed, kind: str, mode: Any, persistent: bool
) -> None:
    class Counting:
        count = 0

        def __call__(self, sample: Any) -> int:
            self.count += 1
            return self.count

    code = Counting()
    loader = dp.DataLoader(
        dataset_of(kind, packed, code),
        batch_size=None,
        num_workers=1,
        persistent_workers=persistent,
        transform_mode=mode,
    )
    assert list(loader) == list(range(1, SAMPLES + 1))
    code.count = 100  # workers that stay do not see it
    first = SAMPLES if persistent else 100
    assert list(loader) == list(range(first + 1, first + 1 + SAMPLES))
    assert code.count == 100


@CODE
def test_without_workers_the_user_s_own_objects_run(packed: Packed, kind: str) -> None:
    seen = []
    loader = dp.DataLoader(dataset_of(kind, packed, lambda sample: seen.append(sample) or 1))
    list(loader)
    assert [key_of(sample) for sample in seen] == KEYS


def test_a_process_computes_on_one_thread(plain: dp.Dataset) -> None:
    plain.transform = lambda sample: torch.get_num_threads()
    loader = dp.DataLoader(
        plain, num_workers=1, transform_mode="process", sampler=[0], collate_fn=list
    )
    assert list(loader) == [[1]]


@CODE
def test_code_may_read_a_loader_of_its_own(packed: Packed, kind: str) -> None:
    url = packed.url

    def code(sample: Any) -> int:
        inner = dp.DataLoader(dp.Dataset(url, NAMES, cache=False), 4)
        return sum(len(batch["__key__"]) for batch in inner)

    for workers in (0, 2):
        loader = dp.DataLoader(dataset_of(kind, packed, code), sampler=[0, 1], num_workers=workers)
        assert [batch.item() for batch in loader] == [SAMPLES, SAMPLES]


# Errors.


class Several(Exception):
    """An error that cannot be made of one text, as those of some libraries."""

    def __init__(self, where: str, number: int) -> None:
        super().__init__(f"{where}: {number}")
        self.where = where
        self.number = number

    def __reduce__(self) -> Any:
        return type(self), (self.where, self.number)


_ERRORS = [
    ValueError("bad"),
    KeyError("no\nname"),
    IndexError(4),
    OSError(2, "none"),
    Several("a", 1),
]


@CODE
@WORKERS
@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_of_the_dataset_keeps_its_type_and_the_next_batches_come(
    packed: Packed, kind: str, workers: int, error: Exception
) -> None:
    def broken(sample: dict[str, Any]) -> Any:
        if sample["__key__"] == "case-004":
            raise error
        return sample

    batches = iter(dp.DataLoader(dataset_of(kind, packed, broken), 2, num_workers=workers))
    assert keys_of(itertools.islice(batches, 2)) == named([[0, 1], [2, 3]])
    with pytest.raises(type(error)) as caught:
        next(batches)
    assert caught.value.args == error.args
    assert keys_of(batches) == named([[6, 7], [8, 9], [10]])


@CODE
def test_an_error_in_a_process_is_the_one_that_was_raised(packed: Packed, kind: str) -> None:
    def broken(sample: dict[str, Any]) -> Any:
        if sample["__key__"] == "case-001":
            raise Several("mesh", 3)
        return sample

    loader = dp.DataLoader(
        dataset_of(kind, packed, broken), num_workers=1, transform_mode="process"
    )
    batches = iter(loader)
    next(batches)
    with pytest.raises(Several) as caught:
        next(batches)
    assert (caught.value.where, caught.value.number) == ("mesh", 3)
    assert next(batches)["__key__"] == ["case-002"]


@KINDS
@WORKERS
def test_an_error_of_collate_fn_keeps_its_type_and_the_next_batches_come(
    dataset: Any, workers: int
) -> None:
    def collate(samples: list[Any]) -> list[str]:
        if samples[0]["__key__"] == "case-002":
            raise LookupError("in collate_fn")
        return keys_collated(samples)

    batches = iter(dp.DataLoader(dataset, 2, collate_fn=collate, num_workers=workers))
    assert next(batches) == ["case-000", "case-001"]
    with pytest.raises(LookupError, match="in collate_fn"):
        next(batches)
    assert next(batches) == ["case-004", "case-005"]


@CODE
@IN_WORKERS
def test_an_error_of_worker_init_fn_is_raised_by_the_loop(
    packed: Packed, kind: str, mode: Any
) -> None:
    def broken(worker: int) -> None:
        raise ZeroDivisionError(f"worker {worker}")

    loader = dp.DataLoader(
        dataset_of(kind, packed, key_of),
        num_workers=1,
        worker_init_fn=broken,
        transform_mode=mode,
    )
    with pytest.raises(ZeroDivisionError, match="worker 0"):
        next(iter(loader))


@KINDS
@WORKERS
def test_an_error_of_a_sampler_is_raised_behind_the_batches_before_it(
    dataset: Any, workers: int
) -> None:
    def sampler() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("in the sampler")

    batches = iter(dp.DataLoader(dataset, sampler=sampler(), num_workers=workers))
    assert keys_of(itertools.islice(batches, 2)) == named([[1], [2]])
    with pytest.raises(LookupError, match="in the sampler"):
        next(batches)


@CODE
@WORKERS
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exit_of_the_user_s_code_ends_the_pass_and_does_not_hang_it(
    packed: Packed, kind: str, workers: int, error: type[BaseException]
) -> None:
    def leaving(sample: dict[str, Any]) -> Any:
        raise error

    batches = iter(dp.DataLoader(dataset_of(kind, packed, leaving), num_workers=workers))
    # Of a worker it may be said by an error: torch's says that its worker is gone.
    with pytest.raises((error, RuntimeError)):
        next(batches)
    del batches
    gc.collect()
    assert_no_loader_threads()


# Time.


_may_go_on = threading.Event()


@CODE
def test_a_batch_that_does_not_come_in_time_is_a_runtime_error_that_says_so(
    packed: Packed, kind: str
) -> None:
    def waits(sample: Any) -> Any:
        _may_go_on.wait()
        return sample

    _may_go_on.clear()
    loader = dp.DataLoader(dataset_of(kind, packed, waits), num_workers=1, timeout=0.02)
    batches = iter(loader)
    try:
        with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.02 seconds"):
            next(batches)
    finally:
        _may_go_on.set()


_made: queue.SimpleQueue[str] = queue.SimpleQueue()


@CODE
@pytest.mark.parametrize("factor", [1, 3])
def test_no_more_batches_are_made_ahead_than_prefetch_factor_asks_for(
    packed: Packed, kind: str, factor: int
) -> None:
    def made(sample: Any) -> Any:
        _made.put(key_of(sample))
        return sample

    loader = dp.DataLoader(dataset_of(kind, packed, made), num_workers=1, prefetch_factor=factor)
    batches = iter(loader)
    next(batches)
    wait_until(lambda: ready_count(batches) == factor)
    # The one that was taken, those that wait, and one in the worker's hands.
    assert _made.qsize() <= 1 + factor + 1
    list(batches)
    while not _made.empty():
        _made.get_nowait()


_first_may_come = threading.Event()


@CODE
def test_out_of_order_a_slow_batch_does_not_hold_up_the_others(packed: Packed, kind: str) -> None:
    def slow(sample: Any) -> Any:
        if sample["__key__"] == "case-000":
            _first_may_come.wait()
        return sample

    _first_may_come.clear()
    loader = dp.DataLoader(dataset_of(kind, packed, slow), num_workers=2, in_order=False)
    batches = iter(loader)
    found = [next(batches)["__key__"][0] for _ in range(3)]
    assert "case-000" not in found
    _first_may_come.set()
    found += [key for keys in keys_of(batches) for key in keys]
    assert sorted(found) == KEYS
