"""What operations are made of: how they draw, what they are fed, and the graph they add to.

An operation is a frozen value. Its life in a pipeline: `after` says what arrays are like behind
it; for every sample `draw` makes its parameters, from a `Draw` and the sample's shapes, and says
what shapes are left; `build` adds it to the graph, with a node for each array and each parameter.
Drawing is NumPy, in the thread that feeds DALI; parameters enter the graph as arrays do, one per
sample.

Nothing here imports DALI; a `Graph` holds its modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.gpu.dali_arrays import ArraySpec
from dataplane.gpu.dali_draws import Draw
from dataplane.gpu.dali_library import dali, dali_type

__all__ = [
    "Arrays",
    "Graph",
    "Node",
    "Operation",
    "Parameter",
    "SampleContext",
    "SampleShapes",
    "Values",
]

Arrays: TypeAlias = Mapping[str, ArraySpec]
Node: TypeAlias = Any
"""A `DataNode` of DALI: a batch of tensors at some place of the graph."""

Values: TypeAlias = dict[str, npt.NDArray[Any]]
"""Parameters of one sample, by name."""

_CARRIERS = {1: "uint8", 2: "int16", 4: "int32", 8: "int32"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that an operation is fed for each sample.

    Attributes:
        name: name of it within the operation.
        is_recorded: whether the user sees it in the batch; others only say the same to DALI.
    """

    name: str
    is_recorded: bool = True


@dataclass(slots=True)
class SampleShapes:
    """Shapes of one sample at some place of the pipeline.

    Attributes:
        key: key of the sample, for messages.
        extents: z, y, x extents of its volumes; empty without any.
        counts: number of rows of each of its other arrays, by name.
    """

    key: str
    extents: tuple[int, ...]
    counts: Mapping[str, int]


@dataclass(slots=True)
class SampleContext:
    """What an operation draws from for a sample.

    Attributes:
        draw: numbers of this operation for this sample.
        shapes: shapes of the sample, which the operation changes to those behind it.
        arrays: arrays as they are before the operation.
    """

    draw: Draw
    shapes: SampleShapes
    arrays: Arrays


class Operation:
    """An operation of a pipeline. See the module's text.

    Attributes:
        name: its name in the parameters of a batch.
        recorded: names of parameters that the user sees.
        inner: names of parameters that only say the same to DALI.
    """

    __slots__ = ()
    name: ClassVar[str]
    recorded: ClassVar[tuple[str, ...]] = ()
    inner: ClassVar[tuple[str, ...]] = ()

    def parameters(self, arrays: Arrays) -> tuple[Parameter, ...]:
        """Return the parameters that `draw` makes, for arrays as they are before it."""
        del arrays
        return (
            *(Parameter(name) for name in self.recorded),
            *(Parameter(name, is_recorded=False) for name in self.inner),
        )

    def after(self, arrays: Arrays) -> dict[str, ArraySpec]:
        """Return the arrays as they are behind it.

        Raises:
            ConfigError: it cannot be done with them.
        """
        return dict(arrays)

    def draw(self, sample: SampleContext) -> Values:
        """Make the parameters of a sample, and change its shapes to those behind the operation.

        Raises:
            ConfigError: it cannot be done with a sample of these shapes.
        """
        del sample
        return {}

    def build(self, graph: Graph) -> None:
        """Put the nodes behind the operation in the place of those in `graph.nodes`."""
        raise NotImplementedError


@dataclass(slots=True)
class Graph:
    """The graph that operations add to.

    Attributes:
        is_on_gpu: whether arrays are on a GPU.
        nodes: node of each array.
        arrays: arrays as they are before the operation that is being built.
        parameters: node of each of its parameters.
        recorded: nodes that the user sees beside the parameters, by name within the operation.
    """

    is_on_gpu: bool
    nodes: dict[str, Node]
    arrays: Arrays
    parameters: Mapping[str, Node] = field(default_factory=dict)
    recorded: dict[str, Node] = field(default_factory=dict)

    @property
    def fn(self) -> Any:
        """`nvidia.dali.fn`."""
        return dali("fn")

    @property
    def math(self) -> Any:
        """`nvidia.dali.math`."""
        return dali("math")

    @property
    def types(self) -> Any:
        """`nvidia.dali.types`."""
        return dali("types")

    def placed(self, node: Node) -> Node:
        """Return a parameter where arrays are, to compute with them."""
        return node.gpu() if self.is_on_gpu else node

    def constant(self, values: npt.NDArray[Any]) -> Node:
        """Return the same values for every sample, where arrays are."""
        return self.types.Constant(values, device="gpu" if self.is_on_gpu else "cpu")

    def cast(self, node: Node, dtype: np.dtype[Any]) -> Node:
        """Return elements converted to another type."""
        return self.fn.cast(node, dtype=dali_type(dtype))

    def carried(self, node: Node, dtype: np.dtype[Any]) -> Node:
        """Return elements as whole numbers of the same bytes, which every operation can move.

        Numbers of 8 bytes become two of 4, in twice as many components. It copies nothing.
        """
        carrier = _CARRIERS[dtype.itemsize]
        if dtype == np.float32 or dtype.name == carrier:
            return node
        return self.reinterpreted(node, np.dtype(carrier))

    def uncarried(self, node: Node, dtype: np.dtype[Any]) -> Node:
        """Return what `carried` made as what it was."""
        if dtype == np.float32 or dtype.name == _CARRIERS[dtype.itemsize]:
            return node
        return self.reinterpreted(node, dtype)

    def reinterpreted(self, node: Node, dtype: np.dtype[Any]) -> Node:
        """Return the same bytes as elements of another type, along the last axis."""
        return self.fn.reinterpret(node, dtype=dali_type(dtype))
