"""Operations on the values of arrays, where they stand: normalise, noise, channel drop, cast.

They take volumes and any other arrays. Noise is a function of the sample and of the place in its
array: DALI's own generators have one state for a whole pipeline, so what they draw depends on the
batch. Here each element's number goes through a hash that is keyed by the sample, in arithmetic
that gives the same bits on CPU and GPU, and two such words become a normal number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError
from dataplane.gpu.dali_arrays import ArraySpec
from dataplane.gpu.dali_draws import Draw
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
from dataplane.gpu.dali_statistics import ArrayStatistics

__all__ = ["Cast", "ChannelDrop", "Noise", "Normalise", "counters", "noise_keys", "normal_noise"]

_FLOAT32 = np.dtype(np.float32)
_MAX_ELEMENTS = 1 << 32
_MASKS = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


@dataclass(frozen=True, slots=True)
class Normalise(Operation):
    """`(x - mean) / std` in float32; where std is 0, `x - mean`.

    Attributes:
        statistics: mean and std by array, of all values or of each component.
    """

    statistics: Mapping[str, ArrayStatistics]
    name: ClassVar[str] = "normalise"

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays, normalised ones in float32."""
        made = dict(arrays)
        for name, known in self.statistics.items():
            spec = arrays[name]
            if spec.is_label:
                raise ConfigError(f"normalise: {name!r} is named in labels")
            if len(known.mean) not in (1, spec.components):
                raise ConfigError(
                    f"normalise: array {name!r} has {spec.components} components, got statistics "
                    f"of {len(known.mean)}",
                    hint="give one mean and std, or one for each component",
                )
            made[name] = spec.with_dtype(_FLOAT32)
        return made

    def build(self, graph: Graph) -> None:
        """Subtract and divide, by constants of the graph."""
        for name, known in self.statistics.items():
            mean = np.array(known.mean, np.float32)
            std = np.array([value or 1.0 for value in known.std], np.float32)
            node = graph.cast(graph.nodes[name], _FLOAT32)
            if len(mean) == 1:
                graph.nodes[name] = (node - mean[0]) / std[0]
            else:
                graph.nodes[name] = (node - graph.constant(mean)) / graph.constant(std)


@dataclass(frozen=True, slots=True)
class Noise(Operation):
    """Normal noise, added to floating point arrays.

    Attributes:
        arrays: names of the arrays.
        low: least standard deviation, in the units that the arrays have here.
        high: largest; each sample has one for all its arrays.
        probability: share of samples that get any.
    """

    arrays: tuple[str, ...]
    low: float
    high: float
    probability: float
    name: ClassVar[str] = "noise"

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return the standard deviation, and what the noise of each array is made of."""
        inner = [
            Parameter(f"{part}.{name}", is_recorded=part == "keys")
            for name in self.arrays
            for part in ("keys", *_counter_names(arrays[name]))
        ]
        return (Parameter("std"), *inner)

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        for name in self.arrays:
            if not arrays[name].is_interpolated:
                raise ConfigError(
                    f"{self.name}: array {name!r} has elements of type {arrays[name].dtype}"
                    f"{' and is a label' if arrays[name].is_label else ''}",
                    hint="noise is for floating point arrays; name them: arrays=[...]",
                )
            spec = arrays[name]
            if spec.kind != "volume" and (len(spec.shape) > 2 or None in spec.shape[1:]):
                raise ConfigError(
                    f"{self.name}: array {name!r} is no volume, and has {len(spec.shape)} "
                    "dimensions or rows whose length varies",
                    hint="noise is for volumes, and for arrays of one or two dimensions",
                )
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw how strong it is, and a key for each array."""
        is_on = sample.draw.happens(self.probability)
        std = sample.draw.uniform(self.low, self.high)
        values: Values = {"std": np.array(std if is_on else 0.0, np.float32)}
        for name in self.arrays:
            values[f"keys.{name}"] = noise_keys(sample.draw)
            parts = counters(sample.arrays[name], sample.shapes)
            for part, counter in zip(_counter_names(sample.arrays[name]), parts, strict=True):
                values[f"{part}.{name}"] = counter
        return values

    def build(self, graph: Graph) -> None:
        """Add the noise, in float32."""
        std = graph.placed(graph.parameters["std"])
        for name in self.arrays:
            spec = graph.arrays[name]
            parts = [graph.parameters[f"{part}.{name}"] for part in _counter_names(spec)]
            noise = normal_noise(graph, parts, graph.parameters[f"keys.{name}"])
            wide = np.result_type(spec.dtype, np.float32)
            added = graph.cast(graph.nodes[name], wide) + graph.cast(noise * std, wide)
            graph.nodes[name] = graph.cast(added, spec.dtype)


