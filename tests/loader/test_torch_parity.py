"""What torch's loader does, a loader over packed datasets does too: one behaviour a test.

Where the two can be compared, torch's own loader runs beside ours over the same dataset. What holds
for any dataset is tried over a packed one, a `Subset` of it and a class of the user's around it,
which the engine reads in three ways.
"""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import queue
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
)

import dataplane as dp
from tests.cache.fakes import wait_until
from tests.datasets.packed import SAMPLES, Packed
from tests.loader.inside import ready_count
from tests.loader.test_lifetime import assert_no_loader_threads

NAMES = ("global_data/mach",)
KEYS = [f"case-{number:03d}" for number in range(SAMPLES)]

Code = Callable[[dict[str, Any]], Any] | None


class Around(torch.utils.data.Dataset[Any]):
    """A class of the user's that reads a packed dataset, and may do something with samples."""

    def __init__(self, inner: dp.Dataset, code: Code = None) -> None:
        self.inner = inner
        self.code = code

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Any:
        sample = self.inner[i]
        return sample if self.code is None else self.code(sample)


def dataset_of(kind: str, packed: Packed, code: Code = None) -> Any:
    """A dataset of a kind, which runs code of the user's for each sample."""
    if kind == "class":
        return Around(dp.Dataset(packed.url, NAMES, cache=False), code)
    whole = dp.Dataset(packed.url, NAMES, cache=False, transform=code)
    return Subset(whole, range(SAMPLES)) if kind == "subset" else whole


KINDS = pytest.mark.parametrize("kind", ["packed", "subset", "class"])
WORKERS = pytest.mark.parametrize("workers", [0, 2])
CODE = pytest.mark.parametrize("kind", ["packed", "class"])
"""Where the code of the user's is a transform, and where it is the dataset itself."""
IN_WORKERS = pytest.mark.parametrize("mode", ["thread", "process"])


@pytest.fixture
def dataset(packed: Packed, kind: str) -> Any:
    """A dataset of the kind that the test is run with."""
    return dataset_of(kind, packed)


@pytest.fixture
def plain(packed: Packed) -> dp.Dataset:
    return dp.Dataset(packed.url, NAMES, cache=False)


def keys_of(batches: Any) -> list[list[str]]:
    return [list(batch["__key__"]) for batch in batches]


def named(indices: Any) -> list[list[str]]:
    return [[KEYS[i] for i in one] for one in indices]


def key_of(sample: dict[str, Any]) -> str:
    return str(sample["__key__"])


def number_of(key: str) -> int:
    return int(key[-3:])


