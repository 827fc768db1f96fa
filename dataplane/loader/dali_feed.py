"""What DALI is fed for a batch of a loader: its arrays, and the parameters of each sample.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dataplane.datasets.samples import KEY, Keys
from dataplane.errors import LoaderError
from dataplane.gpu.dali_arrays import ArraySpec
from dataplane.gpu.dali_draws import DrawSource
from dataplane.gpu.dali_graph import Recipe, fed_array
from dataplane.gpu.dali_stage import SampleShapes, Values
from dataplane.loader.dali_batches import Fed, fed_values, sample_shapes

__all__ = ["fed_batch"]

_DIMENSIONS = 3
_SMALL = 64
"""Elements of a parameter that are copied without a thought."""


def fed_batch(
    recipe: Recipe,
    batch: Mapping[str, Any],
    before: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    seed: int | None,
    looks: Sequence[int] | None = None,
    parts: Sequence[int] | None = None,
) -> tuple[tuple[Fed, ...], Keys]:
    """Return what DALI is fed for a batch, as `recipe.fed` names it, and the keys of its samples.

    Args:
        recipe: operations.
        batch: batch of the loader.
        before: state of the loader before the batch.
        state: state behind it.
        seed: seed that the user gave; None takes that of the pass, which the state has.
        looks: looks of the samples, where the order may give one several times.
        parts: tiles of the samples, or looks at them, where a dataset gives several of each.

    Raises:
        LoaderError: the batch is not one that the recipe was made for, or samples were left out of
            it, and looks cannot be told.
        ConfigError: an operation cannot be done with one of its samples.
    """
    keys = batch.get(KEY)
    if keys is None:
        raise LoaderError(
            "the batch has no keys, which say what is drawn for a sample",
            hint="keep '__key__' in what the transform returns",
        )
    arrays: dict[str, Fed] = {}
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for name, spec in recipe.before.items():
        values = fed_values(batch, name)
        shapes[name] = sample_shapes(values)
        _check(values, spec, keys)
        if isinstance(values, np.ndarray):
            arrays[name] = fed_array(values, spec)
        else:
            arrays[name] = [fed_array(part, spec) for part in values]
    epoch = int(state["epoch"])
    if seed is None:
        seed = int(state["seed"])
        epoch = 0 if state["is_seed_of_pass"] else epoch
    first = int(before["samples_consumed"])
    places: Sequence[int] = [-1] * len(keys)
    if looks is not None:
        places = looks
    elif state["order"] == "sampler":
        places = range(first, first + len(keys))
    if len(places) != len(keys) or (parts is not None and len(parts) != len(keys)):
        raise LoaderError(
            f"a batch has {len(keys)} samples of {len(places)}: which were left out cannot be told",
            hint='give the dataset errors="replace"',
        )
    drawn: list[Values] = []
    for number, key in enumerate(keys):
        source = DrawSource(
            seed=seed,
            epoch=epoch,
            key=key if parts is None else f"{key}/{parts[number]}",
            place=places[number],
        )
        of_sample = {name: of_batch[number] for name, of_batch in shapes.items()}
        drawn.append(recipe.draw(source, _shapes(recipe, key, of_sample)))
    parameters = [_joined([values[name] for values in drawn]) for name in drawn[0]]
    return (*arrays.values(), *parameters), Keys(keys)


def _shapes(recipe: Recipe, key: str, of_sample: Mapping[str, tuple[int, ...]]) -> SampleShapes:
    extents: tuple[int, ...] = ()
    counts = {}
    for name, spec in recipe.before.items():
        shape = of_sample[name]
        if spec.kind != "volume":
            counts[name] = shape[0] if shape else 1
            continue
        own = shape[1:] if spec.layout == "CDHW" else shape[:_DIMENSIONS]
        if extents and own != extents:
            raise LoaderError(
                f"volumes of sample {key!r} have the extents {extents} and, {name!r}, {own}: "
                "they go through the same operations",
                hint="say which arrays are volumes: volumes=[...]",
            )
        extents = own
    return SampleShapes(key, extents, counts)


def _check(values: Fed, spec: ArraySpec, keys: Sequence[str]) -> None:
    """Refuse arrays that are not what the pipeline was made for."""
    parts = [values] if isinstance(values, np.ndarray) else values
    stacked = int(isinstance(values, np.ndarray))
    if len(values) != len(keys):
        raise LoaderError(
            f"array {spec.name!r} of a batch has {len(values)} of {len(keys)} samples"
        )
    for key, part in zip(keys, parts, strict=False):
        shape = part.shape[stacked:]
        fits = len(shape) == len(spec.shape) and all(
            want in (None, have) for have, want in zip(shape, spec.shape, strict=True)
        )
        if part.dtype != spec.dtype or not fits:
            wanted = ", ".join("any" if n is None else str(n) for n in spec.shape)
            raise LoaderError(
                f"array {spec.name!r} of sample {key!r} is {part.dtype}{list(shape)}, and the "
                f"pipeline was made for {spec.dtype}[{wanted}]",
                hint="a transform of the dataset keeps the arrays' shapes and types",
            )


def _joined(values: list[Any]) -> Fed:
    """Stack small parameters of one shape; larger ones are views that stay where they are."""
    first = values[0]
    if first.size <= _SMALL and all(value.shape == first.shape for value in values):
        return np.ascontiguousarray(np.stack(values))
    return values
