"""Permutations: bijections by brute force, and statistics of them over positions, seeds and epochs.

Statistics are given as deviations from what is expected of random permutations, in its standard
deviations. Seeds are fixed, so nothing here is left to chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

import dataplane as dp
from dataplane.datasets import permutations
from dataplane.datasets.permutations import MAX_SAMPLES, SORTED_SAMPLES, Permutation, permutation
from dataplane.errors import ConfigError

FAR = 4.5
"""Deviations that no statistic here may have; one in 150,000 would by chance."""

LARGE = 200_003


@pytest.fixture(params=["sorted", "network"])
def definition(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either definition, at every length but 0."""
    if request.param == "network":
        monkeypatch.setattr(permutations, "SORTED_SAMPLES", 0)
    return str(request.param)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutations, "SORTED_SAMPLES", 0)


def deviation(counts: npt.NDArray[np.int64], freedom: int | None = None) -> float:
    """Chi-square of counts that should all be equal, as a deviation from its mean."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1 if freedom is None else freedom
    found = float(((counts - expected) ** 2 / expected).sum())
    return (found - freedom) / float(np.sqrt(2 * freedom))


def joint(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64], n: int, bins: int) -> float:
    """Deviation of how pairs of samples fall into `bins` × `bins` equal parts."""
    cell = (one * bins // n) * bins + other * bins // n
    return deviation(np.bincount(cell, minlength=bins * bins))


def correlation(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    return float(np.corrcoef(one, other)[0, 1]) * float(np.sqrt(len(one)))


def test_every_length_up_to_300_is_a_bijection_that_its_inverse_undoes(definition: str) -> None:
    for n in range(301):
        order = Permutation(n, 5, n % 7)
        samples = order.at(np.arange(n))
        assert sorted(samples.tolist()) == list(range(n))
        assert order.inverse(samples).tolist() == list(range(n))


@pytest.mark.parametrize(
    "n", [SORTED_SAMPLES - 1, SORTED_SAMPLES, SORTED_SAMPLES + 1, LARGE, 2**20]
)
def test_long_orders_are_bijections_that_their_inverses_undo(n: int) -> None:
    samples = permutation(n, seed=3, epoch=9)
    assert np.array_equal(np.sort(samples), np.arange(n))
    assert np.array_equal(Permutation(n, 3, 9).inverse(samples), np.arange(n))


@pytest.mark.parametrize("n", [1000, LARGE, 10**9, MAX_SAMPLES])
def test_any_few_positions_are_as_in_the_whole(n: int) -> None:
    order = Permutation(n, 2**64 - 1, 1)
    positions = np.random.default_rng(0).integers(0, n, (5, 41))
    samples = order.at(positions)
    assert samples.shape == positions.shape
    assert samples.dtype == np.int64
    assert 0 <= samples.min() <= samples.max() < n
    assert np.array_equal(order.inverse(samples), positions)
    assert [int(order.at(int(p))) for p in positions[0]] == samples[0].tolist()
    if n <= LARGE:
        assert np.array_equal(permutation(n, seed=2**64 - 1, epoch=1)[positions], samples)


def test_an_order_holds_little_however_long_it_is() -> None:
    def held_bytes(n: int) -> int:
        parts = vars(Permutation(n, 1, 1)).values()
        return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))

    assert held_bytes(MAX_SAMPLES) == 8 * permutations.ROUNDS
    assert held_bytes(SORTED_SAMPLES) == 2 * SORTED_SAMPLES


def test_what_comes_out_beyond_the_end_is_put_in_again(network: None) -> None:
    """The worst case, of 3 samples in 2 × 2 pairs: some do for every key."""
    for seed in range(200):
        assert sorted(permutation(3, seed=seed, epoch=0).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 12, 40])
def test_each_sample_goes_everywhere_equally_often(definition: str, n: int) -> None:
    seeds = 3000
    counts = np.zeros((n, n), np.int64)
    for seed in range(seeds):
        counts[np.arange(n), permutation(n, seed=seed, epoch=seed % 3)] += 1
    assert abs(deviation(counts, (n - 1) ** 2)) < FAR


@pytest.mark.parametrize("n", [3, 4, 5, 9])
def test_each_pair_of_neighbours_comes_equally_often(definition: str, n: int) -> None:
    counts = np.zeros((n, n), np.int64)
    for seed in range(4000):
        order = permutation(n, seed=seed, epoch=1)
        counts[order[0], order[1]] += 1
    assert not counts.diagonal().any()
    assert abs(deviation(counts[~np.eye(n, dtype=bool)])) < FAR


def test_samples_of_a_long_order_go_everywhere_equally_often_over_seeds() -> None:
    positions = np.linspace(0, LARGE - 1, 32).astype(np.int64)
    bins = 50
    counts = np.zeros((len(positions), bins), np.int64)
    for seed in range(2000):
        samples = Permutation(LARGE, seed, 0).at(positions)
        counts[np.arange(len(positions)), samples * bins // LARGE] += 1
    assert abs(deviation(counts, len(positions) * (bins - 1))) < FAR


def neighbours(order: npt.NDArray[np.int64], n: int) -> dict[str, float]:
    """Deviations of samples that lie near each other in the order."""
    width = -(-n // (int(np.sqrt(n - 1)) + 1))
    found = {}
    for lag in (1, 2, 3, 64, width, width + 1):
        found[f"pairs {lag}"] = joint(order[:-lag], order[lag:], n, 32)
        found[f"steps {lag}"] = deviation(
            np.bincount((order[lag:] - order[:-lag]) % n * 64 // n, minlength=64)
        )
        found[f"correlation {lag}"] = correlation(order[:-lag], order[lag:])
    found["low bits"] = deviation(np.bincount(order[:-1] % 16 * 16 + order[1:] % 16, minlength=256))
    return found


@pytest.mark.parametrize("n", [SORTED_SAMPLES, SORTED_SAMPLES + 1, LARGE, 2**18])
def test_neighbours_in_an_order_have_nothing_to_do_with_each_other(n: int) -> None:
    for epoch in range(4):
        for name, far in neighbours(permutation(n, seed=11, epoch=epoch), n).items():
            assert abs(far) < FAR, (name, epoch)


def test_neighbours_at_a_billion_have_nothing_to_do_with_each_other() -> None:
    n, order = 10**9, Permutation(10**9, 1, 0)
    for first in (0, 123_456_789, n - 200_000):
        samples = order.at(np.arange(first, first + 200_000))
        for name, far in neighbours(samples, n).items():
            assert abs(far) < FAR, (name, first)


def between(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64], n: int) -> dict[str, float]:
    """Deviations of two orders, position by position."""
    return {
        "pairs": joint(one, other, n, 32),
        "moves": deviation(np.bincount((other - one) % n * 64 // n, minlength=64)),
        "correlation": correlation(one, other),
        "equal": float((one == other).sum() - 1),  # Poisson, of mean and variance 1
    }


@pytest.mark.parametrize("n", [5000, LARGE])
def test_epochs_have_nothing_to_do_with_each_other(n: int) -> None:
    orders = [permutation(n, seed=4, epoch=epoch) for epoch in (0, 1, 2, 3, 2**20, 2**20 + 1)]
    for place, one in enumerate(orders):
        for other in orders[:place]:
            for name, far in between(one, other, n).items():
                assert abs(far) < (FAR if name != "equal" else 7), name


@pytest.mark.parametrize("n", [5000, SORTED_SAMPLES + 1])
def test_each_bit_of_the_seed_gives_an_order_of_its_own(n: int) -> None:
    seed = 0x0123456789ABCDEF
    order = permutation(n, seed=seed, epoch=0)
    for bit in range(64):
        other = permutation(n, seed=seed ^ (1 << bit), epoch=0)
        for name, far in between(order, other, n).items():
            assert abs(far) < (FAR if name != "equal" else 7), (name, bit)


def test_lengths_that_differ_by_one_have_orders_of_their_own() -> None:
    one, other = (permutation(n, seed=1, epoch=0)[:LARGE] for n in (LARGE, LARGE + 1))
    assert (one == other).sum() < 8


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_statistics_notice_too_few_rounds(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutations, "ROUNDS", rounds)
    found = neighbours(permutation(LARGE, seed=11, epoch=0), LARGE)
    assert max(map(abs, found.values())) > 10 * FAR


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        ("another seed", lambda n: permutation(n, seed=12, epoch=0)),
        ("another epoch", lambda n: permutation(n, seed=11, epoch=1)),
        ("seed and epoch changed about", lambda n: permutation(n, seed=0, epoch=11)),
    ],
)
@pytest.mark.parametrize("n", [100, LARGE])
def test_what_an_order_depends_on(
    n: int, change: str, measure: Callable[[int], npt.NDArray[np.int64]]
) -> None:
    order = permutation(n, seed=11, epoch=0)
    assert np.array_equal(order, permutation(n, seed=11, epoch=0))
    assert not np.array_equal(order, measure(n)), change


PINNED = {
    (10, 7, 3): [2, 4, 7, 3, 5, 1, 8, 9, 0, 6],
    (65_537, 0, 0): [2977, 44660, 47892, 53162, 32907],
    (10**9, 7, 3): [270363839, 779064881, 855246217, 314265439, 89419149],
    (2**48, 2**64 - 1, 5): [
        256594789292699, 116626986396757, 257721325818513, 36658632436728, 39917476473233,
    ],
}  # fmt: skip
"""Of (n, seed, epoch): all samples, or those at the positions 0, 1, 2, n // 2 and n - 1."""

