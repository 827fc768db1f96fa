"""Arguments, seeds and generators mean what they mean to torch's loader.

Where the two can be compared, torch's own loader runs beside ours over the same dataset. What holds
for any dataset is tried over a packed one, a `Subset` of it and a class of the user's around it,
which the engine reads in three ways.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import (
    Subset,
)

import dataplane as dp
from tests.loader.torch_parity.kinds import (
    KEYS,
    KINDS,
    WORKERS,
    keys_of,
)

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
