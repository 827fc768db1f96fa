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
where its host part is slow, not for a guess at a GPU. The Triton kernel takes part only where
TRITON_INTERPRET=1 asks for it: interpreted, it is a test, and slower by orders of magnitude. The
link is left out, since it would be a copy from memory to memory, and so is the step unless it is
asked for: on the CPU it takes cores from the decoder, and its share says nothing.

The dataset is a local one without a cache of its own, so its files are in the page cache: what is
measured is what comes after the store.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from dataplane.errors import ConfigError
from dataplane.gpu.inflate import HostInflater
from dataplane.gpu.placement import is_interpreted
from dataplane.loader.device_batches import inflater_for
from dataplane.units import format_bytes
from dataplane_bench.cases import gpu_data, gpu_systems
from dataplane_bench.cases.gpu_passes import StepAlone, passes, step_of
from dataplane_bench.cases.gpu_setup import PARTS, GpuOptions, Setup, Sizes, target_of
from dataplane_bench.cases.gpu_step import PRESSURE, VELOCITY
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Figure, Row, System

__all__ = ["CPU_ROWS", "NO_GPU", "PARTS", "GpuOptions", "Sizes", "Steps", "run", "target_of"]

CPU_ROWS: Final = "rows of the CPU, without the link; what stands in for a GPU is named"
NO_GPU: Final = f"no GPU here that torch sees: {CPU_ROWS}"
_CPU_PARTS: Final = ("inflate", "place", "passes")
_CHUNKS_RATIO: Final = 2.0
"""Ratio of what is inflated and placed by itself."""


def run(options: GpuOptions, progress: Callable[[str], None]) -> tuple[list[Row], list[Figure]]:
    """Run every part that is asked for; remove everything.

    Raises:
        ConfigError: there is no such device, or the link of none is to be measured.
        MissingPackage: there is a GPU, and nvCOMP or Triton is missing.
    """
    setup = Setup.of(options, progress)
    parts = options.parts or (_CPU_PARTS if setup.on_cpu else PARTS)
    if setup.on_cpu and "link" in parts:
        raise ConfigError(
            "the link to a GPU cannot be measured on the CPU", hint="leave out --part link"
        )
    if {"inflate", "place"} & set(parts):
        inflater_for(setup.device, options.threads)
    steps = Steps(setup)
    rows: list[Row] = []
    figures: list[Figure] = []
    if "link" in parts:
        rows += steps.link()
    if {"inflate", "place"} & set(parts):
        rows += steps.steps(parts)
    if {"passes", "step"} & set(parts):
        with tempfile.TemporaryDirectory(prefix="dataplane-bench-") as folder:
            whole, figures = passes(setup, Path(folder), parts)
            rows += whole
    return rows, figures


class Steps:
    """The steps of the routes, each beside its ceiling.

    Args:
        setup: device, and how things are measured on it.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def link(self) -> list[Row]:
        """Compare ways over the link."""
        device, nbytes, repeats = (
            self._setup.device,
            self._setup.sizes.link_bytes,
            self._setup.sizes.repeats,
        )
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
            "gpu", f"{self._setup.name}, buffers of {format_bytes(nbytes)}", state="host to device"
        )
        return self._setup.compare(case, systems, ceiling.name)

    def steps(self, parts: Sequence[str]) -> list[Row]:
        """Compare inflation and placement, by codec and chunk size."""
        options, sizes, rows = self._setup.options, self._setup.sizes, []
        self._setup.progress("generating turbulence")
        exact = gpu_data.make_fields(sizes.fields, sizes.edge, options.seed)
        for codec in options.codecs:
            array = gpu_data.rounded(exact, codec, _CHUNKS_RATIO)
            for chunk_bytes in options.chunk_bytes:
                self._setup.progress(f"encoding by {codec}")
                chunks = gpu_data.make_chunks(array, codec, chunk_bytes, threads=options.threads)
                shape = ",".join(map(str, array.shape))
                case = Case(
                    "gpu",
                    f"{self._setup.name}, turbulence float32[{shape}], ratio {chunks.ratio:.2f}",
                    f"blosc-{codec}",
                    chunks.chunk_bytes,
                )
                staged = gpu_data.Staged(self._setup.device, chunks)
                if "inflate" in parts:
                    rows += self._inflate(case, codec, staged)
                if "place" in parts and codec == options.codecs[0]:
                    rows += self._place(case, staged)
        return rows

    def _inflate(self, case: Case, codec: str, staged: gpu_data.Staged) -> list[Row]:
        device, options, repeats = (
            self._setup.device,
            self._setup.options,
            self._setup.sizes.repeats,
        )
        threads, chunks = options.threads, staged.chunks
        decodes = functools.partial(gpu_systems.Decodes, device, chunks, threads=threads)
        systems: list[System] = [
            decodes(name="native decoder"),
            gpu_systems.Gathers(device, chunks, threads=threads, name="gathering of streams"),
        ]
        if self._setup.on_cpu:
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
        return self._setup.compare(case, [*systems, ceiling], ceiling.name)

    def _place(self, case: Case, staged: gpu_data.Staged) -> list[Row]:
        repeats = self._setup.sizes.repeats
        ceiling = gpu_systems.DeviceCopies(self._setup.device, staged.chunks.array.nbytes, repeats)
        systems: list[System] = [
            gpu_systems.Places(staged, repeats, name=OUR_SYSTEM, whole=True),
        ]
        state = "the kernel, interpreted" if is_interpreted() else "NumPy in the kernel's place"
        if not self._setup.on_cpu:
            state = "on the device"
            systems.append(gpu_systems.Places(staged, repeats, name="kernel alone", whole=False))
        case = dataclasses.replace(case, selection="un-shuffle and place", state=state)
        return self._setup.compare(case, [*systems, ceiling], ceiling.name)

    def _dali(self) -> Any:
        from dataplane.gpu.inflate_dali import DaliInflater

        return DaliInflater(self._setup.device.torch_device.index)

    def _busy(self, copies: gpu_systems.OneCopy) -> Callable[[], None]:
        """Return what keeps the device at work for twice as long as a run of copies takes."""
        edge = max(8, round((self._setup.sizes.sample_bytes / 16) ** (1 / 3)) // 8 * 8)
        shape = (self._setup.options.batch_size, edge, edge, edge)
        on = self._setup.device.torch_device
        batch = {
            VELOCITY: torch.zeros((*shape, 3), device=on),
            PRESSURE: torch.zeros(shape, device=on),
        }
        step = step_of(self._setup)
        alone = StepAlone(self._setup.device, batch, step, 2)
        step_s = min(alone.run().elapsed_s for _ in range(2)) / 2
        copies_s = min(copies.run().elapsed_s for _ in range(2)) * self._setup.sizes.repeats
        count = math.ceil(2 * copies_s / step_s) + 1

        def queue() -> None:
            for _ in range(count):
                step(batch)

        return queue
