"""Mixtures: proportions all along an epoch, passes of each source, and what cannot be mixed."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, Subset, TensorDataset

import dataplane as dp
from dataplane.datasets import mixture
from dataplane.datasets.mixture import BLOCK, MAX_LENGTH, Mixed, counts, place_of
from dataplane.datasets.permutations import permutation
from dataplane.errors import ConfigError
from tests.datasets.packed import Packed, pack, source_sample

SHARES = [(1,), (1, 1), (3, 1), (1, 1000), (5, 3, 2), (7, 1, 1, 1, 1, 1, 90), (1, 2, 2**24 - 3)]


def read(rule: Mixed, seed: int = 1, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return rule.of_epoch(seed, epoch).read(np.arange(rule.length))


def sources(rule: Mixed, samples: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(rule.sizes), samples, side="right")


@pytest.mark.parametrize("shares", SHARES)
def test_counts_grow_one_by_one_and_keep_to_the_shares(shares: tuple[int, ...]) -> None:
    places = np.arange(20_001)
    held = np.array([*counts(places, shares)])
    assert (np.diff(held, axis=1) >= 0).all()
    assert (np.diff(held, axis=1).sum(axis=0) == 1).all()
    wanted = np.outer(np.array(shares) / sum(shares), places)
    assert np.abs(held - wanted).max() <= len(shares) / 2
    assert [*counts(777, shares)] == held[:, 777].tolist()
    last = [*counts(MAX_LENGTH, shares)]
    assert sum(last) == MAX_LENGTH
    assert min(last) > 0


@pytest.mark.parametrize("shares", SHARES)
def test_the_place_of_a_count_is_the_first_that_has_it(shares: tuple[int, ...]) -> None:
    held = np.array([*counts(np.arange(5001), shares)])
    for source, count in itertools.product(range(len(shares)), (1, 2, 7)):
        if held[source, -1] >= count:
            expected = int(np.searchsorted(held[source], count))
            assert place_of(source, count, shares) == expected
    assert place_of(0, MAX_LENGTH + 1, shares) is None


@pytest.mark.parametrize("is_drawn", [False, True])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 3000])
def test_every_stretch_of_an_epoch_has_the_proportions(length: int, is_drawn: bool) -> None:
    rule = Mixed((100, 40, 7), (6, 3, 1), length, is_drawn)
    of = sources(rule, read(rule)[0])
    for stop in {*range(BLOCK, length, BLOCK), length}:
        assert np.bincount(of[:stop], minlength=3).tolist() == [*counts(stop, rule.shares)]


def test_each_source_is_read_pass_by_pass_each_with_a_permutation_of_its_own() -> None:
    rule = Mixed((100, 40, 7), (6, 3, 1), 5000, is_drawn=True)
    samples, looks = read(rule, 3, 2)
    of = sources(rule, samples)
    starts = np.cumsum([0, *rule.sizes])
    orders = set()
    for source, size in enumerate(rule.sizes):
        numbers, passes = samples[of == source] - starts[source], looks[of == source]
        assert passes.tolist() == (np.arange(len(passes)) // size).tolist()
        for first in range(0, len(numbers) - size + 1, size):
            order = numbers[first : first + size].tolist()
            assert sorted(order) == list(range(size))
            orders.add((source, *order))
    wholes = sum(int((of == source).sum()) // size for source, size in enumerate(rule.sizes))
    assert len(orders) > 0.95 * wholes  # of 7 samples two orders may be equal


def test_without_a_shuffle_each_source_is_read_in_its_own_order_in_every_epoch() -> None:
    rule = Mixed((100, 7), (6, 1), 1000, is_drawn=False)
    samples, _ = read(rule, 3, 2)
    of = sources(rule, samples)
    for source, (size, start) in enumerate(((100, 0), (7, 100))):
        numbers = samples[of == source] - start
        assert numbers.tolist() == (np.arange(len(numbers)) % size).tolist()
    assert np.array_equal(samples, read(rule, 5, 7)[0])


def test_ranks_that_take_turns_get_the_proportions_too() -> None:
    """In plain turns of two sources two ranks would each have one source."""
    for is_drawn in (False, True):
        rule = Mixed((1000, 1000), (1, 1), 4096, is_drawn)
        of = sources(rule, read(rule)[0])
        for world in (2, 4, 8):
            for rank in range(world):
                share = of[rank::world].mean()
                assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(4096 / world)


def test_the_source_of_a_place_in_a_block_is_evenly_drawn() -> None:
    rule = Mixed((10, 10), (3, 1), BLOCK, is_drawn=True)
    drawn = np.array([sources(rule, read(rule, seed)[0]) for seed in range(2000)])
    far = (drawn.mean(axis=0) - 0.25) / np.sqrt(0.25 * 0.75 / len(drawn))
    assert np.abs(far).max() < 4.5
    apart = np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1] * np.sqrt(len(drawn))
    assert abs(apart) < 4.5


def test_any_few_positions_are_as_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Mixed((100, 40, 7), (6, 3, 1), 10_000, is_drawn=True)
    samples, looks = read(rule)
    order = rule.of_epoch(1, 0)
    assert len(order) == 10_000
    monkeypatch.setattr(mixture, "_BLOCKS_AT_ONCE", 3)
    draw = np.random.default_rng(0)
    for count in (1, 3, 64, 3000):
        positions = draw.integers(0, 10_000, count)
        found = order.read(positions)
        assert np.array_equal(found[0], samples[positions])
        assert np.array_equal(found[1], looks[positions])
    assert [part.tolist() for part in order.read([])] == [[], []]
    with pytest.raises(IndexError, match="position 10000"):
        order.read([10_000])
    huge = Mixed((10**9, 10**8), (9, 1), 10**11, is_drawn=True)
    samples, looks = huge.of_epoch(1, 0).read([0, 10**11 - 1])
    assert looks[0] == 0
    assert looks[1] >= 89


def test_epochs_and_seeds_differ_and_sources_have_nothing_in_common() -> None:
    rule = Mixed((500, 500), (1, 1), 1000, is_drawn=True)
    one = read(rule, 1, 0)[0]
    assert np.array_equal(one, read(rule, 1, 0)[0])
    for other in (read(rule, 1, 1)[0], read(rule, 2, 0)[0], read(rule, 0, 1)[0]):
        assert (one == other).mean() < 0.02
    of = sources(rule, one)
    assert (one[of == 0] == one[of == 1] - 500).mean() < 0.02
    assert not np.array_equal(one[of == 0], permutation(500, seed=1, epoch=0))


def test_the_order_of_a_released_version_never_changes() -> None:
    rule = Mixed((100, 40, 7), (6, 3, 1), 5000, is_drawn=True)
    samples, looks = read(rule, 2**64 - 1, 3)
    assert samples[:10].tolist() == PINNED
    content = np.stack([samples, looks]).astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == DIGEST


def test_rules_tell_their_parts_apart() -> None:
    one = Mixed((10, 20), (1, 1), 30, is_drawn=True)
    others = [
        Mixed((20, 10), (1, 1), 30, is_drawn=True),
        Mixed((10, 20), (1, 2), 30, is_drawn=True),
        Mixed((10, 20), (1, 1), 31, is_drawn=True),
        Mixed((10, 20), (1, 1), 30, is_drawn=False),
    ]
    assert len({rule.details for rule in (one, *others)}) == 5
    assert one.of_samples(30) is one
    with pytest.raises(ConfigError, match="had 30 samples, and have 31"):
        one.of_samples(31)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[dp.Dataset]:
    def packed(name: str, first: int, stop: int) -> Packed:
        folder = tmp_path_factory.mktemp("mix") / name
        return pack(folder, map(source_sample, range(first, stop)))

    parts = [packed("cars", 0, 5), packed("wings", 20, 23), packed("cars", 30, 32)]
    return [dp.Dataset(part.url, ["global_data/mach"], cache=False) for part in parts]


def test_an_epoch_ends_with_the_first_or_the_last_source_or_at_a_number(
    datasets: list[dp.Dataset],
) -> None:
    weights = [1, 2, 1]
    sizes = np.array([5, 3, 2])
    for stop in ("first", "all", 1, 1000):
        mixed = dp.mix(datasets, weights, stop=stop)  # type: ignore[arg-type]
        rule = mixed.rule(shuffle=True)
        assert rule.sizes == (5, 3, 2)
        samples, looks = read(rule)
        before, held, after = (
            np.array([*counts(rule.length + more, rule.shares)]) for more in (-1, 0, 1)
        )
        if stop == "first":
            assert looks.max() == 0
            assert (held <= sizes).all()
            assert not (after <= sizes).all()
        elif stop == "all":
            assert set(samples.tolist()) == set(range(10))
            assert looks.max() > 0
            assert not (before >= sizes).all()
        else:
            assert len(samples) == stop


def test_by_default_sources_end_together(datasets: list[dp.Dataset]) -> None:
    mixed = dp.mix(datasets)
    assert mixed.shares == (5, 3, 2)
    assert mixed.epoch_length == dp.mix(datasets, stop="all").epoch_length == 10
    assert sorted(read(mixed.rule(shuffle=True))[0].tolist()) == list(range(10))


def test_weights_are_kept_in_their_proportions(datasets: list[dp.Dataset]) -> None:
    for weights in ([0.5, 0.3, 0.2], [1e-300, 2e-300, 1e-300], [1e8, 3e8, 1.5], [1e300, 1e300, 1]):
        shares = np.array(dp.mix(datasets, weights, stop=5).shares)
        assert shares.sum() <= 2**24
        assert np.abs(shares / shares.sum() - np.array(weights) / sum(weights)).max() < 2**-22
    assert dp.mix(datasets, [4, 2, 9]).shares == (4, 2, 9)


def test_a_mix_is_the_concatenation_of_its_sources_and_names_them(
    datasets: list[dp.Dataset],
) -> None:
    mixed = dp.mix(datasets, [2, 1, 1], stop=100)
    assert len(mixed) == 10
    assert mixed.names == ("cars", "wings", "cars~2")
    assert repr(mixed) == "<mix of 0.5 cars, 0.25 wings, 0.25 cars~2: 100 samples an epoch>"
    found = [(mixed[i]["__source__"], mixed[i]["__key__"]) for i in (0, 4, 5, -3, 9, -1)]
    assert found == [
        ("cars", "case-000"), ("cars", "case-004"), ("wings", "case-020"), ("wings", "case-022"),
        ("cars~2", "case-031"), ("cars~2", "case-031"),
    ]  # fmt: skip
    with pytest.raises((IndexError, ValueError)):
        mixed[10]
    with pytest.raises((IndexError, ValueError)):
        mixed[-11]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [1, 1]}, "one number for each of its 3 sources"),
        ({"weights": [1, 0, 1]}, "above zero, that of source 1 is 0"),
        ({"weights": [1, 1, -2]}, "above zero, that of source 2 is -2"),
        ({"weights": [float("nan"), 1, 1]}, "finite and above zero, that of source 0 is nan"),
        ({"weights": "abc"}, "weights must be numbers"),
        ({"stop": "last"}, "stop must be"),
        ({"stop": 0}, "stop must be from 1"),
        ({"stop": True}, "stop must be"),
        ({"stop": 2.5}, "stop must be"),
        ({"stop": 2**38 + 1}, "stop must be from 1"),
        ({"names": ["a", "b"]}, "one for each of its 3 sources"),
        ({"names": ["a", "b", "a"]}, "all different"),
        ({"names": "abc"}, "list of texts"),
        ({"names": [1, 2, 3]}, "list of texts"),
    ],
)
def test_arguments_of_a_mix_that_cannot_be_are_refused(
    datasets: list[dp.Dataset], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dp.mix(datasets, **arguments)


def test_what_cannot_be_mixed_is_refused(datasets: list[dp.Dataset]) -> None:
    one, other, _ = datasets
    more = dp.Dataset(one.url, ["global_data/mach", "points"], cache=False)
    turned = dp.Dataset(one.url, ["points", "global_data/mach"], cache=False)
    for sources_, message in (
        ([], "mix takes a list of datasets"),
        (one, "mix takes a list of datasets"),
        ([one, TensorDataset()], "source 1 is of type TensorDataset"),
        ([one, Subset(other, [])], "source 1 of the mix has no samples"),
        ([one, dp.mix([other])], "source 1 is a mix itself"),
        ([one, more], "source 1 of the mix has other arrays than the first: points"),
        ([more, turned], "the arrays of the first in another order"),
    ):
        with pytest.raises(ConfigError, match=message):
            dp.mix(sources_)
    for inside in (Subset(dp.mix([one]), [0]), ConcatDataset([one, dp.mix([other])])):
        with pytest.raises(ConfigError, match="has lost its proportions"):
            dp.DataLoader(inside)


PINNED = [146, 35, 15, 86, 82, 83, 62, 47, 0, 140]
DIGEST = "5278b3c14c208aba"
