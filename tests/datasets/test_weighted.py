"""Weighted draws: frequencies, independence, and what is no weight."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from dataplane.datasets.weighted import Weighted
from dataplane.errors import ConfigError

FAR = 4.5
"""Deviations that no statistic here may have. Seeds are fixed."""


def drawn(rule: Weighted, seed: int = 1, epoch: int = 0) -> np.ndarray:
    return rule.of_epoch(seed, epoch).read(np.arange(rule.length))[0]


def deviation(samples: np.ndarray, weights: np.ndarray) -> float:
    """Chi-square of how often samples with a weight come, as a deviation from its mean."""
    kept = weights > 0
    counts = np.bincount(samples, minlength=len(weights))
    assert not counts[~kept].any()
    expected = weights[kept] / weights.sum() * len(samples)
    found = ((counts[kept] - expected) ** 2 / expected).sum()
    freedom = kept.sum() - 1
    return float((found - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize(
    "weights",
    [
        np.ones(7),
        np.array([1, 2, 3, 4, 0, 5, 0]),
        np.array([0, 0, 1e-3, 1, 0]),
        np.random.default_rng(0).random(500),
        np.random.default_rng(0).pareto(1.5, 300) + 0.01,
        np.array([1e300, 2e300, 5e299]),
        np.array([5e-324, 1e-323]),
    ],
)
def test_samples_come_as_often_as_their_weights_say(weights: np.ndarray) -> None:
    rule = Weighted.of(weights, len(weights), 300_000)
    for seed in range(3):
        assert abs(deviation(drawn(rule, seed), weights / weights.max())) < FAR


def test_draws_of_neighbours_epochs_and_seeds_are_independent() -> None:
    weights = np.array([1.0, 2, 3, 4, 6])
    rule = Weighted.of(weights, 5, 200_000)
    first = drawn(rule, 1, 0)
    joint = np.multiply.outer(weights, weights).reshape(-1)
    others = {
        "neighbour": (first[:-1], first[1:]),
        "next epoch": (first, drawn(rule, 1, 1)),
        "next seed": (first, drawn(rule, 2, 0)),
        "seed and epoch changed about": (first, drawn(rule, 0, 1)),
    }
    for name, (one, other) in others.items():
        assert abs(deviation(one * 5 + other, joint)) < FAR, name


def test_a_draw_is_a_function_of_its_position_alone() -> None:
    rule = Weighted.of(np.random.default_rng(0).random(100), 100, 10**12)
    order = rule.of_epoch(7, 3)
    positions = np.random.default_rng(1).integers(0, 10**12, 50)
    samples, looks = order.read(positions)
    assert looks.tolist() == positions.tolist()
    assert [int(order.read([p])[0][0]) for p in positions] == samples.tolist()
    with pytest.raises(IndexError, match="position"):
        order.read([10**12])


def test_a_single_weight_is_the_only_sample_drawn() -> None:
    for weights in ([0, 0, 3], [3, 0, 0], [0, 3, 0]):
        rule = Weighted.of(weights, 3, 1000)
        assert set(drawn(rule).tolist()) == {weights.index(3)}


def test_bits_at_the_borders_of_a_sample_are_of_one_that_has_weight() -> None:
    rule = Weighted.of([0, 1, 1, 0], 4)
    numbers = np.array([0, 2**61 - 1, 2**61, 2**62 - 1], np.uint64)
    assert rule.find(numbers << np.uint64(2)).tolist() == [1, 1, 2, 2]


def test_the_draws_of_a_released_version_never_change() -> None:
    rule = Weighted.of(np.arange(1, 51), 50, 1000)
    assert drawn(rule, 7, 3)[:10].tolist() == PINNED
    content = drawn(rule, 2**64 - 1, 5).astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == DIGEST


def test_rules_are_equal_when_weights_and_length_are() -> None:
    one = Weighted.of([1, 2, 3], 3)
    assert one == Weighted.of(torch.tensor([1.0, 2, 3]), 3)
    assert one == Weighted.of([2, 4, 6], 3)  # in the same proportions
    assert one.length == 3
    for other in (Weighted.of([1, 2, 4], 3), Weighted.of([1, 2, 3], 3, 4)):
        assert one != other
        assert one.details != other.details
    assert one.of_samples(3) is one
    with pytest.raises(ConfigError, match="weights for 3 samples, and the dataset has 4"):
        one.of_samples(4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -0.5, 1], "negative, the one of sample 1 is -0.5"),
        ([1, 1, float("nan")], "finite, the one of sample 2 is nan"),
        ([float("inf"), 1, 1], "finite, the one of sample 0 is inf"),
        ([0, 0, 0], "all weights are zero"),
        ([1, 1], "2 weights for 3 samples"),
        ([1, 1, 1, 1], "4 weights for 3 samples"),
        ([[1, 1, 1]], "an array of 2 dimensions"),
        (5, "an array of 0 dimensions"),
        ("abc", "weights must be numbers"),
        ([1, "x", 2], "weights must be numbers"),
        ([[1], [2, 3], []], "weights must be numbers"),
    ],
)
def test_what_is_no_weight_is_refused_in_one_line(weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Weighted.of(weights, 3)


def test_an_epoch_has_a_draw() -> None:
    for length in (0, -1):
        with pytest.raises(ConfigError, match="num_samples must be at least 1"):
            Weighted.of([1, 2], 2, length)


PINNED = [19, 17, 6, 33, 35, 29, 31, 34, 13, 41]
DIGEST = "5d5bb8d6c9d1ab33"