def assert_alike(one: Any, other: Any) -> None:
    """Two values are of the same types throughout, and equal."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_alike(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
    else:
        assert one == other


# Lengths and batches.


@KINDS
@WORKERS
@pytest.mark.parametrize("size", [1, 3, SAMPLES, SAMPLES + 1])
def test_the_last_batch_is_what_is_left_and_drop_last_leaves_it_out(
    dataset: Any, workers: int, size: int
) -> None:
    for drop_last in (False, True):
        loader = dp.DataLoader(dataset, size, drop_last=drop_last, num_workers=workers)
        theirs = TorchLoader(dataset, size, drop_last=drop_last, collate_fn=dp.collate)
        found = keys_of(loader)
        assert found == keys_of(theirs)
        assert len(loader) == len(theirs) == len(found)


@KINDS
@WORKERS
def test_without_a_batch_size_samples_come_one_by_one_and_not_collated(
    dataset: Any, workers: int
) -> None:
    loader = dp.DataLoader(dataset, batch_size=None, num_workers=workers)
    assert len(loader) == SAMPLES
    samples = list(loader)
    assert [sample["__key__"] for sample in samples] == KEYS
    assert samples[3]["global_data/mach"].shape == ()


@WORKERS
def test_without_a_batch_size_arrays_become_tensors(packed: Packed, workers: int) -> None:
    def code(sample: dict[str, Any]) -> Any:
        return {"n": np.arange(3), "s": "text", "t": (np.float32(2), 1)}

    for kind in ("packed", "class"):
        dataset = dataset_of(kind, packed, code)
        ours = next(iter(dp.DataLoader(dataset, batch_size=None, num_workers=workers)))
        assert_alike(ours, next(iter(TorchLoader(dataset, batch_size=None))))


@WORKERS
def test_without_a_batch_size_collate_fn_is_called_with_each_sample(
    packed: Packed, workers: int
) -> None:
    for kind in ("packed", "class"):
        loader = dp.DataLoader(
            dataset_of(kind, packed), batch_size=None, collate_fn=key_of, num_workers=workers
        )
        assert list(loader) == KEYS


def test_the_length_is_that_of_the_sampler(plain: dp.Dataset) -> None:
    assert len(dp.DataLoader(plain, 2, sampler=[1, 2, 3])) == 2
    assert len(dp.DataLoader(plain, 2, sampler=[1, 2, 3], drop_last=True)) == 1
    assert len(dp.DataLoader(plain, batch_sampler=[[1], [2, 3], [4]])) == 3
    assert len(dp.DataLoader(plain, batch_size=None, sampler=[4, 4])) == 2


def test_an_iterator_has_the_length_of_its_loader(plain: dp.Dataset) -> None:
    batches = iter(dp.DataLoader(plain, 2))
    assert len(batches) == 6
    next(batches)
    assert len(batches) == 6
    assert iter(batches) is batches


@WORKERS
def test_a_dataset_without_samples_gives_no_batches(plain: dp.Dataset, workers: int) -> None:
    for dataset in (Subset(plain, []), Around(Subset(plain, []))):  # type: ignore[arg-type]
        loader = dp.DataLoader(dataset, 2, num_workers=workers)
        assert len(loader) == 0
        assert list(loader) == []


# Samplers.


def _samplers(dataset: Any, generator: torch.Generator) -> dict[str, Any]:
    weights = [0.1 + (number % 3) for number in range(SAMPLES)]
    return {
        "sequential": SequentialSampler(dataset),
        "random": RandomSampler(dataset, generator=generator),
        "replacement": RandomSampler(dataset, True, 20, generator=generator),
        "more": RandomSampler(dataset, num_samples=25, generator=generator),
        "subset": SubsetRandomSampler([4, 2, 9, 0], generator=generator),
        "weighted": WeightedRandomSampler(weights, 17, generator=generator),
        "distributed": DistributedSampler(dataset, 2, 1, seed=4),
    }


@KINDS
@WORKERS
def test_the_samplers_of_torch_give_the_order_that_they_give_to_torch_s_loader(
    dataset: Any, workers: int
) -> None:
    for name in _samplers(dataset, torch.Generator()):
        found = []
        for loader in (dp.DataLoader, TorchLoader):
            sampler = _samplers(dataset, torch.Generator().manual_seed(8))[name]
            given: dict[str, Any] = {"num_workers": workers} if loader is dp.DataLoader else {}
            made = loader(dataset, 3, sampler=sampler, collate_fn=_keys, **given)
            found.append([list(made), list(made), len(made)])
        assert found[0] == found[1], name


def _keys(samples: list[dict[str, Any]]) -> list[str]:
    return [sample["__key__"] for sample in samples]


class Twos:
    """A batch sampler of the user's own, which counts how often it was begun."""

    def __init__(self, kind: Callable[[list[int]], Any]) -> None:
        self.kind = kind
        self.begun = 0

    def __iter__(self) -> Iterator[Any]:
        self.begun += 1
        for first in (8, 0, 4):
            yield self.kind([first, first + 1])

    def __len__(self) -> int:
        return 3


@KINDS
@WORKERS
@pytest.mark.parametrize("as_kind", [list, tuple, np.array, torch.tensor])
def test_a_batch_sampler_may_give_lists_tuples_and_arrays(
    dataset: Any, workers: int, as_kind: Any
) -> None:
    loader = dp.DataLoader(dataset, batch_sampler=Twos(as_kind), num_workers=workers)
    assert keys_of(loader) == named([[8, 9], [0, 1], [4, 5]])
    assert (loader.batch_size, loader.drop_last) == (None, False)


@KINDS
@WORKERS
def test_a_sampler_is_begun_once_for_each_pass(dataset: Any, workers: int) -> None:
    sampler = Twos(list)
    loader = dp.DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    assert sampler.begun == 0
    for count in (1, 2):
        assert len(list(loader)) == 3
        assert sampler.begun == count


