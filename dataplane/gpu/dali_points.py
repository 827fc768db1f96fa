"""Operations on points: affine maps, jitter, scaling to a unit box or ball.

They change every array that is named in `points` alike. Vectors turn with a rotation and keep their
length; normals stay perpendicular to what they were perpendicular to, and of unit length (they go
with the inverse transpose of the map). Positions in float64 are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataplane.errors import ConfigError
from dataplane.gpu.dali_arrays import ArraySpec
from dataplane.gpu.dali_geometry import rotation
from dataplane.gpu.dali_stage import (
    Arrays,
    Graph,
    Node,
    Operation,
    Parameter,
    SampleContext,
    Values,
)
from dataplane.gpu.dali_values import Noise, normal_noise

__all__ = ["Affine", "Jitter", "UnitScale"]

_FLOAT32 = np.dtype(np.float32)
_TINY = 1e-30
"""Least length that anything is divided by; what is shorter has no direction."""


@dataclass(frozen=True, slots=True)
class Affine(Operation):
    """`x -> R S (x - centre) + centre + t`: scaled along x, y, z, then turned, then moved.

    Attributes:
        degrees: largest angle of the rotation, either way.
        axis: axis, x, y, z; None draws one for each sample.
        low: least scale, x, y, z.
        high: largest scale.
        is_isotropic: whether all axes have the scale of the first.
        shift: largest shift along x, y, z, either way, in the points' units.
        centre: what stays where it is without a shift, x, y, z.
        probability: share of samples that are changed.
    """

    degrees: float
    axis: tuple[float, float, float] | None
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    is_isotropic: bool
    shift: tuple[float, float, float]
    centre: tuple[float, float, float]
    probability: float
    name: ClassVar[str] = "affine"
    recorded: ClassVar[tuple[str, ...]] = ("matrix", "offset", "turn", "normals")

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        _positions(self.name, arrays)
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw angle, axis, scales and shift."""
        is_on = sample.draw.happens(self.probability)
        angle = sample.draw.uniform(-self.degrees, self.degrees)
        axis = sample.draw.direction() if self.axis is None else np.array(self.axis, np.float64)
        scales = [
            sample.draw.log_uniform(low, high)
            for low, high in zip(self.low, self.high, strict=True)
        ]
        scales = [scales[0]] * 3 if self.is_isotropic else scales
        shift = np.array([sample.draw.uniform(-most, most) for most in self.shift])
        turn = rotation(axis, angle if is_on else 0.0)
        matrix = turn * np.array(scales) if is_on else np.eye(3)
        centre = np.array(self.centre)
        offset = centre - matrix @ centre + (shift if is_on else 0.0)
        return {
            "matrix": matrix,
            "offset": offset,
            "turn": turn,
            "normals": np.ascontiguousarray(np.linalg.inv(matrix).T),
        }

    def build(self, graph: Graph) -> None:
        """Multiply positions, vectors and normals by what is theirs."""
        for spec in graph.arrays.values():
            node = graph.nodes[spec.name]
            if spec.kind == "positions":
                made = _linear(
                    graph, node, graph.parameters["matrix"], spec, graph.parameters["offset"]
                )
            elif spec.kind != "of_points":
                continue
            elif spec.is_normal:
                made = _linear(graph, node, graph.parameters["normals"], spec)
                wide = graph.cast(made, np.result_type(spec.dtype, _FLOAT32))
                made = graph.cast(wide / _length(graph, wide), spec.dtype)
            else:
                made = _linear(graph, node, graph.parameters["turn"], spec)
            graph.nodes[spec.name] = made


@dataclass(frozen=True, slots=True)
class Jitter(Operation):
    """Normal noise on positions, cut off.

    Attributes:
        std: standard deviation, in the points' units.
        clip: largest shift of a coordinate.
        probability: share of samples that get it.
    """

    std: float
    clip: float
    probability: float
    name: ClassVar[str] = "jitter"

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return the standard deviation, and what the noise of each array is made of."""
        return self._noise(arrays).parameters(arrays)

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        _positions(self.name, arrays)
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw a key for each array."""
        return self._noise(sample.arrays).draw(sample)

    def build(self, graph: Graph) -> None:
        """Add the noise."""
        std = graph.placed(graph.parameters["std"])
        clip = np.float32(self.clip)
        for spec in _positions(self.name, graph.arrays):
            parts = [graph.parameters[f"{part}.{spec.name}"] for part in _COUNTERS]
            noise = normal_noise(graph, parts, graph.parameters[f"keys.{spec.name}"]) * std
            noise = graph.math.clamp(noise, -clip, clip)
            wide = np.result_type(spec.dtype, _FLOAT32)
            moved = graph.cast(graph.nodes[spec.name], wide) + graph.cast(noise, wide)
            graph.nodes[spec.name] = graph.cast(moved, spec.dtype)

    def _noise(self, arrays: Arrays) -> Noise:
        names = tuple(spec.name for spec in _positions(self.name, arrays))
        return Noise(names, self.std, self.std, self.probability)


