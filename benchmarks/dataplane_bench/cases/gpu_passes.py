"""Whole passes of the GPU benchmark: by each route, alone and beside a training step.

`passes` measures throughput beside the link, and utilisation: the time of the steps alone over that
of a pass that takes them. Both are measured for datasets of each codec and ratio.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

import dataplane as dp
from dataplane.errors import ConfigError
from dataplane.gpu.device import Device
from dataplane.shards import WriteOptions
from dataplane.units import format_duration
from dataplane_bench.cases import gpu_data
from dataplane_bench.cases.gpu_data import synchronize
from dataplane_bench.cases.gpu_setup import Setup
from dataplane_bench.cases.gpu_step import UNetStep
from dataplane_bench.cases.gpu_systems import OneCopy
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
from dataplane_bench.rounds import timed

__all__ = ["Pass", "StepAlone", "passes", "shares_of", "step_of"]

_ROUTES: Final = ("auto", "gpu", "cpu")


def passes(setup: Setup, folder: Path, parts: Sequence[str]) -> tuple[list[Row], list[Figure]]:
    """Compare the routes over datasets of each codec and ratio."""
    options, sizes = setup.options, setup.sizes
    rows: list[Row] = []
    figures: list[Figure] = []
    step = step_of(setup) if "step" in parts else None
    for codec in options.codecs:
        measured: list[tuple[float, list[tuple[str, list[float]]]]] = []
        batch_s: list[float] = []
        for wanted in options.ratios:
            setup.progress(f"packing volumes of ratio {wanted:g} by {codec}")
            url = gpu_data.pack_volumes(
                folder,
                codec,
                wanted,
                total_bytes=sizes.total_bytes,
                sample_bytes=sizes.sample_bytes,
                seed=options.seed,
            )
            with dp.Dataset(url, cache=False) as dataset:
                made, ratio = _facts(setup, dataset)
                if "passes" in parts:
                    rows += _whole(setup, dataset, codec, made, ratio)
                if step is not None:
                    shares, one_s = _utilisation(setup, dataset, step, made)
                    measured.append((ratio, shares))
                    batch_s.append(one_s)
        if measured:
            title = (
                f"{setup.name}, batches of {options.batch_size}, blosc-{codec}, a 3D U-Net "
                f"step of {format_duration(min(batch_s))}"
            )
            table = ("gpu", title, "utilisation", "ratio")
            figures += [
                figure(table, subject, round(ratio, 2), "share", values)
                for ratio, shares in measured
                for subject, values in shares
            ]
    return rows, figures


def _whole(
    setup: Setup, dataset: dp.Dataset, codec: str, made: tuple[int, int], ratio: float
) -> list[Row]:
    batches, batch_bytes = made
    options, copy = setup.options, functools.partial(OneCopy, setup.device)
    routes = _routes(setup, dataset, None)
    if setup.on_cpu:
        ceilings = [copy(batch_bytes, batches, copied=batch_bytes, name="memcpy")]
    else:
        ceilings = [
            copy(batch_bytes, batches, copied=math.ceil(batch_bytes / ratio), name="link"),
            copy(batch_bytes, batches, copied=batch_bytes, name="link, decoded"),
        ]
    for ceiling in ceilings:
        ceiling.counted_as_one(batches * options.batch_size)
    alive, costs = setup.rounds([*routes, *ceilings])
    stand_in = "the gpu route on the CPU, " if setup.on_cpu else ""
    case = Case(
        "gpu",
        f"{setup.name}, {len(dataset)} volumes, ratio {ratio:.2f}",
        f"blosc-{codec}",
        WriteOptions().chunk_bytes,
        f"passes in batches of {options.batch_size}",
        f"{stand_in}auto: {routes[0].loader.stats().decode}",
    )
    return summarise(case, alive, costs, ceiling=ceilings[0].name)


def _utilisation(
    setup: Setup, dataset: dp.Dataset, step: UNetStep, made: tuple[int, int]
) -> tuple[list[tuple[str, list[float]]], float]:
    """Return the share of each route, per round, and the seconds of one step."""
    batches, _ = made
    alone = StepAlone(setup.device, _batch(setup, dataset), step, batches)
    alive, costs = setup.rounds([*_routes(setup, dataset, step), alone])
    least_s = min(cost.elapsed_s for cost in costs[alive.index(alone)])
    return shares_of(alive, costs, alone), least_s / batches


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


def _routes(setup: Setup, dataset: dp.Dataset, step: UNetStep | None) -> list[Pass]:
    options = setup.options
    return [
        Pass(
            dataset,
            setup.device,
            route,
            threads=options.threads,
            batch_size=options.batch_size,
            step=step,
        )
        for route in _ROUTES
    ]


def _facts(setup: Setup, dataset: dp.Dataset) -> tuple[tuple[int, int], float]:
    """Read a pass, which fills the page cache; return (batches, bytes of one) and the ratio."""
    options = setup.options
    loader = dp.DataLoader(dataset, options.batch_size, drop_last=True, num_workers=options.threads)
    sizes = [sum(v.nbytes for v in one.values() if hasattr(v, "nbytes")) for one in loader]
    if not sizes:
        raise ConfigError(f"a batch of {options.batch_size} needs more than {len(dataset)} samples")
    stats = loader.stats()
    return (len(sizes), sizes[0]), stats.decoded_bytes / max(1, stats.read_bytes)


def _batch(setup: Setup, dataset: dp.Dataset) -> Any:
    loader = dp.DataLoader(
        dataset, setup.options.batch_size, device=setup.device.torch_device, decode="cpu"
    )
    return next(iter(loader))


def step_of(setup: Setup) -> UNetStep:
    """Make the step, at the width of the setup."""
    return UNetStep(setup.device.torch_device, width=setup.sizes.width, seed=setup.options.seed)


class Pass:
    """A whole pass of a loader over a dataset, alone or beside a training step.

    Args:
        dataset: the dataset.
        device: device of the batches.
        route: `cpu`, `gpu` or `auto`.
        threads: native threads.
        batch_size: samples of a batch.
        step: what is done with each batch, or None.
    """

    def __init__(
        self,
        dataset: dp.Dataset,
        device: Device,
        route: str,
        *,
        threads: int,
        batch_size: int,
        step: UNetStep | None = None,
    ) -> None:
        self.name = OUR_SYSTEM if route == "auto" else f"decode={route}"
        self.threads = threads
        self._device, self._step = device, step
        self._samples = len(dataset) // batch_size * batch_size
        self.loader: Any = dp.DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            seed=0,
            drop_last=True,
            num_workers=threads,
            device=device.torch_device,
            decode=route,  # type: ignore[arg-type]  # it checks
        )

    def run(self) -> Cost:
        """Read a pass to its end, and wait for the device."""
        synchronize(self._device)
        return timed(self._work, samples=self._samples)

    def _work(self) -> int:
        nbytes = 0
        for batch in self.loader:
            nbytes += sum(one.nbytes for one in batch.values() if isinstance(one, torch.Tensor))
            if self._step is not None:
                self._step(batch)
        synchronize(self._device)
        return nbytes

    def close(self) -> None:
        """Nothing stays open."""


class StepAlone:
    """The ceiling of utilisation: as many steps, on one batch that is on the device already."""

    name = f"{CEILING_PREFIX}step alone"
    threads = 0

    def __init__(self, device: Device, batch: Any, step: UNetStep, batches: int) -> None:
        self._device, self._step = device, step
        self._batch: Any = {
            name: value.clone() for name, value in batch.items() if isinstance(value, torch.Tensor)
        }
        self._batches = batches

    def run(self) -> Cost:
        """Take the steps, and wait for the device."""
        synchronize(self._device)
        return timed(self._work, samples=self._batches)

    def _work(self) -> int:
        for _ in range(self._batches):
            self._step(self._batch)
        synchronize(self._device)
        return self._batches * sum(int(one.nbytes) for one in self._batch.values())

    def close(self) -> None:
        """Let go of the batch."""
        self._batch = {}
