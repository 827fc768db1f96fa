"""Stitching: results for the tiles of samples, put back together to a result for each sample.

A dataset whose arrays are read with `crop(shape, "grid")` has a sample for each tile. `stitch`
takes what a model made of batches of them, in any order, and yields each sample's result as its
last tile comes. Where tiles overlap, what they say is averaged, or blended, or one of them wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from dataplane.datasets.array_forms import form_of_array
from dataplane.datasets.crops import Tiles
from dataplane.datasets.samples import KEY, TILE
from dataplane.datasets.selections import (
    ArrayForm,
    Both,
    Region,
    Selection,
    TiledSelection,
    checked_region,
    is_tiled,
)
from dataplane.errors import ConfigError, LoaderError

if TYPE_CHECKING:
    from dataplane.datasets.dataset import Dataset

__all__ = ["Blend", "stitch"]

Blend: TypeAlias = Literal["mean", "ramp", "first"]
_Array: TypeAlias = npt.NDArray[Any]
_SHOWN = 3


def stitch(
    dataset: Dataset,
    name: str,
    results: Iterable[tuple[Mapping[str, Any], Any]],
    *,
    axes: Sequence[int] | None = None,
    blend: Blend = "mean",
) -> Iterator[tuple[str, Any]]:
    """Put results for tiles back together; yield a sample's key and result when it is complete.

    Args:
        dataset: dataset of the tiles.
        name: array that is tiled as the results are.
        results: pairs of a batch (or a mapping with its `__key__` and `__tile__`) and the results
            for it, [B, ...], tensors or arrays.
        axes: dimensions of a single result that are the tiled ones, in the order of the array's;
            by default the same ones, where a result has as many dimensions as the array.
        blend: what counts where tiles overlap: their "mean"; "ramp", a mean that counts an element
            less the closer it is to the edge of its tile; "first", the tile with the lowest number,
            as for labels.

    Yields:
        The key of a sample and its result, of the kind and element type of what came in: the shape
        of a single result, with the array's extents along the tiled dimensions.

    Raises:
        ConfigError: the array is not tiled, or `blend` or `axes` cannot be.
        LoaderError: results do not have the shape of tiles, or some of a sample are missing in the
            end.

    Example:
        >>> results = ((batch, model(batch["u"])) for batch in loader)  # doctest: +SKIP
        >>> for key, field in dp.stitch(ds, "u", results):  # doctest: +SKIP
        ...     np.save(f"{key}.npy", field)
    """
    if blend not in get_args(Blend):
        raise ConfigError(f"blend must be one of {get_args(Blend)}, got {blend!r}")
    selection = dataset.selections.get(name)
    if selection is None or not is_tiled(selection):
        raise ConfigError(
            f"array {name!r} is not tiled", hint='select it with dp.crop(shape, "grid")'
        )
    return _stitched(dataset, name, results, None if axes is None else tuple(axes), blend)


def _stitched(
    dataset: Dataset,
    name: str,
    results: Iterable[tuple[Mapping[str, Any], Any]],
    axes: tuple[int, ...] | None,
    blend: Blend,
) -> Iterator[tuple[str, Any]]:
    numbers = {key: number for number, key in enumerate(dataset.keys)}
    under_way: dict[str, _Canvas] = {}
    done: set[str] = set()
    for batch, values in results:
        keys, tiles = batch[KEY], batch[TILE]
        if len(values) != len(keys):
            raise LoaderError(f"{len(values)} results came for a batch of {len(keys)} tiles")
        for key, tile, value in zip(keys, tiles.tolist(), values, strict=True):
            if key in done:
                continue  # ranks that have to take equally many steps may read a tile twice
            canvas = under_way.get(key)
            if canvas is None:
                canvas = under_way[key] = _Canvas.of(dataset, numbers[key], name, axes, blend)
            canvas.put(tile, value)
            if canvas.is_complete:
                done.add(key)
                yield key, under_way.pop(key).result(like=value)
    if under_way:
        shown = ", ".join(
            f"{key!r} ({canvas.missing} of {canvas.tiles})"
            for key, canvas in list(under_way.items())[:_SHOWN]
        )
        more = f", … ({len(under_way)} samples)" if len(under_way) > _SHOWN else ""
        raise LoaderError(
            f"tiles are missing: of {shown}{more}",
            hint="drop_last leaves some out, and of several ranks each has a part: "
            "rank=0, world_size=1 reads all of them in one process",
        )


@dataclass(slots=True)
class _Canvas:
    """The result of a sample, as its tiles come in."""

    regions: Sequence[Region]
    shape: tuple[int, ...]
    name: str
    key: str
    axes: tuple[int, ...] | None
    blend: Blend
    tiled: list[int]
    seen: set[int] = field(default_factory=set)
    total: _Array | None = None
    weight: _Array | None = None

    @classmethod
    def of(
        cls, dataset: Dataset, number: int, name: str, axes: tuple[int, ...] | None, blend: Blend
    ) -> _Canvas:
        entry = dataset.index.places(number)
        form = form_of_array(entry.arrays[name])
        selection = dataset.selections[name]
        count = len(dataset.numbering.range_of(number))
        regions = [
            checked_region(selection.region(form, draw=tile), form, selection)
            for tile in range(count)
        ]
        tiled = _tiled_axes(selection, form)
        if any(len(region[axis]) != 1 for region in regions for axis in tiled):
            raise ConfigError(
                f"tiles of array {name!r} have several ranges along a dimension, and cannot be put "
                "back together"
            )
        return cls(regions, form.shape, name, entry.key, axes, blend, tiled)

    @property
    def tiles(self) -> int:
        return len(self.regions)

    @property
    def missing(self) -> int:
        return self.tiles - len(self.seen)

    @property
    def is_complete(self) -> bool:
        return not self.missing

    def put(self, tile: int, value: Any) -> None:
        """Add the result for a tile."""
        if tile in self.seen:
            return
        part = _as_array(value)
        region = self.regions[tile]
        axes = self._axes(part, region)
        if self.total is None or self.weight is None:
            self._begin(part, axes)
        self._check_rest(part, axes)
        assert self.total is not None
        assert self.weight is not None
        to = [slice(None)] * part.ndim
        of = [slice(None)] * part.ndim
        for axis, at in axes.items():
            ((start, stop),) = region[axis]
            first, last = max(start, 0), min(stop, self.shape[axis])
            to[at], of[at] = slice(first, last), slice(first - start, last - start)
        here, taken = tuple(to), part[tuple(of)]
        if self.blend == "first":
            is_first = np.broadcast_to(self.weight[here] > tile, taken.shape)
            self.total[here][is_first] = taken[is_first]
            self.weight[here] = np.minimum(self.weight[here], tile)
        else:
            weights = self._weights(part, axes)[tuple(of)]
            self.total[here] += taken * weights
            self.weight[here] += weights
        self.seen.add(tile)

    def result(self, like: Any) -> Any:
        """Return the result, of the kind of one for a tile."""
        assert self.total is not None
        assert self.weight is not None
        none = self.tiles if self.blend == "first" else 0
        if (self.weight == none).any():
            raise LoaderError(
                f"the tiles of array {self.name!r} of sample {self.key!r} do not cover it: "
                f"{int((self.weight == none).sum())} of {self.weight.size} elements are in none",
                hint="the selection gives regions that leave some out",
            )
        found = self.total if self.blend == "first" else self.total / self.weight
        if isinstance(like, np.ndarray):
            return found.astype(like.dtype)
        import torch

        return torch.from_numpy(np.ascontiguousarray(found)).to(like.dtype)

    def _begin(self, part: _Array, axes: Mapping[int, int]) -> None:
        shape, thin = list(part.shape), [1] * part.ndim
        for axis, at in axes.items():
            shape[at] = thin[at] = self.shape[axis]
        if self.blend == "first":
            self.total = np.zeros(shape, part.dtype)
            self.weight = np.full(thin, self.tiles)
            return
        if part.dtype.kind not in "fc":
            raise ConfigError(
                f"results of {part.dtype} have no mean where tiles overlap",
                hint='blend="first" takes one of them',
            )
        wide = np.complex128 if part.dtype.kind == "c" else np.float64
        self.total, self.weight = np.zeros(shape, wide), np.zeros(thin)

    def _axes(self, part: _Array, region: Region) -> dict[int, int]:
        """Return for each tiled dimension of the array that of a result."""
        tiled = self.tiled
        if self.axes is not None:
            places = [at + part.ndim if at < 0 else at for at in self.axes]
        elif part.ndim == len(self.shape):
            places = tiled
        else:
            places = []
        extents = [region[axis][0][1] - region[axis][0][0] for axis in tiled]
        is_one_each = len(set(places)) == len(places) == len(tiled)
        fits = is_one_each and all(0 <= at < part.ndim for at in places)
        if not fits or [part.shape[at] for at in places] != extents:
            raise LoaderError(
                f"a result of shape {list(part.shape)} for a tile of array {self.name!r} of sample "
                f"{self.key!r}, which has {extents} elements along its dimensions {tiled}",
                hint="say with axes= which dimensions of a result these are, without the batch's",
            )
        return dict(zip(tiled, places, strict=True))

    def _check_rest(self, part: _Array, axes: Mapping[int, int]) -> None:
        """Check the dimensions of a result that are not tiled: they are those of all.

        Raises:
            LoaderError: they are not.
        """
        assert self.total is not None
        rest = [at for at in range(part.ndim) if at not in axes.values()]
        first = [extent for at, extent in enumerate(self.total.shape) if at not in axes.values()]
        if [part.shape[at] for at in rest] != first:
            raise LoaderError(
                f"a result of shape {list(part.shape)} for a tile of array {self.name!r} of sample "
                f"{self.key!r}: the first one has {first} elements along its dimensions {rest}"
            )

    def _weights(self, part: _Array, axes: Mapping[int, int]) -> _Array:
        """Return the weight of each element of a tile, with one element along other dimensions."""
        weights = np.ones([part.shape[at] if at in axes.values() else 1 for at in range(part.ndim)])
        if self.blend == "mean":
            return weights
        for at in axes.values():
            extent = part.shape[at]
            ramp = np.minimum(np.arange(1, extent + 1), np.arange(extent, 0, -1))
            weights *= ramp.reshape([-1 if other == at else 1 for other in range(part.ndim)])
        return weights


def _tiled_axes(selection: Selection, form: ArrayForm) -> list[int]:
    """Return the dimensions that a selection cuts into tiles."""
    if isinstance(selection, Both):
        return sorted({*_tiled_axes(selection.first, form), *_tiled_axes(selection.second, form)})
    if isinstance(selection, Tiles):
        return sorted(selection.sizes.by_axis(form))
    if not is_tiled(selection):
        return []
    regions = [
        selection.region(form, draw=tile)
        for tile in range(cast("TiledSelection", selection).tiles(form))
    ]
    return [
        axis
        for axis, extent in enumerate(form.shape)
        if any(region[axis] != ((0, extent),) for region in regions)
    ]


def _as_array(value: Any) -> _Array:
    """Return a tensor or array as an array."""
    if isinstance(value, np.ndarray):
        return value
    import torch

    if not isinstance(value, torch.Tensor):
        raise LoaderError(f"results must be tensors or arrays, got {type(value).__name__}")
    value = value.detach().cpu()
    array: _Array = (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    return array
