"""The emulated training step: utilisation by hand, its deadline, what a copy does to it."""

from __future__ import annotations

import pytest

from dataplane_bench.training_step import StepClock, accelerators, utilisation


class _Time:
    """A clock that moves when it is told to, or slept on, a little more than asked for."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self._late_s = late_s

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds + self._late_s

    def clock(self, step_s: float) -> StepClock:
        return StepClock(step_s, now=self.now, sleep=self.sleep)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


def test_utilisation_counts_from_the_request_for_the_third_batch() -> None:
    asked = [0.0, 50.0, 60.0, 63.0, 66.0]
    done = [50.0, 60.0, 63.0, 66.0, 70.0]
    assert utilisation(1.0, asked, done) == pytest.approx(3 / 10)


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_too_few_batches_have_no_utilisation(batches: int) -> None:
    times = [float(n) for n in range(batches)]
    assert utilisation(1.0, times, times) is None


def test_without_a_step_there_is_no_utilisation() -> None:
    assert utilisation(0.0, [0, 1, 2, 3], [1, 2, 3, 4]) is None


def test_batches_asked_for_and_computed_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="3 batches were asked for, 4"):
        utilisation(1.0, [0, 1, 2], [1, 2, 3, 4])


def test_a_loader_that_never_waits_is_used_wholly() -> None:
    time = _Time()
    clock = time.clock(0.01)
    for _ in range(5):
        clock.step(lambda: None)
    assert clock.utilisation() == pytest.approx(1.0)
    assert time.slept == pytest.approx([0.01] * 5)


def test_waiting_for_batches_lowers_it_and_the_first_two_do_not_count() -> None:
    time = _Time()
    clock = time.clock(0.01)
    for wait_s in (5.0, 5.0, 0.01, 0.03):
        time.pass_s(wait_s)
        clock.step(lambda: None)
    assert clock.utilisation() == pytest.approx(0.02 / 0.06)


def test_a_copy_is_within_the_step_and_makes_a_shorter_one_longer() -> None:
    time = _Time()
    clock = time.clock(0.01)
    for copy_s in (0.0, 0.0, 0.004, 0.04):
        clock.step(lambda copy_s=copy_s: time.pass_s(copy_s))
    assert time.slept == pytest.approx([0.01, 0.01, 0.006])
    assert clock.utilisation() == pytest.approx(0.02 / 0.05)


def test_a_late_sleep_counts_as_waiting() -> None:
    clock = _Time(late_s=0.01).clock(0.01)
    for _ in range(4):
        clock.step(lambda: None)
    assert clock.utilisation() == pytest.approx(0.5)


def test_without_a_step_the_batch_is_still_looked_at() -> None:
    time = _Time()
    clock = time.clock(0.0)
    looked: list[int] = []
    clock.step(lambda: looked.append(1))
    assert (looked, time.slept, clock.utilisation()) == ([1], [], None)


def test_demand_is_told_in_accelerators_of_mlperf() -> None:
    assert accelerators(7 * 146_600_628, 0.323) == pytest.approx(1.0)
    assert accelerators(7 * 14_660_062.8, 0.323) == pytest.approx(0.1)
