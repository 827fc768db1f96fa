"""Train a point network that predicts the pressure on a body from its surface mesh.

    python examples/train_meshes.py
    torchrun --nproc_per_node=2 examples/train_meshes.py
    python examples/train_meshes.py --data s3://bucket/cars --target point_data/pressure

Without --data it generates ellipsoids in a wind along x, each of another shape, attitude and number
of points, with the exact pressure coefficient of potential flow. At a point that depends on where
the surface looks and on the shape of the whole body, so a network that looks at single points does
not get there: this one (as in PointNet, Qi et al. 2017) also pools over each mesh.

Interrupt it at any time and start it again with --resume: it goes on with the very next batch, also
with another number of processes. Losses are shares of the target's variance: predicting the mean
everywhere gives 1.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
import numpy.typing as npt
import torch
from launch import Place, count, make_parser, run
from packed_data import Scale, open_dataset, scale_of, split
from torch import nn
from training_loop import Batch, Trainer

import dataplane as dp
from dataplane.shards import SourceArray, SourceSample

Floats = npt.NDArray[np.float64]

POINTS = "points"
NORMALS = "point_data/normals"
TARGET = "point_data/pressure_coefficient"


class PointNetwork(nn.Module):
    """Points of several meshes, one mesh after another, to one value each."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Linear(features, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.shape = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
        self.head = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, features: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            features: float[N, features] of all points.
            offsets: int64[B + 1]; mesh `b` is rows `offsets[b]` to `offsets[b + 1]`.

        Returns:
            float[N].
        """
        local = self.local(features)
        shape = self.shape(torch.cat([_pooled(local, offsets, how) for how in ("mean", "max")], 1))
        shape = torch.repeat_interleave(shape, offsets.diff(), dim=0)
        values: torch.Tensor = self.head(torch.cat([local, shape], 1))
        return values.squeeze(1)


def _pooled(rows: torch.Tensor, offsets: torch.Tensor, how: str) -> torch.Tensor:
    """Return the mean or maximum over the rows of each mesh, in float32: [N, C] to [B, C]."""
    return torch.segment_reduce(rows.float(), how, offsets=offsets, axis=0)


class MeshLoss:
    """The mean squared error of the standardised target, of meshes and not of points.

    A large mesh counts as much as a small one.
    """

    def __init__(self, points: Scale, target: Scale, names: argparse.Namespace) -> None:
        self._points = points
        self._target = target
        self._names = names

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        points, target = batch[POINTS], batch[self._names.target]
        extra = [batch[name] for name in self._names.features]
        if POINTS + ".offsets" in batch:
            offsets = batch[POINTS + ".offsets"]
        else:  # the meshes of the dataset have one size, and come stacked
            meshes, size, _ = points.shape
            offsets = torch.arange(0, (meshes + 1) * size, size, device=points.device)
            points, target = points.flatten(0, 1), target.flatten(0, 1)
            extra = [values.flatten(0, 1) for values in extra]
        for name, values in zip(self._names.features, extra, strict=True):
            if len(values) != len(points):
                raise _misfit(name, values, points)
        if target.numel() != len(points):
            raise _misfit(self._names.target, target, points)
        columns = [self._points.standardise(points)]
        columns += [values.float().reshape(len(points), -1) for values in extra]
        predicted = model(torch.cat(columns, 1), offsets).float()
        error = (predicted - self._target.standardise(target.flatten())).square()
        return torch.segment_reduce(error, "mean", offsets=offsets).mean()


def _misfit(name: str, values: torch.Tensor, points: torch.Tensor) -> dp.ConfigError:
    return dp.ConfigError(
        f"{name!r} is {list(values.shape)} in a batch of {len(points)} points",
        hint="features have a row at each point, the target one number: use arrays of point_data",
    )


def ellipsoid(number: int, *, points: int, seed: int) -> SourceSample:
    """Make a triangulated ellipsoid with the pressure coefficient that potential flow gives it.

    Its semi-axes, attitude and number of points (about `points`) are drawn from seed and number.
    """
    rng = np.random.default_rng([seed, number])
    axes = rng.uniform(0.6, 1.4, 3)  # m
    attitude = np.linalg.qr(rng.standard_normal((3, 3))).Q
    segments = rng.integers(3, 6) + round(np.sqrt(points * rng.uniform(1.0, 2.0)))
    rings = max(3, round(points * rng.uniform(0.7, 1.3) / segments))
    on_sphere, triangles = sphere(rings, segments)
    normals = on_sphere / axes
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    wind = attitude.T @ [1.0, 0.0, 0.0]
    arrays = {
        POINTS: SourceArray((on_sphere * axes @ attitude.T).astype("f4"), ("point", "c"), "m"),
        "cells/connectivity": SourceArray(triangles.astype("i4"), ("cell", "corner")),
        NORMALS: SourceArray((normals @ attitude.T).astype("f4"), ("point", "c")),
        TARGET: SourceArray(pressure_coefficient(axes, normals, wind).astype("f4"), ("point",)),
    }
    return SourceSample(f"ellipsoid-{number:06d}", arrays, {"semi_axes": axes.tolist()})


def pressure_coefficient(axes: Floats, normals: Floats, wind: Floats) -> Floats:
    """Return the pressure coefficient on an ellipsoid in potential flow, float64[N].

    The velocity at the surface is the part along it of one vector, `2 wind / (2 - alpha)`, where
    `alpha_i = abc ∫ dx / ((axes_i² + x) sqrt((a² + x) (b² + x) (c² + x)))` from 0 on.

    Args:
        axes: float64[3], semi-axes a, b, c.
        normals: float64[N, 3], of length 1, in the axes of the body.
        wind: float64[3], direction of the wind in the axes of the body.

    Source: Lamb, Hydrodynamics, 6th edition, §114.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    t = (nodes + 1) / 2
    x, dx = (t / (1 - t)) ** 2, t / (1 - t) ** 3 * weights  # from 0 to infinity
    squares = axes[:, None] ** 2 + x
    alpha = axes.prod() * (dx / (squares * np.sqrt(squares.prod(axis=0)))).sum(axis=1)
    velocity = 2 * wind / (2 - alpha)
    across = normals @ velocity
    along: Floats = velocity @ velocity - across**2
    return 1 - along