@KINDS
@WORKERS
def test_an_endless_sampler_is_read_as_far_as_the_loop_goes(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, sampler=itertools.cycle([5, 1, 7]), num_workers=workers)
    found = keys_of(itertools.islice(iter(loader), 150))
    assert found == named([[5, 1], [7, 5], [1, 7]] * 50)


class Unsized:
    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


@KINDS
def test_a_sampler_without_a_length_is_read_and_the_loader_has_none(dataset: Any) -> None:
    for given in ({"sampler": Unsized([3, 4])}, {"batch_sampler": Unsized([[3], [4]])}):
        loader = dp.DataLoader(dataset, **given)
        assert keys_of(loader) == named([[3], [4]])
        with pytest.raises(TypeError):
            len(loader)
        with pytest.raises(TypeError):
            len(iter(loader))


def test_a_generator_for_a_sampler_is_used_up_by_the_first_pass(plain: dp.Dataset) -> None:
    loader = dp.DataLoader(plain, 2, sampler=(i for i in (3, 1, 2)))
    assert keys_of(loader) == named([[3, 1], [2]])
    assert list(loader) == []


@KINDS
@WORKERS
def test_a_sample_that_is_asked_for_twice_is_two_samples(
    packed: Packed, kind: str, workers: int
) -> None:
    def doubled(sample: dict[str, Any]) -> Any:
        sample["global_data/mach"] *= 2
        return sample

    dataset = dataset_of(kind, packed, doubled)
    loader = dp.DataLoader(dataset, 4, sampler=[5, 5, 5, 6, 5], num_workers=workers)
    first, last = list(loader)
    assert keys_of([first, last]) == named([[5, 5, 5, 6], [5]])
    assert first["global_data/mach"].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.2])
    single = dp.DataLoader(dataset, batch_size=None, sampler=[5, 5], num_workers=workers)
    one, other = list(single)
    one["global_data/mach"].zero_()
    assert other["global_data/mach"].item() == pytest.approx(1.0)


@WORKERS
def test_a_class_of_the_user_s_gets_the_very_indices_of_its_sampler(
    plain: dp.Dataset, workers: int
) -> None:
    class ByName(Around):
        def __getitem__(self, name: Any) -> Any:
            return [name, type(name).__name__, key_of(self.inner[number_of(name[-1])])]

    asked = [("b", "case-007"), ("a", "case-002")]
    loader = dp.DataLoader(ByName(plain), 2, sampler=asked, collate_fn=list, num_workers=workers)
    assert list(loader) == [[[name, "tuple", name[-1]] for name in asked]]


@WORKERS
def test_a_class_with_getitems_is_asked_once_for_each_batch(
    plain: dp.Dataset, workers: int
) -> None:
    class Several(Around):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [(tuple(indices), key_of(self.inner[i])) for i in indices]

    loader = dp.DataLoader(Several(plain), 4, collate_fn=list, num_workers=workers)
    assert list(loader) == list(TorchLoader(Several(plain), 4, collate_fn=list))


@WORKERS
def test_a_class_without_a_length_is_read_by_a_sampler(plain: dp.Dataset, workers: int) -> None:
    class NoLength(torch.utils.data.Dataset[Any]):
        def __init__(self, inner: dp.Dataset) -> None:
            self.inner = inner

        def __getitem__(self, i: int) -> Any:
            return self.inner[i]

    dataset = NoLength(plain)
    theirs = TorchLoader(dataset, 2, sampler=[3, 1, 2])
    assert keys_of(theirs) == named([[3, 1], [2]])
    loader = dp.DataLoader(dataset, 2, sampler=[3, 1, 2], num_workers=workers)
    assert keys_of(loader) == named([[3, 1], [2]])
    assert len(loader) == 2


@KINDS
@WORKERS
def test_an_empty_batch_of_a_batch_sampler_is_a_batch(dataset: Any, workers: int) -> None:
    batches = [[3], [], [4, 5]]
    expected = list(TorchLoader(dataset, batch_sampler=batches, collate_fn=_keys))
    assert expected == [["case-003"], [], ["case-004", "case-005"]]
    loader = dp.DataLoader(dataset, batch_sampler=batches, collate_fn=_keys, num_workers=workers)
    assert list(loader) == expected


