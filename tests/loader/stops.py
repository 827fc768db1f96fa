"""A run that stops at any batch, and goes on with any world and batch size."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import dataplane as dp

WORLDS = (1, 2, 3, 4)


def assert_every_batch_is_a_stopping_place(
    rank: Callable[[int, int, int], dp.DataLoader[Any]],
    samples: Callable[[Any], Sequence[Any]],
    whole: Sequence[Any],
    before: int,
) -> None:
    """Stop an epoch at each batch, and compare what others read from there on with the rest of it.

    Args:
        rank: what makes the loader of a rank, of a world size, with a batch size.
        samples: what tells the samples of a batch apart.
        whole: samples of the epoch, in order.
        before: world size of the run that stops.
    """
    loaders = [rank(one, before, 2) for one in range(before)]
    passes = [iter(loader) for loader in loaders]
    for step in range(len(loaders[0])):
        states = [loader.state_dict() for loader in loaders]
        assert states == [states[0]] * before
        state = json.loads(json.dumps(states[0]))
        after = WORLDS[step % len(WORLDS)]
        hands = []
        for one in range(after):
            resumed = rank(one, after, 1 + step % 3)
            resumed.load_state_dict(state)
            hands.append([sample for batch in resumed for sample in samples(batch)])
        rest = [sample for turn in zip(*hands, strict=True) for sample in turn]
        done = state["samples_consumed"]
        assert rest[: len(whole) - done] == whole[done:]
        for one in passes:
            next(one)
