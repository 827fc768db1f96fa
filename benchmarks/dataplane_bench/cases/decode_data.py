"""Data of the decode benchmark: generated arrays, the files that hold them, and selections.

Every array is one Zarr shard that zarr-python writes, so that all readers read the same bytes.
Generated are four turbulent float32 fields; a surface mesh with its connectivity, pressure and wall
shear stress; one larger field to cut crops from; and the points of a larger mesh in random order,
to cut runs from, as a packed dataset with permuted points holds them.

`needed_fraction` is the part of an array that a selection needs: the Blosc blocks that it touches,
or whole chunks where the codec knows no blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dataplane.codecs import ChunkTable, Codec
from dataplane.errors import ConfigError
from dataplane_testing.generate import surface_mesh, turbulence

__all__ = [
    "CODECS",
    "WHOLE_ARRAYS",
    "Box",
    "Sizes",
    "chunk_shape_for",
    "crops",
    "generate",
    "needed_fraction",
    "runs",
    "write",
]

Box = tuple[tuple[int, int], ...]

WHOLE_ARRAYS: Final = ("turbulence", "connectivity", "pressure", "shear")
CODECS: Final = ("blosc-zstd", "blosc-zstd-5", "blosc-lz4", "zstd", "shuffle-zstd")

_BLOSC: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {"blosc-zstd": ("zstd", 1), "blosc-zstd-5": ("zstd", 5), "blosc-lz4": ("lz4", 5)}
)
_ZSTD_LEVEL: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the generated arrays and selections.

    Attributes:
        edge: edge of the four turbulent fields, in elements.
        mesh_points: points of the surface mesh.
        volume_edge: edge of the field that crops are cut from.
        crop_edge: edge of a crop.
        points: points of the array that runs are cut from.
        run: points of a run.
        count: number of crops or runs that are read together, like the samples of a batch.
    """

    edge: int = 128
    mesh_points: int = 500_000
    volume_edge: int = 256
    crop_edge: int = 64
    points: int = 5_000_000
    run: int = 65_536
    count: int = 8

    @classmethod
    def small(cls) -> Sizes:
        """Return sizes that only show that everything runs."""
        return cls(32, 5000, 48, 12, 50_000, 2000, 3)


def generate(name: str, sizes: Sizes, seed: int) -> npt.NDArray[Any]:
    """Make one of `WHOLE_ARRAYS`, `volume` or `points`.

    Raises:
        ConfigError: there is no such array.
    """
    if name == "turbulence":
        shape = (sizes.edge,) * 3
        return np.stack([turbulence(shape, seed=(seed, component)) for component in range(4)])
    if name == "volume":
        return turbulence((sizes.volume_edge,) * 3, seed=(seed, 4))
    if name == "points":
        points = surface_mesh(sizes.points, seed=seed).points
        return points[np.random.default_rng(seed).permutation(len(points))]
    mesh = surface_mesh(sizes.mesh_points, seed=seed)
    arrays = {
        "connectivity": mesh.connectivity,
        "pressure": mesh.point_data["pressure"],
        "shear": mesh.point_data["wall_shear_stress"],
    }
    if name not in arrays:
        raise ConfigError(f"unknown data {name!r}", hint=f"one of {', '.join(WHOLE_ARRAYS)}")
    return arrays[name]


def crops(shape: Sequence[int], edge: int, count: int, seed: int) -> tuple[Box, ...]:
    """Place cubic crops anywhere in a volume."""
    rng = np.random.default_rng((seed, 1))
    corners = [[int(rng.integers(0, size - edge + 1)) for size in shape] for _ in range(count)]
    return tuple(tuple((c, c + edge) for c in corner) for corner in corners)


def runs(shape: Sequence[int], length: int, count: int, seed: int) -> tuple[Box, ...]:
    """Place runs of points anywhere in an array of points."""
    rng = np.random.default_rng((seed, 2))
    starts = [int(rng.integers(0, shape[0] - length + 1)) for _ in range(count)]
    rest = tuple((0, size) for size in shape[1:])
    return tuple(((start, start + length), *rest) for start in starts)