_INDICES: list[Any] = [
    [4, 0, 9],
    (4, 0, 9),
    np.array([4, 0, 9]),
    np.array([4, 0, 9], dtype="u1"),
    torch.tensor([4, 0, 9]),
    [np.int64(4), np.int32(0), np.int64(9)],
    [torch.tensor(4), torch.tensor(0), torch.tensor(9)],
    [4, -11, -2],
    range(4, 11, 2),
    [7, 7, 7, 1],
    [],
]


@WORKERS
@pytest.mark.parametrize("indices", _INDICES, ids=lambda one: f"{type(one).__name__}-{len(one)}")
def test_a_subset_takes_indices_of_every_kind(
    plain: dp.Dataset, indices: Any, workers: int
) -> None:
    subset = Subset(plain, indices)
    expected = [list(one) for one in TorchLoader(subset, 2, collate_fn=_keys)]
    assert keys_of(dp.DataLoader(subset, 2, num_workers=workers)) == expected
    nested = Subset(subset, range(len(indices))[::-1])
    flat = [key for keys in expected for key in keys]
    found = [key for keys in keys_of(dp.DataLoader(nested, 2)) for key in keys]
    assert found == flat[::-1]


@WORKERS
def test_a_subset_with_an_index_past_the_end_fails_where_it_is_read(
    plain: dp.Dataset, workers: int
) -> None:
    batches = iter(dp.DataLoader(Subset(plain, [1, SAMPLES, 2]), num_workers=workers))
    assert next(batches)["__key__"] == ["case-001"]
    with pytest.raises(IndexError):
        next(batches)
    assert keys_of(batches) == [["case-002"]]


# Arguments.


@KINDS
@pytest.mark.parametrize(
    "given",
    [
        {"num_workers": -1},
        {"timeout": -1},
        {"prefetch_factor": 2},
        {"prefetch_factor": -1, "num_workers": 1},
        {"persistent_workers": True},
        {"sampler": [1], "shuffle": True},
        {"batch_sampler": [[1]], "batch_size": 2},
        {"batch_sampler": [[1]], "batch_size": None},
        {"batch_sampler": [[1]], "shuffle": True},
        {"batch_sampler": [[1]], "sampler": [1]},
        {"batch_sampler": [[1]], "drop_last": True},
        {"batch_size": None, "drop_last": True},
        {"batch_size": 0},
        {"batch_size": -2},
        {"batch_size": 1.5},
        {"batch_size": True},
        {"drop_last": "no"},
        {"multiprocessing_context": "spawn"},
        {"multiprocessing_context": "no such", "num_workers": 1},
        {"multiprocessing_context": object(), "num_workers": 1},
    ],
    ids=lambda given: "-".join(f"{name}={value}"[:24] for name, value in given.items()),
)
def test_arguments_that_torch_refuses_are_refused_with_its_type_of_error(
    dataset: Any, given: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, TypeError)) as theirs:
        TorchLoader(dataset, **given)
    with pytest.raises(type(theirs.value)):
        dp.DataLoader(dataset, **given)


@KINDS
def test_arguments_are_attributes_as_they_were_given(dataset: Any) -> None:
    def init(worker: int) -> None:
        del worker

    generator = torch.Generator()
    given: dict[str, Any] = {
        "dataset": dataset,
        "batch_size": 3,
        "num_workers": 2,
        "collate_fn": len,
        "drop_last": True,
        "timeout": 20,
        "worker_init_fn": init,
        "generator": generator,
        "prefetch_factor": 4,
        "persistent_workers": True,
        "in_order": False,
        "pin_memory": False,
        "multiprocessing_context": torch.multiprocessing.get_context("spawn"),
    }
    loader = dp.DataLoader(**given)
    for name, value in given.items():
        assert getattr(loader, name) is value or getattr(loader, name) == value
    assert dp.DataLoader(dataset, num_workers=1).prefetch_factor == 2
    assert dp.DataLoader(dataset).prefetch_factor is None


@KINDS
@pytest.mark.parametrize(
    "name",
    ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"],
)
def test_what_decides_the_batches_cannot_be_set_later(dataset: Any, name: str) -> None:
    loader = dp.DataLoader(dataset, 2)
    with pytest.raises(ValueError, match=f"{name} attribute should not be set"):
        setattr(loader, name, getattr(loader, name))
    assert len(list(loader)) == 6