DIGESTS = {
    (1000, 7, 3): "160278cb88d645cb",
    (65_536, 2**63 + 5, 12): "14461be25fdc00af",
    (65_537, 7, 3): "70d393b05eb52240",
    (200_003, 2**64 - 1, 1): "8bef668b1533ea21",
}
"""The first two are those of states of version 2 as well, which resume with them."""


def test_the_order_of_a_released_version_never_changes() -> None:
    for (n, seed, epoch), expected in PINNED.items():
        positions = np.arange(len(expected)) if n == len(expected) else [0, 1, 2, n // 2, n - 1]
        assert Permutation(n, seed, epoch).at(positions).tolist() == expected, n
    for (n, seed, epoch), digest in DIGESTS.items():
        content = permutation(n, seed=seed, epoch=epoch).astype("<i8").tobytes()
        assert hashlib.sha256(content).hexdigest()[:16] == digest, n


@pytest.mark.parametrize(
    "call",
    [
        lambda: permutation(-1, seed=0, epoch=0),
        lambda: permutation(3, seed=-1, epoch=0),
        lambda: permutation(3, seed=2**64, epoch=0),
        lambda: permutation(3, seed=0, epoch=-1),
        lambda: Permutation(MAX_SAMPLES + 1, 0, 0),
        lambda: Permutation(3, 0, 0).at([0.5]),
    ],
)
def test_numbers_out_of_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        call()


@pytest.mark.parametrize("n", [10, LARGE])
@pytest.mark.parametrize("name", ["at", "inverse"])
def test_positions_and_samples_that_are_not_there_are_index_errors(n: int, name: str) -> None:
    call = getattr(dp.Permutation(n, 0, 0), name)
    assert call([]).tolist() == []
    for wrong in (-1, n):
        with pytest.raises(IndexError, match=f"{wrong} of an order of {n}"):
            call([0, wrong])
