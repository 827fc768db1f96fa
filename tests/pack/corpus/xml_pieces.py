"""One piece of a VTK XML file as arrays, before pieces are put together."""

from __future__ import annotations

import numpy as np

from tests.pack.corpus.model import encoded_name, put
from tests.pack.corpus.xml_oracle import XmlFile, need

__all__ = ["ReadPiece", "read_points", "same_names"]


class ReadPiece:
    """Arrays of one piece: points, lists of cells, and data by place and name."""

    def __init__(self, points: int, cells: int) -> None:
        self.points, self.cells = points, cells
        self.places: dict[str, np.ndarray] = {}
        self.lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.polyhedra: list[np.ndarray] | None = None
        self.data: dict[str, np.ndarray] = {}
        self.any_nan: set[str] = set()

    def read_data(self, file: XmlFile, piece, point_prefix: str, cell_prefix: str) -> None:
        for tag, prefix, tuples in (
            ("PointData", point_prefix, self.points),
            ("CellData", cell_prefix, self.cells),
        ):
            for group in piece.findall(tag):
                for element in group.findall("DataArray"):
                    values, is_text = file.values(element, tuples)
                    path = f"{prefix}/{encoded_name(element.get('Name', ''))}"
                    name = put(self.data, path, values)
                    if is_text:
                        self.any_nan.add(name)


def read_points(file: XmlFile, piece, read: ReadPiece) -> None:
    points = piece.find("Points")
    element = None if points is None else points.find("DataArray")
    if element is None:
        need(read.points == 0, "no points")
        read.places["points"] = np.zeros((0, 3), "f4")
        return
    values, is_text = file.values(element, read.points)
    need(values.shape == (read.points, 3), "points need 3 components")
    read.places["points"] = values
    if is_text:
        read.any_nan.add("points")


def same_names(pieces: list[ReadPiece]) -> list[str]:
    """Names of data that all pieces have alike; pieces without any elements need none."""
    full = [piece for piece in pieces if piece.points or piece.cells]
    names = list(full[0].data) if full else []
    for piece in full[1:]:
        need(set(piece.data) == set(names), "a piece lacks an array")
        for name in names:
            mine, first = piece.data[name], full[0].data[name]
            need(mine.dtype == first.dtype and mine.shape[1:] == first.shape[1:], "types differ")
    return names
