"""An emulated training step, and the utilisation of the accelerator that it stands for.

A step of a GPU takes no processor time, so an emulated one sleeps until its deadline on the
monotonic clock: the time that its batch arrived plus the length of the step. Within that time the
batch is copied once to memory that is reused, as it would be to a device: a real copy takes
bandwidth of memory from a loader that works meanwhile. A copy longer than the step makes it longer.

*Utilisation* (AU) is computed time over wall time, as MLPerf Storage defines it: the nominal length
of all steps from the third batch on, over the time from the moment when the loop asks for the third
batch to the end of its last step. The first two batches are left out: what happens before a
pipeline is filled is told by the time to the first batch. A sleep that ends late, as sleeps do by
some 0.1 ms, counts as waiting, so that the figure is never too good.

The shape of its workload `unet3d` is kept: whole volumes, seven per step, read in a new order every
epoch. Its volumes are ten times as large as ours, and an H100 takes them at 3.2 GB/s, which no
machine of two cores decodes; so the step is `SCALED_STEP` times our own time to load a batch on
this machine, and `accelerators` tells how many H100 would ask for as much.
Source: mlcommons/storage, configs/dlio/workload/unet3d_h100.yaml.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

__all__ = [
    "SCALED_STEP",
    "SKIPPED_BATCHES",
    "UNET3D_BATCH_SIZE",
    "StepClock",
    "accelerators",
    "utilisation",
]

SKIPPED_BATCHES = 2
SCALED_STEP = 1.5
"""Step of the scaled workload over our own time to load its batch."""
UNET3D_BATCH_SIZE = 7
_UNET3D_SAMPLE_BYTES = 146_600_628
_UNET3D_STEP_S = 0.323


def utilisation(
    step_s: float, asked_s: Sequence[float], done_s: Sequence[float], *, skip: int = SKIPPED_BATCHES
) -> float | None:
    """Return the share of time that an accelerator computed, None of too few batches or no step.

    Args:
        step_s: nominal length of a step.
        asked_s: times when each batch was asked for, s of one clock.
        done_s: times when each batch's step was over.
        skip: batches at the beginning that do not count.

    Raises:
        ValueError: the times are not of the same batches.

    Example:
        >>> utilisation(1.0, [0.0, 3.0, 5.0, 6.0], [3.0, 5.0, 6.0, 9.0])
        0.5
    """
    if len(asked_s) != len(done_s):
        raise ValueError(f"{len(asked_s)} batches were asked for, {len(done_s)} were computed")
    if step_s <= 0 or len(done_s) <= skip:
        return None
    return step_s * (len(done_s) - skip) / (done_s[-1] - asked_s[skip])


def accelerators(batch_bytes: float, step_s: float) -> float:
    """Return the number of H100 of MLPerf's unet3d that take as many bytes per second.

    Example:
        >>> round(accelerators(7 * 146_600_628, 0.323), 6)
        1.0
    """
    return (batch_bytes / step_s) / (UNET3D_BATCH_SIZE * _UNET3D_SAMPLE_BYTES / _UNET3D_STEP_S)


class StepClock:
    """The clock of an emulated training loop: steps, and when each began to wait and was done.

    Args:
        step_s: length of a step; 0 computes nothing.
        now: monotonic clock, s.
        sleep: function that sleeps for some seconds.
    """

    def __init__(
        self,
        step_s: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._step_s, self._now, self._sleep = step_s, now, sleep
        self._done_s: list[float] = []
        self._asked_s = [now()]

    def step(self, work: Callable[[], None]) -> None:
        """Compute on a batch that has just arrived.

        Args:
            work: function that does what is real of the step: copies and looks at the batch.
        """
        deadline_s = self._now() + self._step_s
        work()
        while (left_s := deadline_s - self._now()) > 0:
            self._sleep(left_s)
        self._done_s.append(self._now())
        self._asked_s.append(self._done_s[-1])

    def utilisation(self) -> float | None:
        """Return the utilisation so far; see the function of that name."""
        return utilisation(self._step_s, self._asked_s[: len(self._done_s)], self._done_s)