@dataclass(frozen=True, slots=True)
class ChannelDrop(Operation):
    """Components set to zero, whatever they were, NaN too; vectors are dropped whole.

    Attributes:
        arrays: names of the arrays.
        probability: probability of each component, or vector.
    """

    arrays: tuple[str, ...]
    probability: float
    name: ClassVar[str] = "channel_drop"

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return which components are kept, as seen and as masks of bits."""
        del arrays
        kinds = ("keep", "mask")
        return tuple(
            Parameter(f"{kind}.{name}", is_recorded=kind == "keep")
            for name in self.arrays
            for kind in kinds
        )

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are."""
        for name in self.arrays:
            if arrays[name].is_label or arrays[name].kind == "positions":
                raise ConfigError(
                    f"channel_drop: {name!r} is named in "
                    f"{'labels' if arrays[name].is_label else 'points'}, which are not dropped"
                )
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Draw which components are kept."""
        values: Values = {}
        for name in self.arrays:
            spec = sample.arrays[name]
            if spec.is_vector or spec.is_normal:
                keep = np.full(spec.components, not sample.draw.happens(self.probability))
            else:
                keep = np.array(
                    [not sample.draw.happens(self.probability) for _ in range(spec.components)]
                )
            values[f"keep.{name}"] = keep
            mask = np.where(keep, -1, 0).astype(f"i{spec.dtype.itemsize}")
            values[f"mask.{name}"] = mask.view(_MASKS[spec.dtype.itemsize])
        return values

    def build(self, graph: Graph) -> None:
        """Clear the bits of what is dropped."""
        for name in self.arrays:
            spec = graph.arrays[name]
            mask = graph.placed(graph.parameters[f"mask.{name}"])
            if spec.kind != "volume" and len(spec.shape) < 2:
                mask = graph.fn.reshape(mask, shape=[])
            bits = np.dtype(_MASKS[spec.dtype.itemsize])
            kept = graph.reinterpreted(graph.nodes[name], bits) & mask
            graph.nodes[name] = graph.reinterpreted(kept, spec.dtype)


@dataclass(frozen=True, slots=True)
class Cast(Operation):
    """Elements converted to another type; to whole numbers rounded and kept within their range.

    Attributes:
        arrays: names of the arrays.
        dtype: type.
    """

    arrays: tuple[str, ...]
    dtype: np.dtype[np.generic]
    name: ClassVar[str] = "cast"

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays with elements of the type."""
        made = {name: arrays[name].with_dtype(self.dtype) for name in self.arrays}
        for name, spec in made.items():
            turns = spec.kind == "positions" or spec.is_vector or spec.is_normal
            if turns and self.dtype.kind != "f":
                raise ConfigError(f"cast: {name!r} has directions, and {self.dtype} has none")
        return {**arrays, **made}

    def build(self, graph: Graph) -> None:
        """Convert."""
        for name in self.arrays:
            graph.nodes[name] = graph.cast(graph.nodes[name], self.dtype)


def noise_keys(draw: Draw) -> npt.NDArray[np.int32]:
    """Draw the two keys of an array's noise: int32[2], as DALI's iterators know no uint32."""
    word = draw.word()
    return np.array([word & 0xFFFFFFFF, word >> 32], np.uint32).view(np.int32)