@KINDS
def test_what_does_not_decide_the_batches_can_be_set_later(dataset: Any) -> None:
    loader = dp.DataLoader(dataset, 4, num_workers=2)
    loader.collate_fn = len
    loader.num_workers = 1
    loader.timeout = 20
    loader.extra = "anything"
    assert list(loader) == [4, 4, 3]


def test_a_shuffle_of_no_samples_is_refused(plain: dp.Dataset) -> None:
    empty = Subset(plain, [])
    with pytest.raises(ValueError, match="num_samples"):
        TorchLoader(empty, shuffle=True)
    with pytest.raises(ValueError, match="sample"):
        dp.DataLoader(empty, shuffle=True)


# Seeds and generators.


@KINDS
@WORKERS
def test_equal_generators_give_equal_epochs_and_each_epoch_is_another(
    dataset: Any, workers: int
) -> None:
    def run() -> list[list[list[str]]]:
        generator = torch.Generator().manual_seed(5)
        loader = dp.DataLoader(dataset, 3, shuffle=True, generator=generator, num_workers=workers)
        return [keys_of(loader) for _ in range(3)]

    first = run()
    assert run() == first
    assert len({str(epoch) for epoch in first}) == 3
    for epoch in first:
        assert sorted(key for keys in epoch for key in keys) == KEYS


@KINDS
@WORKERS
def test_a_shuffle_leaves_torch_s_own_numbers_alone_where_it_has_a_generator(
    dataset: Any, workers: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    loader = dp.DataLoader(dataset, 3, shuffle=True, generator=generator, num_workers=workers)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


@KINDS
@WORKERS
@pytest.mark.parametrize("own", [False, True])
def test_a_pass_draws_one_base_seed_when_it_begins_and_nothing_later(
    dataset: Any, workers: int, own: bool
) -> None:
    def run(kind: Any, **given: Any) -> list[torch.Tensor]:
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(4) if own else None
        state = generator.get_state if generator else torch.get_rng_state
        loader = kind(dataset, 3, sampler=range(8), generator=generator, **given)
        states = [state()]
        for _ in range(2):
            batches = iter(loader)
            states.append(state())
            list(batches)
            states.append(state())
        return states

    theirs = run(TorchLoader, collate_fn=dp.collate)
    for one, other in zip(run(dp.DataLoader, num_workers=workers), theirs, strict=True):
        assert torch.equal(one, other)


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
        return _keys(samples)

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


# Iterators and loaders.


@KINDS
@WORKERS
def test_iterators_at_once_each_give_the_whole(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, num_workers=workers)
    one, other = iter(loader), iter(loader)
    found: tuple[list[Any], list[Any]] = ([], [])
    found[0].append(next(one))
    for a, b in itertools.zip_longest(other, one):
        found[1].append(a)
        if b is not None:
            found[0].append(b)
    assert keys_of(found[0]) == keys_of(found[1]) == keys_of(loader)


@KINDS
@WORKERS
def test_a_loader_can_be_read_again_after_its_end_and_after_a_break(
    dataset: Any, workers: int
) -> None:
    loader = dp.DataLoader(dataset, 3, num_workers=workers)
    expected = keys_of(loader)
    for _ in loader:
        break
    for batch in loader:
        if batch["__key__"][0] == "case-003":
            break
    assert keys_of(loader) == expected


@KINDS
@WORKERS
def test_an_iterator_that_ended_stays_at_its_end(dataset: Any, workers: int) -> None:
    batches = iter(dp.DataLoader(dataset, 3, num_workers=workers))
    assert len(list(batches)) == 4
    assert [next(batches, None) for _ in range(3)] == [None] * 3


@KINDS
def test_leaving_a_pass_ends_its_threads(dataset: Any) -> None:
    loader = dp.DataLoader(dataset, 1, num_workers=2, collate_fn=_keys)
    for _ in loader:
        break
    gc.collect()
    assert_no_loader_threads()


@KINDS
@WORKERS
def test_an_iterator_keeps_what_it_reads_and_not_its_loader(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 2, num_workers=workers)
    batches = iter(loader)
    next(batches)
    del loader
    gc.collect()
    assert keys_of(batches) == named([[2, 3], [4, 5], [6, 7], [8, 9], [10]])


@KINDS
def test_a_dropped_loader_lets_go_of_its_dataset(packed: Packed, kind: str) -> None:
    dataset = dataset_of(kind, packed, key_of)
    loader = dp.DataLoader(dataset, num_workers=2, persistent_workers=True)
    list(loader)
    gone = weakref.ref(dataset), weakref.ref(loader)
    del dataset, loader
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@KINDS
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_a_copy_of_a_loader_reads_what_it_reads(dataset: Any, copied: Any) -> None:
    loader = dp.DataLoader(dataset, batch_sampler=Twos(list), num_workers=2, collate_fn=_keys)
    expected = list(loader)
    other = copied(loader)
    assert type(other) is dp.DataLoader
    assert list(other) == expected == list(loader)
    with pytest.raises(ValueError, match="should not be set"):
        other.batch_size = 4


class Counted(dp.DataLoader[Any]):
    """A loader of the user's own: other arguments, another length and another iteration."""

    def __init__(self, dataset: Any, repeats: int, **given: Any) -> None:
        super().__init__(dataset, **given)
        self.repeats = repeats

    def __len__(self) -> int:
        return super().__len__() * self.repeats

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.repeats):
            yield from enumerate(super().__iter__())