def chunk_shape_for(shape: Sequence[int], itemsize: int, chunk_bytes: int) -> tuple[int, ...]:
    """Choose the shape of a chunk of at most `chunk_bytes`.

    Points and cells are cut along their first axis. Of volumes, the longest edge is halved until a
    chunk, of one component where there are several, fits.

    Raises:
        ConfigError: the edges cannot be halved evenly that far.
    """
    if len(shape) < 3:
        row_bytes = itemsize * int(np.prod(shape[1:], dtype=np.int64))
        return (max(1, min(chunk_bytes // row_bytes, shape[0])), *shape[1:])
    chunk = [1 if axis < len(shape) - 3 else size for axis, size in enumerate(shape)]
    while int(np.prod(chunk)) * itemsize > chunk_bytes:
        longest = chunk.index(max(chunk))
        if chunk[longest] % 2:
            raise ConfigError(f"cannot cut {tuple(shape)} into chunks of {chunk_bytes} bytes")
        chunk[longest] //= 2
    return tuple(chunk)


def write(path: Path, array: npt.NDArray[Any], codec: str, chunk_bytes: int) -> None:
    """Store an array as one Zarr shard.

    Raises:
        ConfigError: unknown codec, or the array cannot be cut into chunks of that size.
    """
    import zarr

    chunks = chunk_shape_for(array.shape, array.itemsize, chunk_bytes)
    shard = tuple(
        -(-size // chunk) * chunk for size, chunk in zip(array.shape, chunks, strict=True)
    )
    stored = zarr.create_array(
        store=str(path),
        shape=array.shape,
        dtype=array.dtype,
        shards=shard,
        chunks=chunks,
        compressors=_compressors(codec, array.itemsize),
        fill_value=0,
    )
    stored[...] = array


def _compressors(codec: str, itemsize: int) -> Any:
    from zarr.codecs import BloscCodec, ZstdCodec

    if codec in _BLOSC:
        cname, level = _BLOSC[codec]
        return BloscCodec(cname=cname, clevel=level, shuffle="shuffle", typesize=itemsize)  # type: ignore[arg-type]
    if codec == "zstd":
        return ZstdCodec(level=_ZSTD_LEVEL)
    if codec == "shuffle-zstd":
        import warnings

        from zarr.codecs.numcodecs import Shuffle

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other implementations may not know the codec
            shuffle = Shuffle(elementsize=itemsize)
        return [shuffle, ZstdCodec(level=_ZSTD_LEVEL)]
    raise ConfigError(f"unknown codec {codec!r}", hint=f"one of {', '.join(CODECS)}")


def needed_fraction(table: ChunkTable, encoded: memoryview, array_bytes: int) -> float:
    """Return the decoded bytes of all blocks that a table touches, over those of the array."""
    return sum(_needed_bytes(row, encoded) for row in table.rows) / array_bytes


def _needed_bytes(row: Any, encoded: memoryview) -> int:
    ndim, itemsize = int(row["ndim"]), int(row["itemsize"])
    shape = [int(n) for n in row["chunk_shape"][:ndim]]
    chunk_bytes = int(np.prod(shape)) * itemsize
    block = chunk_bytes
    if row["codec"] == Codec.BLOSC:
        header = encoded[int(row["source_offset"]) : int(row["source_offset"]) + 16]
        block = min(int.from_bytes(header[8:12], "little"), chunk_bytes)
    starts = np.zeros(1, np.int64)
    for size, first, extent in zip(shape, row["chunk_start"], row["extent"], strict=False):
        ends = starts * size + int(first) + int(extent)
        starts = (starts * size)[:, None] + int(first) + np.arange(int(extent))
        starts = starts.reshape(-1)
    # Rows of the innermost dimension: their first elements and one past their last.
    width = int(row["extent"][ndim - 1])
    touched = np.zeros(-(-chunk_bytes // block) + 1, np.int64)
    np.add.at(touched, starts[::width] * itemsize // block, 1)
    np.add.at(touched, (ends * itemsize - 1) // block + 1, -1)
    blocks = np.flatnonzero(np.cumsum(touched[:-1]) > 0)
    return int(np.minimum(block, chunk_bytes - blocks * block).sum())
