"""Interleaved rounds: order, warm-up, failing rivals."""

from __future__ import annotations

import dataclasses

import pytest

from dataplane_bench.model import Cost
from dataplane_bench.rounds import run_rounds, timed


class _Fake:
    def __init__(self, name: str, log: list[str], fails_at: int | None = None) -> None:
        self.name, self.threads, self.closed = name, 1, False
        self._log, self._runs, self._fails_at = log, 0, fails_at

    def run(self) -> Cost:
        self._runs += 1
        self._log.append(self.name)
        if self._runs == self._fails_at:
            raise RuntimeError("broken\nsecond line")
        return Cost(1.0, 0.5, 10**9, self._runs)

    def close(self) -> None:
        self.closed = True


def test_every_round_runs_each_system_once_and_warm_up_is_not_counted() -> None:
    log: list[str] = []
    systems = [_Fake(name, log) for name in ("dataplane", "rival", "ceiling:x")]
    alive, costs = run_rounds(systems, rounds=4, warmup=1, seed=3)
    rounds = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert all(sorted(one) == ["ceiling:x", "dataplane", "rival"] for one in rounds)
    assert len(rounds) == 5
    assert len({tuple(one) for one in rounds}) > 1, "the order changes between rounds"
    assert [len(runs) for runs in costs] == [4, 4, 4]
    assert all(cost.samples > 1 for runs in costs for cost in runs), "the first run is not counted"
    assert alive == systems


def test_a_rival_that_fails_is_left_out_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    systems = [_Fake("dataplane", log), _Fake("rival", log, fails_at=2)]
    alive, costs = run_rounds(systems, rounds=3, warmup=1, seed=0)
    assert [system.name for system in alive] == ["dataplane"]
    assert [len(runs) for runs in costs] == [3]
    assert "rival failed and is left out: RuntimeError: broken" in caplog.text
    assert all(system.closed for system in systems)


@pytest.mark.parametrize("name", ["dataplane", "ceiling:memcpy"])
def test_a_failure_of_ours_or_of_a_ceiling_ends_the_benchmark(name: str) -> None:
    systems = [_Fake(name, [], fails_at=1)]
    with pytest.raises(RuntimeError, match="broken"):
        run_rounds(systems, rounds=1, warmup=0, seed=0)
    assert systems[0].closed


def test_timed_reports_the_processor_time_of_its_work() -> None:
    def work() -> int:
        return len(bytes(50_000_000).replace(b"\0", b"\1"))

    cost = timed(work, samples=2)
    assert cost.nbytes == 50_000_000
    assert cost.samples == 2
    assert cost.cpu_s > 0
    assert dataclasses.asdict(cost)["first_batch_s"] is None
