"""A run that stops at any step goes on with any world and batch size, whatever the dataset is."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from torch.utils.data import ConcatDataset, Dataset, Subset

import dataplane as dp
from tests.datasets.packed import SAMPLES, Packed, pack, source_sample

SEED = 11
WORLDS = BATCHES = (1, 2, 3, 4)


class Names(Dataset[str]):
    """A class of the user's, of keys."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> str:
        return str(self.inner[i]["__key__"])


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return pack(tmp_path_factory.mktemp("second") / "ds", map(source_sample, range(20, 24)))


@pytest.fixture(params=["whole", "subset", "concat", "class"])
def dataset(request: pytest.FixtureRequest, packed: Packed, second: Packed) -> Any:
    one, other = (
        dp.Dataset(url, ["global_data/mach"], cache=False) for url in (packed.url, second.url)
    )
    if request.param == "subset":
        return Subset(one, [9, 3, 1, 7, 10, 0, 2])
    if request.param == "concat":
        return ConcatDataset([other, one])
    return Names(one) if request.param == "class" else one


def keys(batch: Any) -> list[str]:
    return list(batch["__key__"] if isinstance(batch, dict) else batch)


def order_of(dataset: Any) -> list[str]:
    (whole,) = (keys(batch) for batch in dp.DataLoader(dataset, len(dataset)))
    return [whole[i] for i in dp.permutation(len(dataset), seed=SEED, epoch=0)]


def rank(dataset: Any, batch: int, rank: int, world: int) -> dp.DataLoader[Any]:
    return dp.DataLoader(dataset, batch, shuffle=True, seed=SEED, rank=rank, world_size=world)


def test_any_step_goes_on_with_any_world_and_batch_size(dataset: Any) -> None:
    order = order_of(dataset)
    count = len(order)
    draw = random.Random(len(order))
    for world, batch in itertools.product(WORLDS, BATCHES):
        loaders = [rank(dataset, batch, one, world) for one in range(world)]
        passes = [iter(loader) for loader in loaders]
        seen: list[str] = []
        for step in range(len(loaders[0]) + 1):
            states = [loader.state_dict() for loader in loaders]
            assert states == [states[0]] * world
            assert len(seen) == states[0]["samples_consumed"]
            assert seen[:count] == order[: len(seen)]
            # Every (world, batch size) is resumed at some step of each.
            after = (draw.choice(WORLDS), draw.choice(BATCHES))
            state = json.loads(json.dumps(states[0]))
            assert seen[:count] + _rest(dataset, state, *after) == order, (world, batch, step)
            if step < len(loaders[0]):
                hands = [keys(next(one)) for one in passes]
                turns = itertools.zip_longest(*hands)
                seen += [key for turn in turns for key in turn if key is not None]


def _rest(dataset: Any, state: dict[str, Any], world: int, batch: int) -> list[str]:
    """What all ranks of a resumed run read, in the order of their turns, without padding."""
    hands = []
    for one in range(world):
        loader = rank(dataset, batch, one, world)
        loader.load_state_dict(state)
        hands.append([key for got in loader for key in keys(got)])
    assert len({len(hand) for hand in hands}) == 1
    turns = [key for turn in zip(*hands, strict=True) for key in turn]
    return turns[: max(len(dataset) - state["samples_consumed"], 0)]


def test_the_number_of_samples_is_odd_to_every_world() -> None:
    assert all(SAMPLES % world for world in WORLDS[1:])