@KINDS
@WORKERS
def test_a_subclass_may_have_its_own_arguments_length_and_iteration(
    dataset: Any, workers: int
) -> None:
    loader = Counted(dataset, 2, batch_size=4, num_workers=workers)
    assert len(loader) == 6
    assert [number for number, _ in loader] == [0, 1, 2] * 2
    assert keys_of(batch for _, batch in loader) == keys_of(dp.DataLoader(dataset, 4)) * 2
    with pytest.raises(ValueError, match="after Counted is initialized"):
        loader.drop_last = True
    assert isinstance(loader, TorchLoader)


# What batches are.


class Point(NamedTuple):
    x: Any
    y: Any


class Labelled(OrderedDict[str, Any]):
    """A mapping of the user's own."""


def _results(sample: dict[str, Any]) -> dict[str, Any]:
    number = number_of(sample["__key__"])
    value = sample["global_data/mach"]
    return {
        "tensor": value,
        "array": value.numpy(),
        "scalar": np.float32(number),
        "int": number,
        "bool": number % 2 == 0,
        "float": number / 2,
        "complex": np.complex64(number),
        "text": str(number),
        "bytes": bytes([number]),
        "list": [value, number],
        "tuple": (value, str(number)),
        "named": Point(number, value),
        "dict": {"a": value, "b": {"c": number, "d": (number,)}},
        "ordered": OrderedDict(a=value),
        "labelled": Labelled(a=number),
        "empty": [],
        "matrix": np.full((2, 3), number),
    }


@CODE
@WORKERS
@pytest.mark.parametrize(
    "name", list(_results({"__key__": "case-000", "global_data/mach": torch.zeros(())}))
)
def test_what_code_returns_is_collated_as_torch_collates_it(
    packed: Packed, kind: str, workers: int, name: str
) -> None:
    def code(sample: dict[str, Any]) -> Any:
        return _results(sample)[name]

    dataset = dataset_of(kind, packed, code)
    theirs = TorchLoader(dataset, 4, collate_fn=default_collate)
    for one, other in zip(dp.DataLoader(dataset, 4, num_workers=workers), theirs, strict=True):
        assert_alike(one, other)


@CODE
@WORKERS
def test_results_within_a_dict_are_collated_as_torch_collates_them(
    packed: Packed, kind: str, workers: int
) -> None:
    dataset = dataset_of(kind, packed, _results)
    theirs = TorchLoader(dataset, 4, collate_fn=default_collate)
    for one, other in zip(dp.DataLoader(dataset, 4, num_workers=workers), theirs, strict=True):
        assert_alike(one, other)


@CODE
@WORKERS
@pytest.mark.parametrize("value", [None, object(), {1, 2}], ids=["none", "object", "set"])
def test_what_cannot_be_collated_is_a_type_error(
    packed: Packed, kind: str, workers: int, value: Any
) -> None:
    dataset = dataset_of(kind, packed, lambda sample: value)
    with pytest.raises(TypeError):
        next(iter(dp.DataLoader(dataset, 2, num_workers=workers)))


