"""Parts of `dataplane bench cache` that measure no throughput: hit rates, and many entries."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner

from dataplane.datasets.ownership import Nodes
from dataplane_bench.cases import cache
from dataplane_bench.cases.cache_entries import entry_costs
from dataplane_bench.cases.cache_hit_rate import _ideal_lru, _orders, hit_rates
from dataplane_bench.cases.cache_nodes import node_rates, simulated_rates
from dataplane_bench.command import bench


def _quiet(_: str) -> None:
    pass


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_ideal_lru_cache_has_the_hit_rate_of_the_formula(share: float) -> None:
    rates = _ideal_lru(_orders(1000, 4, 0), round(share * 4000))
    assert sum(rates) / 4 == pytest.approx(share + (1 - share) * math.log(1 - share), abs=0.02)


def test_hit_rates_with_a_plan_are_the_share_and_better_than_without(tmp_path) -> None:
    figures = hit_rates(tmp_path, shares=(0.5,), blocks=120, epochs=2, seed=1, progress=_quiet)
    rates = {one.subject: one.value for one in figures}
    assert rates["ceiling:optimum"] == 0.5
    assert rates["dataplane"] == pytest.approx(0.5, abs=0.05)
    assert rates["dataplane without a plan"] < 0.4
    assert rates["ideal LRU"] == pytest.approx(0.15, abs=0.1)
    assert list(tmp_path.iterdir()) == []


def test_caches_of_nodes_that_hold_the_dataset_together_have_the_rates_that_were_reckoned() -> None:
    for share, low, high in ((4, 0.76, 0.84), (16, 0.87, 0.93), (64, 0.93, 0.97)):
        for count in (4, 16):
            *_, rate = simulated_rates(Nodes(count, 25 * share * count), share, 3)
            assert low < rate < high
    half = simulated_rates(Nodes(8, 3200), 16, 2, room=0.5)
    assert half == pytest.approx([0.5, 0.5], abs=0.05)
    (alone,) = simulated_rates(Nodes(1, 100), 4, 1)
    assert alone == 1


def test_ranks_with_caches_of_their_own_hit_as_often_as_was_simulated(tmp_path) -> None:
    figures = node_rates(tmp_path, nodes=2, samples=160, epochs=2, seed=0, progress=_quiet)
    rates = {one.subject: one.value for one in figures if one.dataset.startswith("160 samples")}
    assert rates["dataplane"] == pytest.approx(rates["ceiling:simulated"], abs=0.06)
    assert rates["private caches"] == pytest.approx(0.5, abs=0.1)
    assert list(tmp_path.iterdir()) == []


def test_every_operation_is_measured_at_every_number_of_entries(tmp_path) -> None:
    figures = entry_costs(tmp_path, counts=(100, 50), rounds=1, seed=0, progress=_quiet)
    operations = {one.subject for one in figures}
    assert len(operations) == 10
    assert len(figures) == 2 * len(operations)
    assert all(one.value > 0 for one in figures)
    assert list(tmp_path.iterdir()) == []


def test_parts_can_be_chosen(tmp_path) -> None:
    options = cache.CacheOptions(
        parts=("hit-rate",), cache_dir=tmp_path, shares=(0.5,), rate_blocks=20, rounds=1
    )
    rows, figures = cache.run(options, _quiet)
    assert rows == []
    assert {one.quantity.partition(" with")[0] for one in figures} == {
        "hit rate of shuffled epochs"
    }
    assert list(tmp_path.iterdir()) == []


def test_a_chart_of_hit_rates_alone_is_drawn(tmp_path) -> None:
    plot = tmp_path / "rates.svg"
    options = ["--part", "hit-rate", "--smoke", "--json", "--cache-dir", str(tmp_path)]
    done = CliRunner().invoke(bench, ["cache", *options, "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    assert "hit rate of shuffled epochs" in plot.read_text()