def sphere(rings: int, segments: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return points [rings * segments + 2, 3] and triangles of a sphere of radius 1."""
    polar, azimuth = np.meshgrid(
        np.pi * (np.arange(rings) + 0.5) / rings,
        2 * np.pi * np.arange(segments) / segments,
        indexing="ij",
    )
    x, y = np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth)
    points = np.stack([x, y, np.cos(polar)], axis=-1).reshape(-1, 3)
    points = np.concatenate([points, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])
    number = np.arange(rings * segments).reshape(rings, segments)
    beside = np.roll(number, -1, axis=1)
    top, bottom = np.full(segments, len(points) - 2), np.full(segments, len(points) - 1)
    corners = [
        (number[:-1], number[1:], beside[:-1]),
        (beside[:-1], number[1:], beside[1:]),
        (top, number[0], beside[0]),
        (number[-1], bottom, beside[-1]),
    ]
    triangles = [np.stack(three, axis=-1).reshape(-1, 3) for three in corners]
    return points, np.concatenate(triangles)


def train(arguments: argparse.Namespace, place: Place) -> int:
    size = arguments.points
    generate = (
        f"meshes-{arguments.samples}x{size}",
        lambda number: ellipsoid(number, points=size, seed=1),
    )
    inputs = [POINTS, *arguments.features]
    dataset = open_dataset([*inputs, arguments.target], arguments, place, generate)
    first = dataset.index[0].arrays
    columns = sum(math.prod(first[name].meta.shape[1:]) for name in inputs)
    loss = MeshLoss(scale_of(dataset, POINTS), scale_of(dataset, arguments.target), arguments)
    model = PointNetwork(columns, arguments.width)
    settings = {"columns": columns, "width": arguments.width}
    trainer = Trainer(
        "train_meshes", model, loss, split(dataset, arguments.holdout),
        settings=settings, arguments=arguments, place=place,
    )  # fmt: skip
    return trainer.run()


def main(arguments: list[str] | None = None) -> int:
    description = "Predict the pressure on a body from its surface mesh."
    parser = make_parser("meshes", description, samples=256)
    add = parser.add_argument
    add("--points", type=count, default=500, help="of a generated mesh, about (%(default)s)")
    add("--features", nargs="*", default=[NORMALS], help="arrays to look at besides the points")
    add("--target", default=TARGET, help="array to predict, a number at each point (%(default)s)")
    add("--width", type=count, default=64, help="of the layers (%(default)s)")
    return run("train_meshes", parser.parse_args(arguments), train)


if __name__ == "__main__":
    sys.exit(main())