@CODE
@WORKERS
def test_tensors_of_unequal_shapes_are_a_runtime_error(
    packed: Packed, kind: str, workers: int
) -> None:
    dataset = dataset_of(kind, packed, lambda sample: torch.zeros(number_of(key_of(sample))))
    with pytest.raises(RuntimeError):
        next(iter(dp.DataLoader(dataset, 2, num_workers=workers)))


@KINDS
@WORKERS
@pytest.mark.parametrize("result", [None, 0, "", [], (), {}, False, "text", Point(1, 2)], ids=repr)
def test_collate_fn_may_return_anything_and_it_comes_as_it_is(
    dataset: Any, workers: int, result: Any
) -> None:
    loader = dp.DataLoader(dataset, 4, collate_fn=lambda samples: result, num_workers=workers)
    found = list(loader)
    assert found == [result] * 3
    assert type(found[0]) is type(result)


@CODE
@WORKERS
def test_samples_may_be_anything_where_collate_fn_takes_them(
    packed: Packed, kind: str, workers: int
) -> None:
    dataset = dataset_of(kind, packed, lambda sample: None)
    loader = dp.DataLoader(dataset, 4, collate_fn=list, num_workers=workers)
    assert list(loader) == [[None] * 4, [None] * 4, [None] * 3]
    loader = dp.DataLoader(dataset, batch_size=None, num_workers=workers)
    assert list(loader) == [None] * SAMPLES


@KINDS
@WORKERS
def test_the_default_collate_fn_of_torch_may_be_asked_for(dataset: Any, workers: int) -> None:
    loader = dp.DataLoader(dataset, 4, collate_fn=default_collate, num_workers=workers)
    theirs = TorchLoader(dataset, 4, collate_fn=default_collate)
    for one, other in zip(loader, theirs, strict=True):
        assert set(one) == set(other)
        assert torch.equal(one["global_data/mach"], other["global_data/mach"])
        assert list(one["__key__"]) == list(other["__key__"])


@KINDS
@WORKERS
def test_a_batch_is_the_loop_s_own_and_later_ones_do_not_change_it(
    dataset: Any, workers: int
) -> None:
    batches = iter(dp.DataLoader(dataset, 2, num_workers=workers))
    first = next(batches)
    expected = first["global_data/mach"].clone()
    rest = list(batches)
    rest[0]["global_data/mach"].fill_(-1)
    assert torch.equal(first["global_data/mach"], expected)
    first["global_data/mach"].fill_(-2)
    assert rest[1]["global_data/mach"].min() > 0


def test_samples_of_processes_are_tensors_that_may_be_written_and_kept(plain: dp.Dataset) -> None:
    plain.transform = lambda sample: sample["global_data/mach"].repeat(50_000)
    loader = dp.DataLoader(plain, 2, num_workers=2, transform_mode="process")
    kept = list(loader)
    for number, batch in enumerate(kept):
        assert batch[0, 0].item() == pytest.approx(0.2 * number)
        batch.add_(1)
    for number, batch in enumerate(kept):
        assert batch[0, -1].item() == pytest.approx(0.2 * number + 1)


@KINDS
def test_pinning_without_an_accelerator_warns_and_gives_the_batches(dataset: Any) -> None:
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    loader = dp.DataLoader(dataset, 4, pin_memory=True, num_workers=2)
    with pytest.warns(UserWarning, match="no accelerator"):
        batches = list(loader)
    assert keys_of(batches) == keys_of(dp.DataLoader(dataset, 4))
    assert not batches[0]["global_data/mach"].is_pinned()


# Datasets that are not read by number.


class Stream(IterableDataset[Any]):
    def __init__(self, inner: dp.Dataset) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        return (key_of(self.inner[i]) for i in range(len(self.inner)))


@pytest.mark.parametrize("given", [{"shuffle": True}, {"sampler": [1]}, {"batch_sampler": [[1]]}])
def test_an_iterable_dataset_around_a_packed_one_takes_no_order(
    plain: dp.Dataset, given: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="IterableDataset"):
        dp.DataLoader(Stream(plain), **given)
    assert [key for batch in dp.DataLoader(Stream(plain), 3) for key in batch] == KEYS
