"""Interleaved rounds of systems, so that drift of a shared machine hits all of them alike.

Each round runs every system once in an order drawn anew from the seed; the first rounds warm up
and are not counted. A system that fails is reported and left out; the others go on.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dataplane.errors import DataplaneError
from dataplane.telemetry import logger
from dataplane_bench.isolated import Isolated, RivalFailed
from dataplane_bench.model import Cost, LeftOut, System, is_ceiling, is_ours
from dataplane_bench.process_memory import children_of

__all__ = ["cpu_seconds", "first_line", "run_rounds", "start_all", "timed"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """Processor time of this process and all its descendants, finished or still at work.

    `getrusage` counts children only once they have ended; worker processes that stay alive between
    epochs are read from /proc. Source: proc(5), fields 14 to 17 of /proc/PID/stat.
    """
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    pending = children_of(os.getpid())
    while pending:
        pid = pending.pop()
        with suppress(OSError):  # it may end while we look
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2]
            total += sum(int(ticks) for ticks in fields.split()[11:15]) / _TICKS_PER_S
            pending += children_of(pid)
    return total


def timed(work: Callable[[], int], *, samples: int) -> Cost:
    """Run `work`, which returns the bytes that it delivered."""
    cpu, start = cpu_seconds(), time.perf_counter()
    nbytes = work()
    return Cost(time.perf_counter() - start, cpu_seconds() - cpu, nbytes, samples)


def start_all(
    contenders: Sequence[tuple[str, int, Callable[[], System]]],
    progress: Callable[[str], None] = lambda _: None,
) -> list[System]:
    """Start every `(name, threads, build)` in a process of its own.

    A rival that cannot start (most often: is not installed) is reported and left out.

    Raises:
        RivalFailed: our own system or a ceiling could not start; those that did are stopped.
    """
    systems: list[System] = []
    try:
        for name, threads, build in contenders:
            progress(f"starting {name}")
            try:
                systems.append(Isolated(name, threads, build))
            except RivalFailed as err:
                if is_ours(name) or is_ceiling(name):
                    raise
                logger.warning("%s cannot start and is left out: %s", name, first_line(err))
    except BaseException:
        for system in systems:
            system.close()
        raise
    return systems


def run_rounds(
    systems: Sequence[System],
    *,
    rounds: int,
    warmup: int,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
    left_out: list[LeftOut] | None = None,
) -> tuple[list[System], list[list[Cost]]]:
    """Run every system `warmup + rounds` times, interleaved.

    Args:
        systems: contenders; they are closed at the end.
        rounds: counted rounds.
        warmup: rounds before them.
        seed: seed of the order of systems.
        progress: function that is told who runs.
        left_out: list that rivals which fail are added to.

    Returns:
        The systems that did not fail, and per system the costs of its counted rounds.

    Raises:
        DataplaneError: our own system or a ceiling failed; a rival's failure is only logged.
    """
    order = random.Random(seed)
    alive = list(systems)
    costs: dict[int, list[Cost]] = {id(system): [] for system in systems}
    try:
        for number in range(warmup + rounds):
            for system in order.sample(alive, len(alive)):
                progress(system.name)
                try:
                    cost = system.run()
                except Exception as err:
                    if is_ours(system.name) or is_ceiling(system.name):
                        raise
                    logger.warning("%s failed and is left out: %s", system.name, first_line(err))
                    if left_out is not None:
                        left_out.append(
                            LeftOut(f"{system.name}, {system.threads} workers", first_line(err))
                        )
                    alive.remove(system)
                    continue
                if number >= warmup:
                    costs[id(system)].append(cost)
    finally:
        for system in systems:
            with suppress(DataplaneError, OSError):
                system.close()
    return alive, [costs[id(system)] for system in alive]


def first_line(err: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    text = str(err).strip().splitlines()
    return f"{type(err).__name__}: {text[0] if text else ''}"
