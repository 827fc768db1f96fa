"""Deadlines of the steps of a plan, for downloads earliest deadline first (EDF) over all plans.

The reader says when it reaches a step, and that is all that is known of its speed. Its time per
step is an exponential moving average; a step that is n ahead of it is due after n times that.
Nothing planned is due sooner than in `LEAST_S`, so that unplanned reads, due at once, go first; and
nothing later than in `MOST_S`, so that it does not wait for ever behind faster plans. The next
epoch is due then, too: when it begins, or whether, is not known.

What is asked for later in a plan is never due earlier: a plan is fetched in its order. Times are
those of `time.monotonic`. Not thread-safe; its owner is a plan.
"""

from __future__ import annotations

__all__ = ["LEAST_S", "MOST_S", "Deadlines"]

LEAST_S = 1.0
MOST_S = 10.0

_LATEST_SHARE = 0.25  # of the mean; the last ten steps make up nearly all of it


class Deadlines:
    """Deadlines of the steps of one plan, at the speed of its reader.

    Args:
        now_s: time at which it began.
    """

    def __init__(self, now_s: float) -> None:
        self._step = 0
        self._reached_s = now_s
        self._step_s: float | None = None
        self._last_due_s = now_s

    def reach(self, step: int, now_s: float) -> None:
        """Note that the reader has come to a step beyond those before."""
        passed = step - self._step
        if passed <= 0:
            return
        sample_s = max(0.0, now_s - self._reached_s) / passed
        weight = 1.0 if self._step_s is None else 1 - (1 - _LATEST_SHARE) ** passed
        self._step_s = (self._step_s or 0.0) * (1 - weight) + sample_s * weight
        self._step, self._reached_s = step, now_s

    def go_on(self, now_s: float) -> None:
        """Note that the reader goes on after a break, as between two epochs."""
        self._reached_s = self._last_due_s = now_s

    def due_s(self, step: int, now_s: float, *, is_certain: bool = True) -> float:
        """Return the deadline of the reads of a step; asked in the order of the plan.

        Args:
            step: step that needs them.
            now_s: present time.
            is_certain: whether the reader is sure to come to that step.
        """
        expected_s = self._reached_s + (step - self._step) * (self._step_s or 0.0)
        due_s = min(max(expected_s, now_s + LEAST_S), now_s + MOST_S)
        if not is_certain:
            due_s = now_s + MOST_S
        self._last_due_s = max(self._last_due_s, due_s)
        return self._last_due_s
