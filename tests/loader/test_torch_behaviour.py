"""With a dataset that is not ours, a loader is torch's in every respect."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
import torch.utils.data
from torch.utils.data import TensorDataset

import dataplane as dp


@pytest.fixture(autouse=True)
def without_torchdata(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, its own loader runs, which is torch's with a state."""
    monkeypatch.setitem(sys.modules, "torchdata.stateful_dataloader", None)


class Squares(torch.utils.data.IterableDataset):
    """Squares of 0 to 6, shared out between workers."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (n * n for n in range(first, 7, step))


def tensors() -> TensorDataset:
    return TensorDataset(torch.arange(10), torch.arange(10) * 0.5)


def test_the_signature_is_torch_s_and_ours_comes_after_it() -> None:
    theirs = list(inspect.signature(torch.utils.data.DataLoader.__init__).parameters.values())
    ours = list(inspect.signature(dp.DataLoader.__init__).parameters.values())
    # A newer torch may add parameters; an older one may lack some of ours.
    shared = [p.name for p in theirs if p.name in {q.name for q in ours}]
    assert [p.name for p in ours if p.name in shared] == shared
    own = {
        *("seed", "rank", "world_size", "weights", "num_samples", "shuffle_window"),
        *("ragged", "ragged_as", "padding_value", "keys"),
        *("transform_mode", "device", "decode", "assign", "ranks_per_node"),
    }
    assert own == {p.name for p in ours} - set(shared)
    assert {p.name: p.default for p in ours if p.name in shared} == {
        p.name: p.default for p in theirs if p.name in shared
    }
    assert len(shared) == len(theirs)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_tensor_dataset_gives_what_torch_gives(num_workers: int) -> None:
    for arguments in ({"shuffle": True}, {"batch_size": 4}, {"batch_size": None}):
        if num_workers and arguments != {"batch_size": 4}:
            continue
        given = {**arguments, "num_workers": num_workers}
        ours = dp.DataLoader(tensors(), **given, generator=torch.Generator().manual_seed(1))
        theirs = torch.utils.data.DataLoader(
            tensors(), **given, generator=torch.Generator().manual_seed(1)
        )
        assert len(ours) == len(theirs)
        assert type(iter(ours)) is type(iter(theirs))
        for (a, b), (c, d) in zip(ours, theirs, strict=True):
            assert torch.equal(a, c)
            assert torch.equal(b, d)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iterable_dataset_gives_what_torch_gives(num_workers: int) -> None:
    ours = dp.DataLoader(Squares(), batch_size=2, num_workers=num_workers)
    theirs = torch.utils.data.DataLoader(Squares(), batch_size=2, num_workers=num_workers)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_samplers_and_collate_fn_are_torch_s() -> None:
    loader = dp.DataLoader(tensors(), batch_sampler=[[1, 2], [3]], collate_fn=len)
    assert list(loader) == [2, 1]


def test_what_needs_a_packed_dataset_says_so() -> None:
    for arguments in ({"seed": 1}, {"rank": 0, "world_size": 2}):
        with pytest.raises(dp.ConfigError, match="this is a TensorDataset"):
            dp.DataLoader(tensors(), **arguments)
    loader = dp.DataLoader(tensors())
    with pytest.raises(dp.ConfigError, match=r"needs a dataplane\.Dataset"):
        loader.stats()


def test_without_torchdata_there_is_no_state_and_that_is_said() -> None:
    loader = dp.DataLoader(tensors())
    with pytest.warns(UserWarning, match="TensorDataset is not saved"):
        state = loader.state_dict()
    assert state == loader.state_dict() == {}
    loader.load_state_dict({})
    with pytest.raises(dp.MissingPackage, match="torchdata"):
        loader.load_state_dict({"_num_yielded": 3})


def test_set_epoch_reaches_a_distributed_sampler() -> None:
    sampler = torch.utils.data.DistributedSampler(tensors(), num_replicas=2, rank=0)
    loader = dp.DataLoader(tensors(), sampler=sampler)
    loader.set_epoch(7)
    assert sampler.epoch == 7


def test_a_subset_of_a_packed_dataset_goes_through_torch(packed) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    subset = torch.utils.data.Subset(dataset, [4, 2])
    (batch,) = dp.DataLoader(subset, batch_size=2)
    assert batch["__key__"] == ["case-004", "case-002"]
