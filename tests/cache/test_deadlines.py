"""A step is due when its reader will come to it, at the pace that it had so far."""

from __future__ import annotations

import pytest

from dataplane.cache.fetch.deadlines import LEAST_S, MOST_S, Deadlines


def test_before_the_first_step_everything_is_due_soon():
    deadlines = Deadlines(100.0)
    assert [deadlines.due_s(step, 100.0) for step in (0, 5, 1000)] == [100.0 + LEAST_S] * 3


def test_a_steady_reader_comes_to_a_step_when_it_is_due():
    deadlines = Deadlines(100.0)
    for step in range(1, 6):
        deadlines.reach(step, 100.0 + 0.5 * step)
    assert deadlines.due_s(9, 102.5) == pytest.approx(104.5)


def test_several_steps_at_once_count_as_several():
    one, other = Deadlines(0.0), Deadlines(0.0)
    for step in range(1, 9):
        one.reach(step, 0.4 * step)
    other.reach(8, 3.2)
    assert one.due_s(16, 3.2) == pytest.approx(other.due_s(16, 3.2)) == pytest.approx(6.4)


def test_the_latest_steps_count_most():
    deadlines = Deadlines(0.0)
    for step in range(1, 21):
        deadlines.reach(step, 1.0 * step)
    for step in range(21, 41):
        deadlines.reach(step, 20.0 + 0.1 * (step - 20))
    assert deadlines.due_s(90, 22.0) == pytest.approx(27.0, abs=0.5)


def test_nothing_is_due_at_once_or_never():
    deadlines = Deadlines(0.0)
    deadlines.reach(1, 2.0)
    assert deadlines.due_s(1, 2.0) == 2.0 + LEAST_S
    assert deadlines.due_s(100_000, 2.0) == 2.0 + MOST_S
    fast = Deadlines(0.0)
    fast.reach(1000, 0.001)
    assert fast.due_s(1001, 50.0) == 50.0 + LEAST_S


def test_what_comes_later_in_the_plan_is_not_due_earlier():
    deadlines = Deadlines(0.0)
    deadlines.reach(1, 2.0)
    first = deadlines.due_s(5, 2.0)
    for step in range(2, 60):
        deadlines.reach(step, 2.0 + 0.001 * step)
    assert deadlines.due_s(61, 2.1) == first


def test_a_break_between_epochs_does_not_slow_the_pace():
    deadlines = Deadlines(0.0)
    for step in range(1, 5):
        deadlines.reach(step, 0.5 * step)
    assert deadlines.due_s(6, 2.0, is_certain=False) == 2.0 + MOST_S
    deadlines.go_on(300.0)
    deadlines.reach(5, 300.5)
    assert deadlines.due_s(9, 300.5) == pytest.approx(302.5)


def test_a_step_that_was_reached_before_changes_nothing():
    deadlines = Deadlines(0.0)
    deadlines.reach(4, 2.0)
    deadlines.reach(4, 90.0)
    deadlines.reach(3, 91.0)
    assert deadlines.due_s(8, 2.0) == pytest.approx(4.0)
