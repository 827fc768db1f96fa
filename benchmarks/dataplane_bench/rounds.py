"""Runs systems in interleaved rounds, so that drift of a shared machine hits all of them alike.

Each round runs every system once in an order drawn anew from the seed; the first rounds warm up
and are not counted. A system that fails is reported and left out; the others go on.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from dataplane.errors import DataplaneError
from dataplane.telemetry import logger
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Cost, System

__all__ = ["cpu_seconds", "run_rounds", "timed"]


def cpu_seconds() -> float:
    """Processor time of this process and its finished children, user and system."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def timed(work: Callable[[], int], *, samples: int) -> Cost:
    """Run `work`, which returns the bytes that it delivered."""
    cpu, start = cpu_seconds(), time.perf_counter()
    nbytes = work()
    return Cost(time.perf_counter() - start, cpu_seconds() - cpu, nbytes, samples)


def run_rounds(
    systems: Sequence[System],
    *,
    rounds: int,
    warmup: int,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[System], list[list[Cost]]]:
    """Run every system `warmup + rounds` times, interleaved.

    Returns:
        The systems that survived, and per system the costs of its counted rounds.

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
                    if system.name == OUR_SYSTEM or system.name.startswith(CEILING_PREFIX):
                        raise
                    logger.warning("%s failed and is left out: %s", system.name, _first_line(err))
                    alive.remove(system)
                    continue
                if number >= warmup:
                    costs[id(system)].append(cost)
    finally:
        for system in systems:
            with suppress(DataplaneError, OSError):
                system.close()
    return alive, [costs[id(system)] for system in alive]


def _first_line(err: Exception) -> str:
    text = str(err).strip().splitlines()
    return f"{type(err).__name__}: {text[0] if text else ''}"
