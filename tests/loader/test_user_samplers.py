"""What samplers of the user's may yield, and what loaders keep of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, SequentialSampler, Subset

import dataplane as dp
from dataplane.loader.sampler_batches import LOOKAHEAD, SamplerBatches
from tests.datasets.packed import SAMPLES, Packed


@pytest.fixture
def dataset(packed: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(packed.url, ["global_data/mach"], cache=False) as opened:
        yield opened


def batches_of(loader: Any) -> list[list[int]]:
    return [[int(key.removeprefix("case-")) for key in batch["__key__"]] for batch in loader]


class Placed:
    """A sampler that keeps its own place."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < SAMPLES:
            self.at += 1
            yield self.at - 1
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize("read", [0, 2])
def test_a_place_that_a_sampler_keeps_is_not_given_to_one_that_keeps_none(
    dataset: dp.Dataset, read: int
) -> None:
    loader = dp.DataLoader(dataset, 2, sampler=Placed())
    batches = iter(loader)
    for _ in range(read):
        next(batches)
    state = loader.state_dict()
    for sampler in (SequentialSampler(dataset), list(range(SAMPLES))):
        other = dp.DataLoader(dataset, 2, sampler=sampler)
        other.load_state_dict(state)
        with pytest.raises(dp.ConfigError, match=r"keeps its own place.*has no load_state_dict"):
            next(iter(other))


@pytest.mark.parametrize(
    "sampler",
    [
        BatchSampler(SequentialSampler(range(SAMPLES)), 3, False),
        torch.arange(8).reshape(4, 2),
        [[1, 2], [3]],
    ],
)
@pytest.mark.parametrize("given", [{}, {"batch_size": 2}])
def test_lists_of_a_sampler_are_not_put_into_batches_again(
    dataset: dp.Dataset, sampler: Any, given: dict[str, int]
) -> None:
    with pytest.raises(dp.ConfigError, match=r"lists of indices.*batch_size=.*batch_sampler="):
        next(iter(dp.DataLoader(dataset, sampler=sampler, **given)))


@pytest.mark.parametrize("kind", [list, tuple, set, dict.fromkeys, iter, lambda x: map(int, x)])
def test_a_batch_of_a_batch_sampler_may_be_any_iterable(dataset: dp.Dataset, kind: Any) -> None:
    lists = [[0, 1], [2], [3, 4, 5]]

    class Kinds:
        def __iter__(self) -> Iterator[Any]:
            return map(kind, lists)

    loader = dp.DataLoader(dataset, batch_sampler=Kinds())
    assert batches_of(loader) == lists
    batches = iter(loader)
    next(batches)
    other = dp.DataLoader(dataset, batch_sampler=Kinds())
    other.load_state_dict(loader.state_dict())
    assert batches_of(other) == lists[1:]


@pytest.mark.parametrize("is_planned", [False, True])
def test_batches_that_were_read_are_not_kept_for_a_plan_that_is_not_made(is_planned: bool) -> None:
    count = 3 * LOOKAHEAD
    feed = SamplerBatches(
        [[at] for at in range(count)],
        batch_size=None,
        drop_last=False,
        length=count,
        gives_lists=True,
    )
    batches = feed.batches()
    ahead = feed.ahead() if is_planned else None
    seen = []
    for number in range(count):
        feed.advance()
        batch = next(batches)
        assert batch == [number]
        if ahead is not None:
            assert next(ahead) == [number]
        feed.note_yielded(number)
        seen.append(weakref.ref(batch))
        del batch
    assert not any(one() for one in seen[:-1])  # the last is in hand
    assert ahead is None or next(ahead, None) is None


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}])
@pytest.mark.parametrize("array", ["global_data/mach", {"points": dp.rows(4)}])
def test_what_code_draws_for_each_repetition_in_a_subset_is_other(
    packed: Packed, options: dict[str, Any], array: Any
) -> None:
    arrays = [array] if isinstance(array, str) else array
    with dp.Dataset(packed.url, arrays, cache=False) as dataset:
        dataset.transform = lambda sample: (sample["__key__"], torch.rand(1).item())

        def draws(samples: list[int], batch_size: int) -> list[Any]:
            part = Subset(dataset, samples)
            given = {"seed": 3, "collate_fn": list, **options}
            return [one for batch in dp.DataLoader(part, batch_size, **given) for one in batch]

        found = draws([0, 0, 0, 1], 4)
        assert len({value for _, value in found}) == 4
        assert found == draws([0, 0, 0, 1], 1)
        assert [found[0], found[3]] == draws([0, 1], 2)  # the first one is as without others


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": 5}, "sampler must be an iterable, got a value of type int"),
        ({"batch_sampler": 5}, "batch_sampler must be an iterable, got a value of type int"),
        ({"generator": 5}, "generator must be a torch.Generator, got a value of type int"),
        ({"prefetch_factor": "2", "num_workers": 1}, "prefetch_factor must be a whole number"),
        ({"ragged": 5}, "ragged must be a list of names of arrays, got 5"),
        ({"ragged": [5]}, "ragged must be a list of names of arrays, got"),
        ({"world_size": 0}, "world_size must be at least 1, got 0"),
        ({"rank": 0, "world_size": -1}, "world_size must be at least 1, got -1"),
    ],
)
def test_arguments_of_another_type_are_one_error(
    dataset: dp.Dataset, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(dp.ConfigError, match=message):
        dp.DataLoader(dataset, **given)