@dataclass(frozen=True, slots=True)
class UnitScale(Operation):
    """Positions moved and scaled, all axes alike, so that a sample fills the unit box or ball.

    The centre and scale are those of the first array in `points`, and are recorded:
    `x -> (x - centre) / scale`.

    Attributes:
        is_ball: whether the farthest point gets the distance 1 from the mean; else the longest side
            of the bounding box gets the length 2.
    """

    is_ball: bool
    name: ClassVar[str] = "unit_scale"

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        _positions(self.name, arrays)
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw nothing.

        Raises:
            ConfigError: a sample has no points.
        """
        first = _positions(self.name, sample.arrays)[0]
        if sample.shapes.counts[first.name] == 0:
            raise ConfigError(
                f"unit_scale: sample {sample.shapes.key!r} has no points in {first.name!r}",
                hint="leave such samples out",
            )
        return {}

    def build(self, graph: Graph) -> None:
        """Measure, move and scale."""
        fn, first = graph.fn, _positions(self.name, graph.arrays)[0]
        wide = np.result_type(first.dtype, _FLOAT32)
        points = graph.cast(graph.nodes[first.name], wide)
        # DALI's reductions know no float64: they are given distances from the first point.
        base = points[0:1, :] if wide == np.float64 else None
        near = points if base is None else graph.cast(points - base, _FLOAT32)
        if self.is_ball:
            middle = fn.reductions.mean(near, axes=[0], keep_dims=True)
            scale = fn.reductions.max(_length(graph, near - middle), axes=[0, 1], keep_dims=True)
        else:
            low = fn.reductions.min(near, axes=[0], keep_dims=True)
            high = fn.reductions.max(near, axes=[0], keep_dims=True)
            middle = (low + high) * np.float32(0.5)
            sides = (high - low) * np.float32(0.5)
            scale = fn.reductions.max(sides, axes=[0, 1], keep_dims=True)
        scale = graph.math.max(scale, np.float32(_TINY))
        centre = middle if base is None else base + graph.cast(middle, wide)
        graph.recorded["centre"] = fn.reshape(centre, shape=[3])
        graph.recorded["scale"] = fn.reshape(scale, shape=[])
        for spec in _positions(self.name, graph.arrays):
            own = np.result_type(spec.dtype, wide)
            node = graph.cast(graph.nodes[spec.name], own) - graph.cast(centre, own)
            graph.nodes[spec.name] = graph.cast(node / graph.cast(scale, own), spec.dtype)


_COUNTERS = ("counter_row", "counter_component")


def _linear(
    graph: Graph, node: Node, matrix: Node, spec: ArraySpec, offset: Node | None = None
) -> Node:
    """Return `matrix @ x + offset` of each row, in float32, or float64 where the array is that."""
    if spec.dtype != np.float64:
        options = {} if offset is None else {"T": graph.cast(offset, _FLOAT32)}
        narrow = graph.cast(node, _FLOAT32)
        made = graph.fn.coord_transform(narrow, M=graph.cast(matrix, _FLOAT32), **options)
        return graph.cast(made, spec.dtype)
    # `coord_transform` knows no float64: column by column, which rounds once per operation.
    columns = graph.placed(graph.fn.transpose(matrix, perm=[1, 0]))
    total = None if offset is None else graph.placed(offset)
    for i in range(3):
        product = node[:, i : i + 1] * columns[i : i + 1, :]
        total = product if total is None else total + product
    return total


def _length(graph: Graph, node: Node) -> Node:
    """Return the length of each row, at least a tiny one: `[N, 1]`."""
    squares = node * node
    total = squares[:, 0:1] + squares[:, 1:2] + squares[:, 2:3]
    return graph.math.max(graph.math.sqrt(total), np.float32(_TINY))


def _positions(operation: str, arrays: Arrays) -> Sequence[ArraySpec]:
    """Return the arrays of positions.

    Raises:
        ConfigError: there are none.
    """
    found = [spec for spec in arrays.values() if spec.kind == "positions"]
    if not found:
        raise ConfigError(
            f"{operation} moves points, and no array is named so",
            hint='say which arrays are positions: points=["points"]',
        )
    return found
