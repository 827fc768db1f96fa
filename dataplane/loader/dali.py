"""`dali_pipeline` and `dali_source`: the batches of a loader through DALI, on a GPU or the CPU.

The public functions: they check arguments and put together what `dali_loader.py`,
`dali_external_source.py` and `dataplane.gpu` make. Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataplane.datasets.views import view_of
from dataplane.errors import ConfigError
from dataplane.gpu import dali_ops
from dataplane.gpu.dali_arrays import Roles
from dataplane.gpu.dali_graph import make_recipe
from dataplane.gpu.dali_library import DeviceId, dali, device_of
from dataplane.gpu.dali_ops import Definition
from dataplane.loader.dali_external_source import DaliSource, source_of
from dataplane.loader.dali_loader import DaliPipeline
from dataplane.loader.dataloader import DataLoader

__all__ = ["DaliPipeline", "dali_ops", "dali_pipeline", "dali_source"]


def dali_source(
    loader: Any, arrays: Sequence[str] | None = None, *, depth: int | None = None
) -> DaliSource:
    """Return the batches of a loader as a source for a DALI pipeline of your own, without a copy.

    Args:
        loader: `DataLoader`, or any other that yields dicts of tensors.
        arrays: names of the arrays to feed, in order; by default all of the loader's dataset.
        depth: batches that the pipeline works ahead; `outputs()` finds it out.

    Raises:
        ConfigError: the arrays are not known, or the loader yields no batches.

    Example:
        >>> import dataplane as dp
        >>> source = dp.dali_source(dp.DataLoader(ds, batch_size=4))  # doctest: +SKIP
        >>> @pipeline_def(batch_size=4, num_threads=4, device_id=0)  # doctest: +SKIP
        ... def augmented():
        ...     (density,) = source.outputs(layouts={"fields/density": "DHWC"})
        ...     return fn.flip(density.gpu(), horizontal=fn.random.coin_flip())
    """
    return source_of(loader, arrays, depth)


def dali_pipeline(
    dataset: Any,
    batch_size: int,
    ops: Sequence[Definition] = (),
    *,
    device_id: DeviceId = None,
    volumes: Sequence[str] | None = None,
    labels: Sequence[str] = (),
    points: Sequence[str] = (),
    vectors: Sequence[str] = (),
    normals: Sequence[str] = (),
    layouts: Mapping[str, str] | None = None,
    threads: int = 4,
    prefetch: int = 2,
    **loader_options: Any,
) -> DaliPipeline:
    """Return batches of a dataset that went through operations of DALI.

    `for batch in pipeline` yields what `DataLoader` yields, changed by the operations, and
    `batch["__params__"]`, the parameters that each sample was changed with. They are a function of
    (seed, epoch, sample key): batch size, workers, ranks and a resume do not change them.

    Args:
        dataset: `dp.Dataset`, or `Subset`, `random_split`, `ConcatDataset` of such.
        batch_size: samples per batch.
        ops: operations, of `dataplane.dali_ops`, in order.
        device_id: number of the GPU; None for the CPU; "auto" for `LOCAL_RANK`'s GPU under
            `torchrun`, else the first, and the CPU on a machine without a GPU.
        volumes: names of the volumes; by default all arrays of three or four dimensions.
        labels: names of volumes whose values are never mixed, of whatever type.
        points: names of arrays of positions, `[N, 3]`.
        vectors: names of arrays with components x, y, z that turn with space.
        normals: names of arrays of surface normals at points.
        layouts: layout by name of volumes that are not as the dataset says: "DHWC", "CDHW".
        threads: threads of DALI on the CPU.
        prefetch: batches that DALI works ahead.
        **loader_options: further arguments of `DataLoader`: shuffle, seed, num_workers, …

    Raises:
        ConfigError: an argument cannot be used, or an operation does not fit the arrays.

    Example:
        >>> import dataplane as dp
        >>> from dataplane import dali_ops as ops
        >>> pipeline = dp.dali_pipeline(
        ...     ds, 4, [ops.random_crop(64), ops.flip(), ops.rotate(15)],
        ...     device_id="auto", vectors=["fields/velocity"], shuffle=True, seed=7,
        ... )  # doctest: +SKIP
        >>> for batch in pipeline: ...  # doctest: +SKIP
    """
    view = view_of(dataset)
    if view is None:
        raise ConfigError(
            f"dali_pipeline takes a dataplane.Dataset, or torch's wrappers of one, got a value of "
            f"type {type(dataset).__name__}",
            hint="for batches of other loaders: dp.dali_source(loader, arrays=[...])",
        )
    for name, count in (("batch_size", batch_size), ("threads", threads), ("prefetch", prefetch)):
        if type(count) is not int or count < 1:
            raise ConfigError(
                f"dali_pipeline: {name} must be a whole number above 0, got {count!r}"
            )
    for name, needed in (("in_order", True), ("keys", True)):
        if loader_options.get(name, needed) is not needed:
            raise ConfigError(f"dali_pipeline: {name}={loader_options[name]!r} cannot be done")
    if loader_options.get("ragged_as", "offsets") != "offsets":
        raise ConfigError("dali_pipeline: batches of DALI have ragged arrays with offsets")
    if "batch_sampler" in loader_options:
        raise ConfigError(
            "dali_pipeline: batch_sampler= decides how large batches are, which DALI wants to know "
            "beforehand",
            hint="give batch_size and sampler=",
        )
    if not isinstance(ops, Sequence):
        raise ConfigError(
            f"dali_pipeline: ops must be a list of operations, got a value of type "
            f"{type(ops).__name__}",
            hint="for one operation write ops=[...]",
        )
    if device_id is not None and device_id != "auto":
        device_of(device_id)
    recipe = make_recipe(view, ops, Roles(volumes, labels, points, vectors, normals, layouts))
    dali()  # so that it is missing here, and not in the first batch
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, **loader_options)
    return DaliPipeline(
        loader,
        recipe,
        device_id,
        threads=threads,
        prefetch=prefetch,
        pins="pin_memory" not in loader_options,
        seed=loader_options.get("seed"),
    )
