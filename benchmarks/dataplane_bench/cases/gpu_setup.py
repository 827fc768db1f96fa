"""Options of the GPU benchmark, and what its parts have in common: device, sizes, rounds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Final

import torch

from dataplane.errors import ConfigError
from dataplane.gpu.device import Device, checked_device, resolve
from dataplane_bench.model import Case, Cost, Row, System, summarise
from dataplane_bench.rounds import run_rounds

__all__ = ["PARTS", "GpuOptions", "Setup", "Sizes", "target_of"]

PARTS: Final = ("link", "inflate", "place", "passes", "step")
_CODECS: Final = ("lz4", "zstd")
_MOST_THREADS: Final = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of what is measured with.

    Attributes:
        fields: turbulent fields that are inflated and placed together, like a batch.
        edge: edge of each, in elements.
        total_bytes: decoded size of a dataset.
        sample_bytes: decoded size of a sample, about.
        width: channels of the U-Net's finest level.
        link_bytes: bytes of a copy over the link.
        repeats: repetitions of short work in a run.
    """

    fields: int = 4
    edge: int = 256
    total_bytes: int = 1 << 30
    sample_bytes: int = 32 << 20
    width: int = 16
    link_bytes: int = 256 << 20
    repeats: int = 8

    @classmethod
    def for_cpu(cls) -> Sizes:
        """Return sizes that two cores can do in minutes."""
        return cls(2, 128, 256 << 20, 8 << 20, 4, 64 << 20, 1)

    @classmethod
    def small(cls) -> Sizes:
        """Return sizes that only show that everything runs."""
        return cls(1, 32, 1 << 20, 128 << 10, 2, 1 << 20, 2)


def _threads() -> int:
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


@dataclasses.dataclass(frozen=True, slots=True)
class GpuOptions:
    """Options of the GPU case.

    Attributes:
        parts: parts, of `PARTS`; all that mean something on the device when empty.
        device: device, as for `dp.DataLoader`; a GPU if there is one when empty.
        codecs: `lz4`, `zstd`.
        chunk_bytes: decoded sizes of chunks that are inflated and placed.
        ratios: ratios of the datasets, about.
        batch_size: samples of a batch.
        threads: native threads.
        rounds: counted rounds; one more warms up.
        seed: seed of data, weights and the order of systems.
        sizes: sizes; those that suit the device when None.
    """

    parts: tuple[str, ...] = ()
    device: str = ""
    codecs: tuple[str, ...] = _CODECS
    chunk_bytes: tuple[int, ...] = tuple(n << 10 for n in (16, 32, 64, 128, 256, 512))
    ratios: tuple[float, ...] = (1.2, 2.0, 4.0)
    batch_size: int = 2
    threads: int = dataclasses.field(default_factory=_threads)
    rounds: int = 5
    seed: int = 0
    sizes: Sizes | None = None

    def __post_init__(self) -> None:
        for given, known in ((self.parts, PARTS), (self.codecs, _CODECS)):
            for name in given:
                if name not in known:
                    raise ConfigError(f"unknown name {name!r}", hint=f"one of {', '.join(known)}")


def target_of(options: GpuOptions) -> torch.device:
    """Return the device that is measured.

    Raises:
        ConfigError: the option names none.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    found = checked_device(options.device or default)
    assert found is not None
    return found


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """A device, and how things are measured on it.

    Attributes:
        device: device.
        options: options.
        progress: function that is told what is under way.
        on_cpu: whether the device is the CPU, with what stands in for a GPU.
        name: name of the device in titles.
        sizes: sizes.
    """

    device: Device
    options: GpuOptions
    progress: Callable[[str], None]
    on_cpu: bool
    name: str
    sizes: Sizes

    @classmethod
    def of(cls, options: GpuOptions, progress: Callable[[str], None]) -> Setup:
        """Find the device.

        Raises:
            ConfigError: there is no such device.
        """
        device = resolve(target_of(options))
        target = device.torch_device
        on_cpu = target.type == "cpu"
        name = "the CPU" if on_cpu else torch.cuda.get_device_name(target)
        sizes = options.sizes or (Sizes.for_cpu() if on_cpu else Sizes())
        return cls(device, options, progress, on_cpu, name, sizes)

    def rounds(self, systems: Sequence[System]) -> tuple[list[System], list[list[Cost]]]:
        """Run systems in this process; return those that did not fail, and their costs."""
        return run_rounds(
            systems,
            rounds=self.options.rounds,
            warmup=1,
            seed=self.options.seed,
            progress=self.progress,
        )

    def compare(self, case: Case, systems: Sequence[System], ceiling: str) -> list[Row]:
        """Run systems and return their rows."""
        return summarise(case, *self.rounds(systems), ceiling=ceiling)
