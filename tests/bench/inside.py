"""What tests look at inside of the benchmarks: the one place that knows how they are built."""

from __future__ import annotations

from multiprocessing.process import BaseProcess
from typing import Any

from dataplane_bench import isolated
from dataplane_bench.cases.decode_systems import Memcpy, OurDecoder
from dataplane_bench.cases.gpu_data import Staged
from dataplane_bench.isolated import Isolated
from dataplane_bench.raw_socket import RawConnections

STOP_TIMEOUT_S = isolated._STOP_TIMEOUT_S
"""Time that a contender's process has to end by itself."""


def process_of(system: Isolated) -> BaseProcess:
    """The process that a contender runs in."""
    return system._process


def delivered_by(system: Any) -> list[Any]:
    """The boxes that the latest run of a decoder has filled."""
    return list(system._array.outs if isinstance(system, OurDecoder) else system._outs)


def copies_of(ceiling: Memcpy) -> list[Any]:
    """What the threads of the copy ceiling have copied, each its part."""
    return [copy for copy, _ in ceiling._parts]


def received_by(raw: RawConnections) -> memoryview:
    """The memory that this thread's connection receives into."""
    return raw._connection()[1]


def settled_slots(staged: Staged) -> int:
    """How many slots of the ring of staged streams are free."""
    return len(staged.ring._free)
