"""The cases of the loader benchmark, a row each: what a sample is, and what of it a step needs.

A case is a dataset of equal samples, whose size is whole numbers of samples, and the part of a
sample that is delivered: all of it, a crop of a volume, or a run of a mesh's points. Parts are
drawn by the loaders that read them; a loader that knows none cuts them from whole samples. Cases
of parts wait until our datasets can select them: `lacks` says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import numpy as np

import dataplane.datasets
from dataplane.datasets import Selection
from dataplane.errors import ConfigError
from dataplane.shards import SourceArray, SourceSample
from dataplane.units import format_count
from dataplane_bench.rivals.loaders import Cut
from dataplane_bench.training_step import UNET3D_BATCH_SIZE
from dataplane_testing.generate import generate_samples, surface_mesh, turbulence

__all__ = ["CASES", "UTILISATION_CASE", "LoaderCase", "case_named", "make_samples", "our_selection"]

_Kind: TypeAlias = Literal["volume", "field", "mesh"]
_MIN_BATCHES = 4  # utilisation counts from the third on
_SMALL = {"volume": 16, "field": 32, "mesh": 4096}  # of smoke runs


@dataclasses.dataclass(frozen=True, slots=True)
class LoaderCase:
    """A case of the loader benchmark.

    Attributes:
        name: name, as options and figures have it.
        kind: `volume` has velocity [z,y,x,3] and pressure [z,y,x], `field` pressure alone, `mesh`
            points [N,3] and pressure [N]; all float32.
        size: side of a volume or field, number of points of a mesh.
        batch_size: samples per batch.
        cut: part of each sample that is delivered; None for all of it.
    """

    name: str
    kind: _Kind
    size: int
    batch_size: int
    cut: Cut | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array of a sample."""
        side = (self.size,) * 3
        if self.kind == "volume":
            return {"fields/velocity": (*side, 3), "fields/pressure": side}
        if self.kind == "field":
            return {"fields/pressure": side}
        return {"points": (self.size, 3), "point_data/pressure": (self.size,)}

    @property
    def sample_bytes(self) -> int:
        """Decoded size of a whole sample."""
        return sum(4 * int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def dimension_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each array."""
        names = ("point", "c") if self.kind == "mesh" else ("z", "y", "x", "c")
        return {name: names[: len(shape)] for name, shape in self.shapes.items()}

    @property
    def selection(self) -> str:
        """What is delivered of a sample, in words."""
        if self.cut is None:
            return "whole"
        kind, size = self.cut
        return f"crops of {size}³" if kind == "crop" else f"runs of {format_count(size)} points"

    def samples_in(self, total_bytes: int) -> int:
        """Return the number of samples of a dataset of about that size: four batches at least."""
        return max(total_bytes // self.sample_bytes, _MIN_BATCHES * self.batch_size)

    def title(self, samples: int) -> str:
        """Return what the dataset is, in words."""
        what = {
            "volume": f"turbulent volumes {self.size}³ × 4 float32",
            "field": f"turbulent fields {self.size}³ float32",
            "mesh": f"meshes of {format_count(self.size)} points × 4 float32",
        }[self.kind]
        return f"{self.name}: {format_count(samples)} {what}"

    def shrunk(self) -> LoaderCase:
        """Return the case with tiny samples, for smoke runs."""
        size = min(self.size, _SMALL[self.kind])
        cut: Cut | None = None
        if self.cut is not None:
            cut = (self.cut[0], min(self.cut[1], size // 2))
        return dataclasses.replace(self, size=size, cut=cut)

    def lacks(self) -> str | None:
        """Return why our datasets cannot deliver this; None if they can."""
        if self.cut is None or hasattr(dataplane.datasets, _SELECTIONS[self.cut[0]]):
            return None
        return f"dataplane.datasets has no {_SELECTIONS[self.cut[0]]}()"


_SELECTIONS = {"crop": "crop", "run": "points"}

CASES = (
    LoaderCase("volumes-14mb", "volume", 96, 4),
    LoaderCase("volumes-33mb", "volume", 128, 2),
    LoaderCase("samples-64k", "volume", 16, 64),
    LoaderCase("crops", "field", 256, 4, cut=("crop", 64)),
    LoaderCase("runs", "mesh", 1_000_000, 8, cut=("run", 65_536)),
)
"""Cases that are measured by default, as far as our datasets can deliver them."""

UTILISATION_CASE = LoaderCase("unet3d", "volume", 96, UNET3D_BATCH_SIZE)
"""The shape of MLPerf Storage's unet3d, with samples of a tenth of its size."""


def case_named(name: str) -> LoaderCase:
    """Return a case.

    Raises:
        ConfigError: there is none of that name.
    """
    known = {one.name: one for one in (*CASES, UTILISATION_CASE)}
    if name not in known:
        raise ConfigError(f"no case {name!r}", hint=f"there are {', '.join(known)}")
    return known[name]


def our_selection(cut: Cut) -> Selection:
    """Return the selection of our datasets for a part of a sample."""
    kind, size = cut
    make = getattr(dataplane.datasets, _SELECTIONS[kind])
    selection: Selection = make((size,) * 3) if kind == "crop" else make(size)
    return selection


def make_samples(case: LoaderCase, samples: int, seed: int) -> Iterator[SourceSample]:
    """Yield the samples of a case, each with bits of its own, as `dataplane_testing` makes them.

    Fields and meshes are made once; a sample is that one moved and scaled.
    """
    if case.kind == "volume":
        total = samples * case.sample_bytes
        yield from generate_samples(
            total, seed=seed, kinds=("volume",), sample_bytes=case.sample_bytes
        )
        return
    base = _base(case, seed)
    for number in range(samples):
        rng = np.random.default_rng([seed, number])
        scale = np.float32(rng.uniform(0.5, 2.0))
        shift = int(rng.integers(case.size))
        arrays = {name: np.roll(values, shift, axis=0) * scale for name, values in base.items()}
        yield _sample(case, f"{case.kind}-{number:06d}", arrays)


def _base(case: LoaderCase, seed: int) -> dict[str, np.ndarray]:
    if case.kind == "field":
        return {"fields/pressure": turbulence((case.size,) * 3, seed=seed)}
    mesh = surface_mesh(case.size, seed=seed)
    return {"points": mesh.points, "point_data/pressure": mesh.point_data["pressure"]}


def _sample(case: LoaderCase, key: str, arrays: Mapping[str, np.ndarray]) -> SourceSample:
    names = case.dimension_names
    return SourceSample(
        key=key,
        arrays={
            name: SourceArray(values=values, dimension_names=names[name], units=None, attributes={})
            for name, values in arrays.items()
        },
        attributes={},
    )