def counters(spec: ArraySpec, shapes: SampleShapes) -> list[npt.NDArray[np.uint32]]:
    """Return arrays whose sum, spread over each other's axes, numbers the elements of an array.

    A volume has three of them, any other array two, or one where it has no components. They are
    views of a few that are kept.

    Raises:
        ConfigError: the array has more elements than there are numbers.
    """
    width = spec.components
    if spec.kind == "volume":
        depth, height, length = shapes.extents
        sizes: tuple[int, ...] = (depth, height, length * width)
    else:
        sizes = (shapes.counts[spec.name], width)
    if math.prod(sizes) >= _MAX_ELEMENTS:
        raise ConfigError(
            f"noise: array {spec.name!r} of sample {shapes.key!r} has {math.prod(sizes)} elements; "
            f"at most {_MAX_ELEMENTS - 1} get noise"
        )
    if spec.kind == "volume":
        depth, height, row = sizes
        return [
            _arange(depth, height * row).reshape(-1, 1, 1, 1),
            _arange(height, row).reshape(1, -1, 1, 1),
            _arange(row, 1).reshape(1, 1, -1, width),
        ]
    count = sizes[0]
    rows = _row_numbers(count, width)
    if len(spec.shape) < 2:
        return [rows.reshape(-1) if spec.shape else rows.reshape(())]
    return [rows.reshape(-1, 1), _arange(width, 1).reshape(1, -1)]


def normal_noise(graph: Graph, parts: list[Node], keys: Node) -> Node:
    """Return standard normal numbers, a function of the counters and keys alone: float32.

    Source: Box and Muller 1958, on two 32-bit words of a hash.
    """
    counter = functools.reduce(lambda a, b: a + b, [graph.placed(part) for part in parts])
    words = graph.placed(graph.reinterpreted(keys, np.dtype(np.uint32)))
    first = _mixed(graph, counter ^ words[0])
    second = _mixed(graph, first + words[1])
    # 24 bits, all of which float32 holds. The first is from (0, 1], so it has a logarithm.
    shift = _uint32(graph, 1 << 8)
    unit = np.float32(2.0**-24)
    radius = (graph.cast(first // shift, _FLOAT32) + np.float32(1)) * unit
    angle = graph.cast(second // shift, _FLOAT32) * (unit * np.float32(2 * math.pi))
    return graph.math.sqrt(graph.math.log(radius) * np.float32(-2)) * graph.math.cos(angle)


def _mixed(graph: Graph, word: Node) -> Node:
    """Mix the bits of a 32-bit word; one to one.

    Source: the multipliers and shifts of "lowbias32", found by C. Wellons' hash prospector (2018).
    DALI has no shifts: dividing by a power of two is one.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        word = (word ^ (word // _uint32(graph, 1 << shift))) * _uint32(graph, factor)
    return word ^ (word // _uint32(graph, 1 << 16))


def _uint32(graph: Graph, value: int) -> Node:
    return graph.types.Constant(value, dtype=graph.types.UINT32)


def _counter_names(spec: ArraySpec) -> tuple[str, ...]:
    if spec.kind == "volume":
        return ("counter_z", "counter_y", "counter_x")
    return ("counter_row", "counter_component")[: max(1, len(spec.shape))]


_grown: dict[int, npt.NDArray[np.uint32]] = {}
"""Numbers of the rows of the longest array so far, by the width of a row."""


def _row_numbers(count: int, width: int) -> npt.NDArray[np.uint32]:
    """Return the first `count` numbers of rows, a view of the longest there is."""
    known = _grown.get(width)
    if known is None or len(known) < count:
        # Of two threads that meet here the later one's stays; both are right.
        rounded = 1 << max(count - 1, 0).bit_length()
        known = _grown[width] = _multiples(rounded, width)
    return known[:count]


def _multiples(count: int, step: int) -> npt.NDArray[np.uint32]:
    """Return 0, step, 2 step …, wrapping: uint32[count], which nobody writes to."""
    numbers = np.arange(count, dtype=np.uint32) * np.uint32(step & 0xFFFFFFFF)
    numbers.flags.writeable = False
    return numbers


_arange = functools.lru_cache(maxsize=64)(_multiples)
"""Likewise, kept: for the axes of volumes, which are short."""
