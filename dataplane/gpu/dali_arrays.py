"""Arrays of a pipeline: which are volumes, points, vectors and labels, and what DALI sees of them.

A volume goes through DALI as "DHWC", z, y, x and components: `[D, H, W]` gets a last axis of one
component, which is no copy, and a channel-first one is transposed on its way in and out. All
volumes of a sample have the same extents, since every operation that moves voxels moves those of
all of them alike. Vectors have components x, y, z in this order. Labels, and what has no floating
point type, are never interpolated. Pure functions over layouts and an index.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataplane.datasets.dataset import Dataset
from dataplane.datasets.layout import Arrangement, ArrayLayout
from dataplane.errors import ConfigError
from dataplane.gpu.dali_library import element_type

__all__ = ["ArraySpec", "Kind", "Roles", "checked_names", "find_specs"]

Kind: TypeAlias = Literal["volume", "positions", "of_points", "other"]

_CHANNEL_NAMES = frozenset({"c", "channel", "channels", "component", "components", "t", "time"})
_LAYOUTS = ("DHW", "DHWC", "CDHW")
_DIMENSIONS = 3


@dataclass(frozen=True, slots=True)
class Roles:
    """What a user says of the arrays.

    Attributes:
        volumes: names of volumes; None takes every array of three or four dimensions.
        labels: names of volumes whose values are never mixed.
        points: names of arrays of positions, `[N, 3]`.
        vectors: names of volumes or arrays at points with components x, y, z, which are turned.
        normals: names of arrays at points that stay perpendicular to surfaces, of unit length.
        layouts: layout of a volume by name: "DHW", "DHWC" or "CDHW".
    """

    volumes: Sequence[str] | None = None
    labels: Sequence[str] = ()
    points: Sequence[str] = ()
    vectors: Sequence[str] = ()
    normals: Sequence[str] = ()
    layouts: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array at some place of a pipeline.

    Attributes:
        name: name of the array.
        kind: what operations do with it.
        dtype: type of its elements at this place.
        shape: shape of a sample as it is stored; None for an extent that varies.
        layout: of a volume, as it is stored.
        is_vector: whether its components turn with the space around it.
        is_normal: whether they are those of a surface's normal.
        is_label: whether its values are never mixed.
    """

    name: str
    kind: Kind
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    layout: str = ""
    is_vector: bool = False
    is_normal: bool = False
    is_label: bool = False

    @property
    def is_interpolated(self) -> bool:
        """Whether values between its elements are made from these."""
        return self.dtype.kind == "f" and not self.is_label

    @property
    def components(self) -> int:
        """Number of components of an element; 1 for a scalar, and where it varies."""
        if self.kind == "volume":
            size = {"DHW": 1, "DHWC": self.shape[-1], "CDHW": self.shape[0]}[self.layout]
        else:
            size = self.shape[1] if len(self.shape) == 2 else 1
        return 1 if size is None else size

    @property
    def extents(self) -> tuple[int | None, ...]:
        """The extents of a volume, z, y, x."""
        return self.shape[1:] if self.layout == "CDHW" else self.shape[:_DIMENSIONS]

    def with_dtype(self, dtype: np.dtype[Any]) -> ArraySpec:
        """Return it with elements of another type."""
        return replace(self, dtype=dtype)

    def with_extents(self, extents: tuple[int, ...]) -> ArraySpec:
        """Return a volume with other extents, z, y, x."""
        if self.layout == "CDHW":
            return replace(self, shape=(self.shape[0], *extents))
        return replace(self, shape=(*extents, *self.shape[_DIMENSIONS:]))


def find_specs(
    datasets: Sequence[Dataset], layouts: Sequence[ArrayLayout], roles: Roles
) -> dict[str, ArraySpec]:
    """Return the arrays of samples as they come out of a loader.

    Args:
        datasets: packed datasets that the samples are of.
        layouts: layouts of their arrays in a batch.
        roles: what the user says of them.

    Raises:
        ConfigError: a name is unknown, an array does not fit its role, or DALI cannot take it.
    """
    names = [layout.name for layout in layouts]
    _check_roles(roles, names)
    by_name = {layout.name: _plain(datasets, layout) for layout in layouts}
    volumes = roles.volumes
    if volumes is None:
        taken = {*roles.points, *roles.normals}
        volumes = [
            name
            for name, spec in by_name.items()
            if len(spec.shape) in (3, 4) and name not in taken
        ]
    specs = {}
    for name, spec in by_name.items():
        made = spec
        if name in volumes:
            made = _as_volume(datasets, spec, (roles.layouts or {}).get(name))
        elif name in roles.points:
            made = replace(spec, kind="positions")
        elif name in roles.vectors or name in roles.normals:
            made = replace(spec, kind="of_points")
        made = replace(
            made,
            is_vector=name in roles.vectors,
            is_normal=name in roles.normals,
            is_label=name in roles.labels,
        )
        _check(made)
        specs[name] = made
    _check_extents([spec for spec in specs.values() if spec.kind == "volume"])
    return specs


def checked_names(names: Iterable[str], known: Collection[str], what: str) -> tuple[str, ...]:
    """Return names of arrays, all of them known.

    Raises:
        ConfigError: one is not, or it is one string and not several.
    """
    if isinstance(names, str):
        raise ConfigError(f"{what}={names!r} is one string", hint=f"write {what}=[{names!r}]")
    found = tuple(names)
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
            close += [other for other in known if other.split("/")[-1] == name]
            raise ConfigError(
                f"{what}: there is no array {name!r}",
                hint=f"did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?"
                if close
                else f"there are {', '.join(sorted(known)[:20])}",
            )
    return found


