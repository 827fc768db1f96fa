"""Connections in simulated time share bandwidth as they would if time went on in tiny pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dataplane.planning.network import Network, NetworkSettings, Transfer


def transfer(number: int, *lengths: int) -> Transfer:
    return Transfer(number, [number] * len(lengths), list(lengths), [True] * len(lengths))


def arrivals(network: Network) -> list[tuple[int, float]]:
    """All blocks that come: the rank of the request, and when."""
    found = []
    while (now_s := network.next_s()) < math.inf:
        came = network.step(now_s)
        if came is not None:
            found.append((came.rank, now_s))
    return found


def by_slices(
    settings: NetworkSettings, transfers: list[Transfer], slice_s: float
) -> dict[tuple[int, int], float]:
    """When each block of each request comes, by adding up what comes in tiny slices of time."""
    had = [0.0] * len(transfers)
    came: dict[tuple[int, int], float] = {}
    ends = [np.cumsum(one.lengths) for one in transfers]
    now_s = settings.first_byte_s
    while len(came) < sum(len(one.lengths) for one in transfers):
        open_ones = [at for at, end in enumerate(ends) if had[at] < end[-1]]
        rate = min(
            settings.connection_bytes_per_s or math.inf,
            (settings.bandwidth_bytes_per_s or math.inf) / len(open_ones),
        )
        now_s += slice_s
        for at in open_ones:
            had[at] += rate * slice_s
            for block, end in enumerate(ends[at]):
                if had[at] >= end:
                    came.setdefault((at, block), now_s)
    return came


def test_a_block_takes_its_first_byte_and_its_bytes():
    network = Network(NetworkSettings(0.5, None, 100.0))
    network.begin(transfer(0, 100, 50), 0.0)
    assert arrivals(network) == [(0, pytest.approx(1.5)), (0, pytest.approx(2.0))]
    assert network.active == 0
    assert network.busy.first_byte_s == pytest.approx(0.5)
    assert network.busy.single_s == pytest.approx(1.5)
    assert network.busy.shared_s == 0


def test_connections_share_all_the_bandwidth_equally():
    network = Network(NetworkSettings(0.0, 100.0, 80.0))
    network.begin(transfer(0, 100), 0.0)
    network.begin(transfer(1, 50), 0.0)
    # Both at 50 until the second is whole; then the first at its own limit.
    assert arrivals(network) == [(1, pytest.approx(1.0)), (0, pytest.approx(1.0 + 50 / 80))]
    assert network.busy.shared_s == pytest.approx(2.0)
    assert network.busy.single_s == pytest.approx(50 / 80)


@pytest.mark.parametrize("seed", range(4))
def test_arrivals_are_those_of_time_in_slices(seed: int):
    rng = np.random.default_rng(seed)
    settings = NetworkSettings(0.1, 1000.0, 300.0)
    transfers = [
        transfer(number, *rng.integers(20, 200, rng.integers(1, 4)).tolist()) for number in range(6)
    ]
    expected = by_slices(settings, transfers, 1e-4)
    network = Network(settings)
    for one in transfers:
        network.begin(one, 0.0)
    places = [0] * len(transfers)
    for number, now_s in arrivals(network):
        assert now_s == pytest.approx(expected[number, places[number]], abs=2e-3)
        places[number] += 1
    assert places == [len(one.lengths) for one in transfers]


def test_what_connections_can_bring_is_limited_by_first_bytes_and_by_the_whole():
    settings = NetworkSettings(0.1, 1000.0, 100.0)
    assert settings.available(2, 10) == pytest.approx(2 * 10 / 0.2)
    assert settings.available(100, 1000) == 1000.0
    assert settings.available(4, 0) == 1000.0
