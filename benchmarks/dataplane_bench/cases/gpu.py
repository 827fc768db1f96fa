"""The GPU case: the steps of both routes to a device, whole passes, and a training step beside.

    link     copies from pinned memory as the loader makes them, alone and beside the step, beside
             plain copies between two buffers (the ceiling) and copies from ordinary memory
    inflate  streams that are on the device, by codec and chunk size; beside what the CPU does by
             either route (the native decoder, which also un-shuffles and places, and the gathering
             of streams), DALI's inflater, and a copy within the device (the ceiling)
    place    un-shuffling and placing, as the loader does it and the kernel alone, beside a copy of
             as many bytes within the device (the ceiling)
    passes   whole passes of the loader by each route, for datasets of several ratios; beside the
             link, with compressed bytes (the ceiling) and with decoded ones (that of the cpu route)
    step     utilisation: the time of the steps alone over that of a pass that trains with a real
             3D U-Net

Without a GPU the rows are those of the CPU. The native decoder and the cpu route are then what they
are anywhere. The gpu route runs with what stands in for a GPU in the loader (`device="cpu"`): the
native decoder inflates, NumPy places; rows say so, and are for seeing that the route works and
where its host part is slow, not for a guess at a GPU. The Triton kernel is left out: interpreted,
it is a test and takes seconds for what takes a GPU microseconds. So is the link, which would be a
copy from memory to memory, and, unless it is asked for, the step: on the CPU it takes cores from
the decoder, and its share says nothing.

The dataset is a local one without a cache of its own, so its files are in the page cache: what is
measured is what comes after the store.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

import dataplane as dp
from dataplane.errors import ConfigError
from dataplane.gpu.device import Device, checked_device, resolve
from dataplane.gpu.inflate import HostInflater
from dataplane.loader.device_batches import inflater_for
from dataplane.shards import WriteOptions
from dataplane.units import format_bytes, format_duration
from dataplane_bench.cases import gpu_data, gpu_systems
from dataplane_bench.cases.gpu_step import UNetStep
from dataplane_bench.model import (
    CEILING_PREFIX,
    OUR_SYSTEM,
    Case,
    Cost,
    Figure,
    Row,
    System,
    figure,
    summarise,
)
from dataplane_bench.rounds import run_rounds

__all__ = ["CPU_ROWS", "NO_GPU", "PARTS", "GpuOptions", "Sizes", "run", "shares_of", "target_of"]

PARTS: Final = ("link", "inflate", "place", "passes", "step")
CPU_ROWS: Final = "rows of the CPU, without the link; what stands in for a GPU is named"
NO_GPU: Final = f"no GPU here that torch sees: {CPU_ROWS}"
_CPU_PARTS: Final = ("inflate", "place", "passes")
_CODECS: Final = ("lz4", "zstd")
_CHUNKS_RATIO: Final = 2.0
"""Ratio of what is inflated and placed by itself."""
_ROUTES: Final = ("auto", "gpu", "cpu")
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


def run(options: GpuOptions, progress: Callable[[str], None]) -> tuple[list[Row], list[Figure]]:
    """Run every part that is asked for; remove everything.

    Raises:
        ConfigError: there is no such device, or the link of none is to be measured.
        MissingPackage: there is a GPU, and nvCOMP or Triton is missing.
    """
    target = target_of(options)
    on_cpu = target.type == "cpu"
    parts = options.parts or (_CPU_PARTS if on_cpu else PARTS)
    if on_cpu and "link" in parts:
        raise ConfigError(
            "the link to a GPU cannot be measured on the CPU", hint="leave out --part link"
        )
    device = resolve(target)
    bench = _Bench(device, options, progress)
    if {"inflate", "place"} & set(parts):
        inflater_for(device, options.threads)
    rows: list[Row] = []
    figures: list[Figure] = []
    if "link" in parts:
        rows += bench.link()
    if {"inflate", "place"} & set(parts):
        rows += bench.steps(parts)
    if {"passes", "step"} & set(parts):
        with tempfile.TemporaryDirectory(prefix="dataplane-bench-") as folder:
            passes, figures = bench.passes(Path(folder), parts)
            rows += passes
    return rows, figures


def shares_of(
    systems: Sequence[System], costs: Sequence[Sequence[Cost]], alone: System
) -> list[tuple[str, list[float]]]:
    """Return the utilisation beside each system but `alone`: its time over theirs, per round."""
    alone_s = [cost.elapsed_s for cost in costs[systems.index(alone)]]
    return [
        (system.name, [least / cost.elapsed_s for least, cost in zip(alone_s, runs, strict=True)])
        for system, runs in zip(systems, costs, strict=True)
        if system is not alone
    ]


class _Bench:
    """The parts of the case, on one device."""

    def __init__(
        self, device: Device, options: GpuOptions, progress: Callable[[str], None]
    ) -> None:
        self._device, self._options, self._progress = device, options, progress
        target = device.torch_device
        self._on_cpu = target.type == "cpu"
        self._name = "the CPU" if self._on_cpu else torch.cuda.get_device_name(target)
        self._sizes = options.sizes or (Sizes.for_cpu() if self._on_cpu else Sizes())

    def link(self) -> list[Row]:
        """Compare ways over the link."""
        device, nbytes, repeats = self._device, self._sizes.link_bytes, self._sizes.repeats
        ceiling = gpu_systems.OneCopy(device, nbytes, repeats, copied=nbytes, name="plain copies")
        systems = [
            gpu_systems.Copies(device, nbytes, repeats),
            gpu_systems.Copies(
                device, nbytes, repeats, name="beside a 3D U-Net step", beside=self._busy(ceiling)
            ),
            gpu_systems.PageableCopies(device, nbytes, repeats),
            ceiling,
        ]
        case = Case(
            "gpu", f"{self._name}, buffers of {format_bytes(nbytes)}", state="host to device"
        )
        return self._compare(case, systems, ceiling.name)

    def steps(self, parts: Sequence[str]) -> list[Row]:
        """Compare inflation and placement, by codec and chunk size."""
        options, sizes, rows = self._options, self._sizes, []
        self._progress("generating turbulence")
        exact = gpu_data.make_fields(sizes.fields, sizes.edge, options.seed)
        for codec in options.codecs:
            array = gpu_data.rounded(exact, codec, _CHUNKS_RATIO)
            for chunk_bytes in options.chunk_bytes:
                self._progress(f"encoding by {codec}")
                chunks = gpu_data.make_chunks(array, codec, chunk_bytes, threads=options.threads)
                shape = ",".join(map(str, array.shape))
                case = Case(
                    "gpu",
                    f"{self._name}, turbulence float32[{shape}], ratio {chunks.ratio:.2f}",
                    f"blosc-{codec}",
                    chunk_bytes,
                )
                staged = gpu_systems.Staged(self._device, chunks)
                if "inflate" in parts:
                    rows += self._inflate(case, codec, staged)
                if "place" in parts and codec == options.codecs[0]:
                    rows += self._place(case, staged)
        return rows

    def passes(self, folder: Path, parts: Sequence[str]) -> tuple[list[Row], list[Figure]]:
        """Compare the routes over datasets of each codec and ratio."""
        options, sizes = self._options, self._sizes
        rows: list[Row] = []
        figures: list[Figure] = []
        step = self._step() if "step" in parts else None
        for codec in options.codecs:
            measured: list[tuple[float, list[tuple[str, list[float]]]]] = []
            batch_s: list[float] = []
            for wanted in options.ratios:
                self._progress(f"packing volumes of ratio {wanted:g} by {codec}")
                url = gpu_data.pack_volumes(
                    folder,
                    codec,
                    wanted,
                    total_bytes=sizes.total_bytes,
                    sample_bytes=sizes.sample_bytes,
                    seed=options.seed,
                )
                with dp.Dataset(url, cache=False) as dataset:
                    made, ratio = self._facts(dataset)
                    if "passes" in parts:
                        rows += self._whole(dataset, codec, made, ratio)
                    if step is not None:
                        shares, one_s = self._utilisation(dataset, step, made)
                        measured.append((ratio, shares))
                        batch_s.append(one_s)
            if measured:
                title = (
                    f"{self._name}, batches of {options.batch_size}, blosc-{codec}, a 3D U-Net "
                    f"step of {format_duration(min(batch_s))}"
                )
                table = ("gpu", title, "utilisation", "ratio")
                figures += [
                    figure(table, subject, round(ratio, 2), "share", values)
                    for ratio, shares in measured
                    for subject, values in shares
                ]
        return rows, figures

    def _inflate(self, case: Case, codec: str, staged: gpu_systems.Staged) -> list[Row]:
        device, options, repeats = self._device, self._options, self._sizes.repeats
        threads, chunks = options.threads, staged.chunks
        decodes = functools.partial(gpu_systems.Decodes, device, chunks, threads=threads)
        systems: list[System] = [
            decodes(name="native decoder"),
            gpu_systems.Gathers(device, chunks, threads=threads, name="gathering of streams"),
        ]
        if self._on_cpu:
            state = "the native decoder in nvCOMP's place"
            ceiling: System = decodes(name=f"{CEILING_PREFIX}codec", alone=True)
            inflater = functools.partial(HostInflater, threads=threads)
            systems.append(gpu_systems.Inflates(staged, inflater, repeats, threads=threads))
        else:
            state = "on the device"
            ceiling = gpu_systems.DeviceCopies(device, chunks.array.nbytes, repeats)
            ours = functools.partial(inflater_for, device, threads)
            systems.append(gpu_systems.Inflates(staged, ours, repeats))
            if codec == "lz4":
                systems.append(gpu_systems.Inflates(staged, self._dali, repeats, name="DALI"))
        case = dataclasses.replace(case, selection="inflate", state=state)
        return self._compare(case, [*systems, ceiling], ceiling.name)

    def _place(self, case: Case, staged: gpu_systems.Staged) -> list[Row]:
        repeats = self._sizes.repeats
        ceiling = gpu_systems.DeviceCopies(self._device, staged.chunks.array.nbytes, repeats)
        systems: list[System] = [
            gpu_systems.Places(staged, repeats, name=OUR_SYSTEM, whole=True),
        ]
        state = "NumPy in the kernel's place"
        if not self._on_cpu:
            state = "on the device"
            systems.append(gpu_systems.Places(staged, repeats, name="kernel alone", whole=False))
        case = dataclasses.replace(case, selection="un-shuffle and place", state=state)
        return self._compare(case, [*systems, ceiling], ceiling.name)

    def _whole(self, dataset: dp.Dataset, codec: str, made: Any, ratio: float) -> list[Row]:
        batches, batch_bytes = made
        options, copy = self._options, functools.partial(gpu_systems.OneCopy, self._device)
        passes = self._routes(dataset, None)
        if self._on_cpu:
            ceilings = [copy(batch_bytes, batches, copied=batch_bytes, name="memcpy")]
        else:
            ceilings = [
                copy(batch_bytes, batches, copied=math.ceil(batch_bytes / ratio), name="link"),
                copy(batch_bytes, batches, copied=batch_bytes, name="link, decoded"),
            ]
        for ceiling in ceilings:
            ceiling.samples = options.batch_size
        alive, costs = self._rounds([*passes, *ceilings])
        stand_in = "the gpu route on the CPU, " if self._on_cpu else ""
        case = Case(
            "gpu",
            f"{self._name}, {len(dataset)} volumes, ratio {ratio:.2f}",
            f"blosc-{codec}",
            WriteOptions().chunk_bytes,
            f"passes in batches of {options.batch_size}",
            f"{stand_in}auto: {passes[0].loader.stats().decode}",
        )
        return summarise(case, alive, costs, ceiling=ceilings[0].name)

    def _utilisation(
        self, dataset: dp.Dataset, step: UNetStep, made: Any
    ) -> tuple[list[tuple[str, list[float]]], float]:
        """Return the share of each route, per round, and the seconds of one step."""
        batches, _ = made
        alone = gpu_systems.StepAlone(self._device, self._batch(dataset), step, batches)
        alive, costs = self._rounds([*self._routes(dataset, step), alone])
        return shares_of(alive, costs, alone), min(
            cost.elapsed_s for cost in costs[alive.index(alone)]
        ) / batches

    def _routes(self, dataset: dp.Dataset, step: UNetStep | None) -> list[gpu_systems.Pass]:
        options = self._options
        return [
            gpu_systems.Pass(
                dataset,
                self._device,
                route,
                threads=options.threads,
                batch_size=options.batch_size,
                step=step,
            )
            for route in _ROUTES
        ]

    def _facts(self, dataset: dp.Dataset) -> tuple[tuple[int, int], float]:
        """Read a pass, which fills the page cache; return (batches, bytes of one) and the ratio."""
        options = self._options
        loader = dp.DataLoader(
            dataset, options.batch_size, drop_last=True, num_workers=options.threads
        )
        sizes = [sum(v.nbytes for v in one.values() if hasattr(v, "nbytes")) for one in loader]
        if not sizes:
            raise ConfigError(
                f"a batch of {options.batch_size} needs more than {len(dataset)} samples"
            )
        stats = loader.stats()
        return (len(sizes), sizes[0]), stats.decoded_bytes / max(1, stats.read_bytes)

    def _batch(self, dataset: dp.Dataset) -> Any:
        loader = dp.DataLoader(
            dataset, self._options.batch_size, device=self._device.torch_device, decode="cpu"
        )
        return next(iter(loader))

    def _step(self) -> UNetStep:
        return UNetStep(self._device.torch_device, width=self._sizes.width, seed=self._options.seed)

    def _dali(self) -> Any:
        from dataplane.gpu.inflate_dali import DaliInflater

        return DaliInflater(self._device.torch_device.index)

    def _busy(self, copies: gpu_systems.OneCopy) -> Callable[[], None]:
        """Return what keeps the device at work for twice as long as a run of copies takes."""
        edge = max(8, round((self._sizes.sample_bytes / 16) ** (1 / 3)) // 8 * 8)
        shape = (self._options.batch_size, edge, edge, edge)
        on = self._device.torch_device
        batch = {
            "fields/velocity": torch.zeros((*shape, 3), device=on),
            "fields/pressure": torch.zeros(shape, device=on),
        }
        step = self._step()
        alone = gpu_systems.StepAlone(self._device, batch, step, 2)
        step_s = min(alone.run().elapsed_s for _ in range(2)) / 2
        copies_s = min(copies.run().elapsed_s for _ in range(2)) * self._sizes.repeats
        count = math.ceil(2 * copies_s / step_s) + 1

        def queue() -> None:
            for _ in range(count):
                step(batch)

        return queue

    def _compare(self, case: Case, systems: Sequence[System], ceiling: str) -> list[Row]:
        alive, costs = self._rounds(systems)
        return summarise(case, alive, costs, ceiling=ceiling)

    def _rounds(self, systems: Sequence[System]) -> Any:
        return run_rounds(
            systems,
            rounds=self._options.rounds,
            warmup=1,
            seed=self._options.seed,
            progress=self._progress,
        )