def _check_roles(roles: Roles, names: Sequence[str]) -> None:
    for what in ("volumes", "labels", "points", "vectors", "normals"):
        given = getattr(roles, what)
        if given is not None:
            checked_names(given, names, what)
    checked_names(roles.layouts or {}, names, "layouts")
    for pair in (("points", "normals"), ("points", "volumes"), ("normals", "volumes")):
        both = {*(getattr(roles, pair[0]) or ())} & {*(getattr(roles, pair[1]) or ())}
        if both:
            raise ConfigError(f"{min(both)!r} is named in {pair[0]} and in {pair[1]}")


def _plain(datasets: Sequence[Dataset], layout: ArrayLayout) -> ArraySpec:
    """Return an array without a role: its type, and how many extents it has."""
    dtype, shape = layout.dtype, tuple[int | None, ...](layout.shape)
    if layout.arrangement is Arrangement.RAGGED:
        shape = (None, *shape)
    elif layout.arrangement is Arrangement.LISTED:
        dtype, shape = _forms(datasets, layout.name)
    assert dtype is not None
    try:
        dtype = element_type(dtype)
    except ConfigError as err:
        raise ConfigError(
            f"array {layout.name!r} has elements of type {dtype}, which DALI has not",
            hint="name the arrays to read, without this one: Dataset(url, arrays=[...])",
        ) from err
    return ArraySpec(layout.name, "other", dtype, shape)


def _forms(datasets: Sequence[Dataset], name: str) -> tuple[np.dtype[Any], tuple[int | None, ...]]:
    """Return the type and shape of an array whose shape varies; None where an extent does."""
    shapes: set[tuple[int, ...]] = set()
    dtypes: set[str] = set()
    for dataset in datasets:
        table: Any = dataset.index.columns(["array", "dtype", "shape"])
        rows = table.filter(pc.field("array") == name)
        if rows.num_rows != len(dataset):
            raise ConfigError(
                f"array {name!r} is missing in {len(dataset) - rows.num_rows} samples, and "
                "DALI takes all arrays of all samples",
                hint="name arrays that every sample has: Dataset(url, arrays=[...])",
            )
        texts: Any = rows.column("dtype")
        dtypes.update(texts.cast(pa.string()).unique().to_pylist())
        shapes.update(map(tuple, rows.column("shape").to_pylist()))
    counts = {len(shape) for shape in shapes}
    if len(dtypes) != 1 or len(counts) != 1:
        raise ConfigError(
            f"array {name!r} has elements of {', '.join(sorted(dtypes))} and "
            f"{' or '.join(map(str, sorted(counts)))} dimensions; in DALI it has one of each",
            hint="leave it out: Dataset(url, arrays=[...])",
        )
    (dtype,) = dtypes
    extents = [{*column} for column in zip(*shapes, strict=True)]
    return np.dtype(dtype), tuple(column.pop() if len(column) == 1 else None for column in extents)


def _as_volume(datasets: Sequence[Dataset], spec: ArraySpec, layout: str | None) -> ArraySpec:
    dimensions = len(spec.shape)
    if layout is None:
        if dimensions == _DIMENSIONS:
            layout = "DHW"
        else:
            entry = datasets[0].index[0].arrays[spec.name] if len(datasets[0]) else None
            named = (entry.meta.dimension_names if entry else None) or ("",)
            layout = "CDHW" if named[0].lower() in _CHANNEL_NAMES else "DHWC"
    if layout not in _LAYOUTS or len(layout) != dimensions:
        raise ConfigError(
            f"volume {spec.name!r} has {dimensions} dimensions and layout {layout!r}",
            hint="volumes have layout 'DHW', 'DHWC' or 'CDHW': layouts={name: 'CDHW'}",
        )
    if dimensions > _DIMENSIONS and spec.shape[0 if layout == "CDHW" else -1] is None:
        raise ConfigError(
            f"volume {spec.name!r} has another number of components in other samples",
            hint="leave it out of volumes=[...]",
        )
    return replace(spec, kind="volume", layout=layout)


def _check(spec: ArraySpec) -> None:
    has_three = len(spec.shape) > 1 and spec.components == 3
    needs_three = spec.kind == "positions" or spec.is_vector or spec.is_normal
    if spec.kind in ("positions", "of_points") and len(spec.shape) != 2:
        has_three = False
    if needs_three and not has_three:
        role = "points" if spec.kind == "positions" else "normals" if spec.is_normal else "vectors"
        wanted = "[D, H, W, 3]" if spec.kind == "volume" else "[N, 3]"
        raise ConfigError(
            f"{role}: array {spec.name!r} must have the shape {wanted}, got {_shown(spec.shape)}",
            hint="only arrays with components x, y, z can be turned",
        )
    if needs_three and spec.dtype.kind != "f":
        raise ConfigError(
            f"array {spec.name!r} is turned, and has elements of type {spec.dtype}",
            hint="points, vectors and normals are floating point arrays",
        )
    if spec.is_label and spec.kind != "volume":
        raise ConfigError(f"labels: {spec.name!r} is no volume")
    if spec.is_label and spec.is_vector:
        raise ConfigError(f"{spec.name!r} is named in labels and in vectors")


def _check_extents(volumes: Sequence[ArraySpec]) -> None:
    for other in volumes[1:]:
        if other.extents != volumes[0].extents:
            raise ConfigError(
                "all volumes of a sample go through the same operations and have the same "
                f"extents: {volumes[0].name!r} has {_shown(volumes[0].extents)}, "
                f"{other.name!r} has {_shown(other.extents)}",
                hint="say which arrays are volumes: volumes=[...]",
            )


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('varying' if n is None else str(n) for n in shape)}]"
