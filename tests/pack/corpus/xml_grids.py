"""Pieces of grids of a VTK XML file put together, with NumPy alone."""

from __future__ import annotations

import numpy as np

from tests.pack.corpus.model import Sample
from tests.pack.corpus.xml_oracle import XmlFile, extent_of, need
from tests.pack.corpus.xml_pieces import ReadPiece, read_points, same_names

__all__ = ["merge_grids"]


def _box(extent: list[int], whole_extent: list[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a piece lies in the whole: slices [z,y,x] of its points and of its cells."""
    points, cells = [], []
    for axis in (2, 1, 0):
        low, high = extent[2 * axis : 2 * axis + 2]
        first, last = whole_extent[2 * axis : 2 * axis + 2]
        need(first <= low <= high <= last, "a piece leaves the whole")
        points.append(slice(low - first, high - first + 1))
        flat = first == last
        need(flat or low < high, "a flat piece of a solid grid")
        cells.append(slice(0, 1) if flat else slice(low - first, high - first))
    return tuple(points), tuple(cells)


def _sizes(extent: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    points = tuple(extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0))
    need(all(0 < n < 1 << 20 for n in points), "extent")
    return points, tuple(max(1, n - 1) for n in points)


def merge_grids(kind: str, grid, pieces, sample: Sample) -> None:
    extent = extent_of(grid, "WholeExtent")
    shape, cell_shape = _sizes(extent)
    need(np.prod(shape, dtype=object) < 1 << 26, "too large")
    filled = {"point": np.zeros(shape, bool), "cell": np.zeros(cell_shape, bool)}
    read_pieces = []
    for file, piece in pieces:
        own = extent_of(piece, "Extent")
        points, cells = _sizes(own)
        read = ReadPiece(int(np.prod(points)), int(np.prod(cells)))
        read.read_data(file, piece, "fields", "cell_fields")
        at_points, at_cells = _box(own, extent)
        filled["point"][at_points] = True
        filled["cell"][at_cells] = True
        if kind == "StructuredGrid":
            read_points(file, piece, read)
        if kind == "RectilinearGrid":
            _read_coordinates(file, piece, read, points)
        read_pieces.append((read, points, cells, at_points, at_cells))
    need(filled["point"].all() and filled["cell"].all(), "pieces do not fill the whole")
    full = [entry[0] for entry in read_pieces]
    for name in same_names(full):
        at_cells = name.startswith("cell_fields/")
        first = full[0].data[name]
        parts = []
        for read, points, cells, in_points, in_cells in read_pieces:
            own, box = (cells, in_cells) if at_cells else (points, in_points)
            part = read.data[name]
            parts.append((box, part.reshape(*own, *part.shape[1:])))
        whole_shape = (*(cell_shape if at_cells else shape), *first.shape[1:])
        _fill(sample, name, whole_shape, parts)
    _merge_places(kind, read_pieces, shape, sample)
    if any(extent[::2]):
        sample.attributes["extent"] = extent
    if kind == "ImageData":
        _image_geometry(grid, extent, sample)
    for read in full:
        sample.any_nan.update(read.any_nan)


def _read_coordinates(file: XmlFile, piece, read: ReadPiece, shape: tuple[int, ...]) -> None:
    group = piece.find("Coordinates")
    elements = [] if group is None else group.findall("DataArray")
    need(len(elements) == 3, "coordinates")
    for axis, element, count in zip("xyz", elements, shape[::-1], strict=True):
        values, is_text = file.values(element, count)
        need(values.ndim == 1, "coordinates")
        read.places[f"coordinates/{axis}"] = values
        if is_text:
            read.any_nan.add(f"coordinates/{axis}")


def _merge_places(kind: str, read_pieces, shape: tuple[int, ...], sample: Sample) -> None:
    for name in read_pieces[0][0].places:
        parts = [entry[0].places[name] for entry in read_pieces]
        need(len({part.dtype for part in parts}) == 1, "types of points differ")
        if kind == "StructuredGrid":
            boxes = [(entry[3], part.reshape(*entry[1], 3))
                     for entry, part in zip(read_pieces, parts, strict=True)]  # fmt: skip
            _fill(sample, name, (*shape, 3), boxes)
        else:
            axis = "zyx".index(name[-1])
            boxes = [(entry[3][axis], part) for entry, part in zip(read_pieces, parts, strict=True)]
            _fill(sample, name, (shape[axis],), boxes)


def _fill(sample: Sample, name: str, shape: tuple[int, ...], boxes) -> None:
    """Put parts into a whole; where they meet, the last or the first of them counts."""
    last, first = (np.zeros(shape, boxes[0][1].dtype) for _ in range(2))
    for (box, part), (box_before, part_before) in zip(boxes, boxes[::-1], strict=True):
        last[box] = part
        first[box_before] = part_before
    sample.arrays[name] = last
    if len(boxes) > 1:
        sample.either[name] = first


def _image_geometry(grid, extent: list[int], sample: Sample) -> None:
    def three(name: str, default: str, count: int = 3) -> np.ndarray:
        words = grid.get(name, default).split()
        need(len(words) == count, name)
        try:
            values = np.array([float(word) for word in words])
        except ValueError as err:
            need(not str(err), name)
        need(np.isfinite(values).all(), name)
        return values

    origin, spacing = three("Origin", "0 0 0"), three("Spacing", "1 1 1")
    direction = three("Direction", "1 0 0 0 1 0 0 0 1", 9)
    sample.attributes["spacing"] = spacing.tolist()
    start = direction.reshape(3, 3) @ (spacing * np.array(extent[::2]))
    sample.attributes["origin"] = (origin + start).tolist()
    if not np.array_equal(direction, np.eye(3).reshape(-1)):
        sample.attributes["direction"] = direction.tolist()
