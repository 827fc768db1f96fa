"""Operations that move the voxels of volumes: crop, flip, right-angled turns, rotation and zoom.

They move all volumes of a sample alike, so an image and its label never part. Crops, flips and
right-angled turns copy elements bit by bit, of any type. Rotations and zooms that follow each other
become one resampling: linear for floating point volumes (of float64 in float32), and the nearest
voxel for labels and for all other types. Where vectors are turned, so are their components.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from dataplane.errors import ConfigError
from dataplane.gpu.dali_arrays import ArraySpec
from dataplane.gpu.dali_draws import Draw
from dataplane.gpu.dali_geometry import Matrix, cube_turns, inverse_map, rotation, turns_that_fit
from dataplane.gpu.dali_stage import (
    Arrays,
    Graph,
    Node,
    Operation,
    Parameter,
    SampleContext,
    SampleShapes,
    Values,
)

__all__ = ["Crop", "Flip", "QuarterTurns", "Resample", "Rotate", "Zoom"]

_FLOAT32 = np.dtype(np.float32)
_SPATIAL = ("depthwise", "vertical", "horizontal")


@dataclass(frozen=True, slots=True)
class Crop(Operation):
    """A box of a fixed size, cut out of every volume at the same place.

    Attributes:
        size: z, y, x extents of the box.
        is_random: whether its place is drawn; else it is the middle.
    """

    size: tuple[int, int, int]
    is_random: bool
    name: ClassVar[str] = "crop"
    recorded: ClassVar[tuple[str, ...]] = ("start",)

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the volumes with the extents of the box."""
        for spec in _volumes(self.name, arrays):
            known = [n for n in spec.extents if n is not None]
            if len(known) == len(self.size):
                self._check(known, f"volume {spec.name!r}")
        return _replaced(arrays, lambda spec: spec.with_extents(self.size))

    def draw(self, sample: SampleContext) -> Values:
        """Draw the place, uniform among all that fit."""
        self._check(sample.shapes.extents, f"sample {sample.shapes.key!r}")
        room = [have - want for have, want in zip(sample.shapes.extents, self.size, strict=True)]
        start = [sample.draw.integer(n + 1) if self.is_random else n // 2 for n in room]
        sample.shapes.extents = self.size
        return {"start": np.array(start, np.int32)}

    def build(self, graph: Graph) -> None:
        """Slice."""
        for spec in _volumes(self.name, graph.arrays):
            node = graph.carried(graph.nodes[spec.name], spec.dtype)
            node = graph.fn.slice(node, graph.parameters["start"], list(self.size), axes=[0, 1, 2])
            graph.nodes[spec.name] = graph.uncarried(node, spec.dtype)

    def _check(self, extents: Sequence[int], what: str) -> None:
        if any(have < want for have, want in zip(extents, self.size, strict=True)):
            raise ConfigError(
                f"crop: {what} has extents {tuple(extents)} (z, y, x), less than the crop's "
                f"{self.size}",
                hint="make the crop smaller, or leave such samples out",
            )


@dataclass(frozen=True, slots=True)
class Flip(Operation):
    """Volumes mirrored along axes; the component of a vector along such an axis changes its sign.

    Attributes:
        axes: axes that may be flipped, of z, y, x.
        probability: probability of each.
    """

    axes: str
    probability: float
    name: ClassVar[str] = "flip"

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return which axes are flipped, int32[3] of z, y, x, and for vectors signs of x, y, z."""
        return (Parameter("axes"), *_for_vectors(arrays, "signs"))

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        _volumes(self.name, arrays)
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw each axis for itself."""
        flips = [int(sample.draw.happens(self.probability)) if a in self.axes else 0 for a in "zyx"]
        signs = [1.0 - 2.0 * flip for flip in reversed(flips)]
        return {"axes": np.array(flips, np.int32), "signs": np.array(signs, np.float32)}

    def build(self, graph: Graph) -> None:
        """Mirror, and multiply vectors by the signs."""
        axes = {name: graph.parameters["axes"][i] for i, name in enumerate(_SPATIAL)}
        for spec in _volumes(self.name, graph.arrays):
            node = graph.carried(graph.nodes[spec.name], spec.dtype)
            node = graph.uncarried(graph.fn.flip(node, **axes), spec.dtype)
            if spec.is_vector:
                node = _signed(graph, node, graph.parameters["signs"], spec)
            graph.nodes[spec.name] = node


@dataclass(frozen=True, slots=True)
class QuarterTurns(Operation):
    """Volumes turned by right angles; vectors with them. Exact.

    Only turns that keep the extents of a volume are taken: one whose extents differ in a plane is
    turned by half turns there.

    Attributes:
        planes: planes of the turns, each two of z, y, x.
        probability: share of samples that may be turned.
    """

    planes: tuple[str, ...]
    probability: float
    name: ClassVar[str] = "rotate90"

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return the rotation, float32[3, 3] of x, y, z, and the same in what DALI takes."""
        mapping = Parameter("map", is_recorded=False)
        return (Parameter("turn"), mapping, *_for_vectors(arrays, "sources", "signs"))

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        _volumes(self.name, arrays)
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw one of the turns that fit, all of them equally likely."""
        turns = turns_that_fit(cube_turns(self.planes), sample.shapes.extents)
        is_on = sample.draw.happens(self.probability)
        turn = np.array(turns[sample.draw.integer(len(turns)) if is_on else 0], np.float64)
        sources = np.argmax(np.abs(turn), axis=1)
        return {
            "turn": turn.astype(np.float32),
            "map": inverse_map(turn, sample.shapes.extents),
            "sources": sources.astype(np.int32),
            "signs": turn[np.arange(3), sources].astype(np.float32),
        }

    def build(self, graph: Graph) -> None:
        """Take each voxel from where it comes from, and each component of a vector too."""
        for spec in _volumes(self.name, graph.arrays):
            node = graph.carried(graph.nodes[spec.name], spec.dtype)
            node = _warped(graph, node, graph.parameters["map"], is_linear=False, is_zero=False)
            node = graph.uncarried(node, spec.dtype)
            if spec.is_vector:
                parts = [
                    graph.fn.slice(node, graph.parameters["sources"][i : i + 1], [1], axes=[3])
                    for i in range(3)
                ]
                node = graph.fn.cat(*parts, axis=3)
                node = _signed(graph, node, graph.parameters["signs"], spec)
            graph.nodes[spec.name] = node


class Part(Protocol):
    """One of the operations that become a resampling together."""

    name: ClassVar[str]

    @property
    def outside(self) -> str:
        """What comes in from outside of a volume: "edge" or "zero"."""
        ...

    def draw(self, draw: Draw) -> tuple[Values, Matrix, Matrix]:
        """Draw its parameters, the map of space and the turn of vectors, both of x, y, z."""
        ...


@dataclass(frozen=True, slots=True)
class Rotate:
    """A rotation by any angle.

    Attributes:
        degrees: largest angle, either way.
        axis: axis, x, y, z; None draws one for each sample.
        spacing: z, y, x distances of voxels: what turns is the body, not the grid.
        probability: share of samples that are turned.
        outside: what comes in from outside.
    """

    degrees: float
    axis: tuple[float, float, float] | None
    spacing: tuple[float, float, float]
    probability: float
    outside: str
    name: ClassVar[str] = "rotate"

    def draw(self, draw: Draw) -> tuple[Values, Matrix, Matrix]:
        """Draw angle and axis."""
        is_on = draw.happens(self.probability)
        angle = draw.uniform(-self.degrees, self.degrees) if is_on else 0.0
        axis = draw.direction() if self.axis is None else np.array(self.axis, np.float64)
        turn = rotation(axis, angle)
        scale = np.array(self.spacing[::-1], np.float64)
        values: Values = {
            "degrees": np.array(angle, np.float32),
            "axis": (axis / np.linalg.norm(axis)).astype(np.float32),
        }
        return values, turn * scale / scale[:, None], turn


@dataclass(frozen=True, slots=True)
class Zoom:
    """A magnification about the centre, other along each axis; vectors keep their components.

    Attributes:
        low: least factor, z, y, x.
        high: largest factor, z, y, x.
        is_isotropic: whether all axes have the factor of the first.
        probability: share of samples that are zoomed.
        outside: what comes in from outside.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    is_isotropic: bool
    probability: float
    outside: str
    name: ClassVar[str] = "zoom"

    def draw(self, draw: Draw) -> tuple[Values, Matrix, Matrix]:
        """Draw the factors."""
        is_on = draw.happens(self.probability)
        factors = [
            draw.log_uniform(low, high) for low, high in zip(self.low, self.high, strict=True)
        ]
        if self.is_isotropic:
            factors = [factors[0]] * 3
        if not is_on:
            factors = [1.0] * 3
        forward: Matrix = np.diag(np.array(factors[::-1], np.float64))
        return {"factors": np.array(factors, np.float32)}, forward, np.eye(3)


@dataclass(frozen=True, slots=True)
class Resample(Operation):
    """Rotations and zooms that follow each other, as one resampling.

    Attributes:
        parts: parts, each with its number in the list of operations.
    """

    parts: tuple[tuple[int, Part], ...]
    name: ClassVar[str] = "resample"

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return those of the parts, and what they come to in x, y, z."""
        inner = [Parameter(self._inner("map"), is_recorded=False)]
        if self._turns:
            inner += _for_vectors(arrays, self._inner("turn"))
        named = {"rotate": ("degrees", "axis"), "zoom": ("factors",)}
        recorded = [
            Parameter(f"{number}.{part.name}.{name}")
            for number, part in self.parts
            for name in named[part.name]
        ]
        return (*recorded, *inner)

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        _volumes(self.parts[0][1].name, arrays)
        return dict(arrays)

    def draw_parts(self, draws: Sequence[Draw], shapes: SampleShapes) -> Values:
        """Draw each part from its own numbers, and put their maps one behind the other."""
        values: Values = {}
        forward, turn = np.eye(3), np.eye(3)
        for (number, part), draw in zip(self.parts, draws, strict=True):
            drawn, maps, turns = part.draw(draw)
            values |= {f"{number}.{part.name}.{name}": value for name, value in drawn.items()}
            forward, turn = maps @ forward, turns @ turn
        values[self._inner("map")] = inverse_map(forward, shapes.extents)
        values[self._inner("turn")] = turn.astype(np.float32)
        return values

    def build(self, graph: Graph) -> None:
        """Resample every volume once, and turn the vectors."""
        is_zero = self.parts[0][1].outside == "zero"
        warped = functools.partial(_warped, graph, is_zero=is_zero)
        mapping = graph.parameters[self._inner("map")]
        for spec in _volumes("resample", graph.arrays):
            node = graph.nodes[spec.name]
            if spec.is_interpolated:
                node = warped(graph.cast(node, _FLOAT32), mapping, is_linear=True)
                if spec.is_vector and self._turns:
                    turn = graph.parameters[self._inner("turn")]
                    node = graph.fn.coord_transform(node, M=turn)
                node = graph.cast(node, spec.dtype)
            else:
                node = warped(graph.carried(node, spec.dtype), mapping, is_linear=False)
                node = graph.uncarried(node, spec.dtype)
            graph.nodes[spec.name] = node

    @property
    def _turns(self) -> bool:
        return any(part.name == "rotate" for _, part in self.parts)

    def _inner(self, name: str) -> str:
        """Return the name of what only DALI is told; there may be several resamplings."""
        return f"{self.parts[0][0]}.resample.{name}"


def _for_vectors(arrays: Arrays, *names: str) -> tuple[Parameter, ...]:
    """Return parameters that only vectors need; DALI is not fed what nothing reads."""
    has_vectors = any(spec.kind == "volume" and spec.is_vector for spec in arrays.values())
    return tuple(Parameter(name, is_recorded=False) for name in names if has_vectors)


def _warped(graph: Graph, node: Node, mapping: Node, *, is_linear: bool, is_zero: bool) -> Node:
    options = {"fill_value": 0.0} if is_zero else {}
    types = graph.types
    return graph.fn.warp_affine(
        node,
        matrix=mapping,
        inverse_map=True,
        interp_type=types.INTERP_LINEAR if is_linear else types.INTERP_NN,
        **options,
    )


def _signed(graph: Graph, node: Node, signs: Node, spec: ArraySpec) -> Node:
    return node * graph.cast(graph.placed(signs), spec.dtype)


def _volumes(operation: str, arrays: Arrays) -> list[ArraySpec]:
    """Return the volumes.

    Raises:
        ConfigError: there are none.
    """
    found = [spec for spec in arrays.values() if spec.kind == "volume"]
    if not found:
        raise ConfigError(
            f"{operation} moves the voxels of volumes, and there are none among "
            f"{', '.join(map(repr, arrays))}",
            hint="volumes are arrays of three or four dimensions: volumes=[...]",
        )
    return found


def _replaced(arrays: Arrays, change: Callable[[ArraySpec], ArraySpec]) -> dict[str, ArraySpec]:
    return {name: change(spec) if spec.kind == "volume" else spec for name, spec in arrays.items()}
