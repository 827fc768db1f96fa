"""Graphs: a list of operations bound to the arrays of a dataset, and what DALI makes of it.

A `Recipe` is that list, checked; it needs no DALI. It knows what a batch is fed as and comes out
as, and draws the parameters of samples. `make_pipeline` builds DALI's pipeline of it: one
`external_source` in batch mode that takes arrays and parameters from a source, without a copy, then
the operations, then the outputs: arrays, then what is recorded.

A `Recipe` is immutable; a pipeline belongs to the thread that iterates over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from dataplane.datasets.views import View
from dataplane.errors import ConfigError
from dataplane.gpu.dali_arrays import ArraySpec, Roles, find_specs
from dataplane.gpu.dali_draws import DrawSource
from dataplane.gpu.dali_library import dali
from dataplane.gpu.dali_ops import Binding, Definition
from dataplane.gpu.dali_stage import Graph, Node, Operation, SampleContext, SampleShapes, Values
from dataplane.gpu.dali_volumes import Resample, Rotate, Zoom

__all__ = [
    "PARAMETERS",
    "PipelineOptions",
    "Recipe",
    "Stage",
    "fed_array",
    "make_pipeline",
    "make_recipe",
]

PARAMETERS = "__params__"
"""Name under which a batch holds the parameters of its samples."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An operation at its place.

    Attributes:
        prefix: what the names of its parameters begin with.
        numbers: its number in the list, or those of its parts.
        operation: operation.
        arrays: arrays as they are before it.
        fed: names of the parameters that it is fed, without the prefix.
        recorded: which of these the user sees.
    """

    prefix: str
    numbers: tuple[int, ...]
    operation: Operation
    arrays: Mapping[str, ArraySpec]
    fed: tuple[str, ...]
    recorded: frozenset[str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Operations bound to arrays.

    Attributes:
        before: arrays as they come out of the loader.
        stages: operations.
        after: arrays as they come out of the pipeline.
        operations: names of the operations, in order.
    """

    before: Mapping[str, ArraySpec]
    stages: tuple[Stage, ...]
    after: Mapping[str, ArraySpec]
    operations: tuple[str, ...]

    @property
    def fed(self) -> tuple[str, ...]:
        """Names of what the source gives: arrays, then parameters."""
        return (*self.before, *(stage.prefix + name for stage in self.stages for name in stage.fed))

    def draw(self, source: DrawSource, shapes: SampleShapes) -> Values:
        """Draw all parameters of a sample.

        Raises:
            ConfigError: an operation cannot be done with a sample of these shapes.
        """
        values: Values = {}
        for stage in self.stages:
            if isinstance(stage.operation, Resample):
                draws = [source.of(number) for number in stage.numbers]
                drawn = stage.operation.draw_parts(draws, shapes)
            else:
                draw = source.of(stage.numbers[0])
                drawn = stage.operation.draw(SampleContext(draw, shapes, stage.arrays))
            for name in stage.fed:
                values[stage.prefix + name] = drawn[name]
        return values

    def layouts(self) -> list[str]:
        """Return DALI's layout of each array that is fed."""
        return [_fed_layout(spec) for spec in self.before.values()]


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Options of DALI's pipeline.

    Attributes:
        batch_size: most samples of a batch.
        device_id: number of the GPU, or None.
        threads: threads of DALI.
        prefetch: batches that DALI works ahead.
    """

    batch_size: int
    device_id: int | None
    threads: int
    prefetch: int


def make_recipe(view: View, definitions: Sequence[Definition], roles: Roles) -> Recipe:
    """Bind operations to the arrays of a dataset.

    Args:
        view: samples of the dataset.
        definitions: operations, in order.
        roles: what the user says of the arrays.

    Raises:
        ConfigError: an operation does not fit the arrays; the message begins with its name.
    """
    before = find_specs(view.datasets, view.layouts, roles)
    arrays: dict[str, ArraySpec] = dict(before)
    stages: list[Stage] = []
    waiting: list[tuple[int, Rotate | Zoom]] = []

    def put(operation: Operation, numbers: tuple[int, ...], prefix: str) -> None:
        nonlocal arrays
        parameters = operation.parameters(arrays)
        after = operation.after(arrays)
        recorded = frozenset(one.name for one in parameters if one.is_recorded)
        fed = tuple(one.name for one in parameters)
        stages.append(Stage(prefix, numbers, operation, arrays, fed, recorded))
        arrays = after

    def put_waiting() -> None:
        if waiting:
            numbers = tuple(number for number, _ in waiting)
            put(Resample(tuple(waiting)), numbers, "")
            waiting.clear()

    for number, definition in enumerate(definitions):
        if not isinstance(definition, Definition):
            raise ConfigError(
                f"ops[{number}] is no operation but a value of type {type(definition).__name__}",
                hint="use the functions of dataplane.dali_ops: ops=[dali_ops.flip()]",
            )
        bound = definition.bind(Binding(arrays, view))
        if isinstance(bound, Rotate | Zoom):
            if waiting and waiting[0][1].outside != bound.outside:
                put_waiting()
            waiting.append((number, bound))
            continue
        put_waiting()
        put(bound, (number,), f"{number}.{bound.name}.")
    put_waiting()
    return Recipe(before, tuple(stages), arrays, tuple(one.name for one in definitions))


def make_pipeline(
    recipe: Recipe,
    source: Iterable[Any],
    options: PipelineOptions,
    on_output: Callable[[bool], None],
) -> tuple[Any, tuple[str, ...]]:
    """Build DALI's pipeline of a recipe.

    Args:
        recipe: operations.
        source: iterable whose iterators give, for every batch of an epoch, what `recipe.fed` names.
        options: options of the pipeline.
        on_output: function that is called after a batch was handed out, with True, and before the
            end of an epoch is said, with False; it may raise what takes the end's place.

    Returns:
        The pipeline, of a subclass of `nvidia.dali.Pipeline`, and the names of its outputs.
    """
    pipeline = _tracked_class()(
        batch_size=options.batch_size,
        num_threads=options.threads,
        device_id=options.device_id,
        prefetch_queue_depth=options.prefetch,
        exec_dynamic=True,
    )
    pipeline.on_output = on_output
    is_on_gpu = options.device_id is not None
    with pipeline:
        names = recipe.fed
        fed = dali("fn").external_source(
            source=source,
            num_outputs=len(names),
            batch=True,
            no_copy=True,
            cycle="raise",
            layout=recipe.layouts(),
        )
        nodes = dict(zip(names, fed, strict=True))
        arrays = {name: nodes[name].gpu() if is_on_gpu else nodes[name] for name in recipe.before}
        entered = {name: _entered(node, recipe.before[name]) for name, node in arrays.items()}
        graph = Graph(is_on_gpu, entered, recipe.before)
        recorded: dict[str, Node] = {}
        for stage in recipe.stages:
            graph.arrays = stage.arrays
            graph.parameters = {name: nodes[stage.prefix + name] for name in stage.fed}
            stage.operation.build(graph)
            shown = {name: graph.parameters[name] for name in stage.fed if name in stage.recorded}
            shown |= graph.recorded
            recorded |= {stage.prefix + name: node for name, node in shown.items()}
            graph.recorded = {}
        outputs = {name: _left(graph.nodes[name], recipe.after[name]) for name in recipe.after}
        outputs |= {f"{PARAMETERS}.{name}": node for name, node in recorded.items()}
        pipeline.set_outputs(*outputs.values())
    pipeline.build()
    return pipeline, tuple(outputs)


def _tracked_class() -> Any:
    """Return a `Pipeline` that says when it hands out a batch; made when DALI is there."""
    base: Any = dali("pipeline").Pipeline

    class TrackedPipeline(base):  # type: ignore[misc]  # DALI has no types here
        """DALI's pipeline, which says when it hands out a batch, whoever asks for it."""

        on_output: Callable[[bool], None]

        def outputs(self, cuda_stream: Any = None) -> Any:
            """Return the outputs of a batch, as DALI's own."""
            return self._tracked(super().outputs, cuda_stream)

        def share_outputs(self, cuda_stream: Any = None) -> Any:
            """Return the outputs of a batch, as DALI's own."""
            return self._tracked(super().share_outputs, cuda_stream)

        def _tracked(self, take: Callable[[Any], Any], cuda_stream: Any) -> Any:
            try:
                taken = take(cuda_stream)
            except StopIteration:
                self.on_output(False)
                raise
            self.on_output(True)
            return taken

    return TrackedPipeline


def _fed_layout(spec: ArraySpec) -> str:
    """Return the layout of an array as it is fed: a volume of scalars has a last axis of one."""
    if spec.kind != "volume":
        return ""
    return "DHWC" if spec.layout == "DHW" else spec.layout


def _entered(node: Node, spec: ArraySpec) -> Node:
    """Return an array as operations take it: volumes as "DHWC"."""
    if spec.layout == "CDHW":
        return dali("fn").transpose(node, perm=[1, 2, 3, 0])
    return node


def _left(node: Node, spec: ArraySpec) -> Node:
    """Return an array as the user knows it."""
    if spec.layout == "CDHW":
        return dali("fn").transpose(node, perm=[3, 0, 1, 2])
    if spec.layout == "DHW":
        return dali("fn").squeeze(node, axes=[3])
    return node


def fed_array(values: npt.NDArray[Any], spec: ArraySpec) -> npt.NDArray[Any]:
    """Return an array, of a sample or of a batch, as it is fed: a view."""
    return values[..., None] if spec.layout == "DHW" and spec.kind == "volume" else values
