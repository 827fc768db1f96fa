"""Parallel VTK XML files (`.pvtu`, …) and their pieces, made from a seed, and their reader."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from xml.etree import ElementTree

import numpy as np

from tests.pack.corpus.model import Case, Refused, Sample
from tests.pack.corpus.xml_datasets import write_grid, write_mesh, write_surface
from tests.pack.corpus.xml_layout import assemble_pieces
from tests.pack.corpus.xml_oracle import XmlFile, extent_of, need
from tests.pack.corpus.xml_writer import KINDS, Written, draw_encoding

__all__ = ["parallel_case", "parse_header", "resolve"]

_GROUPS = ("PointData", "CellData", "Points", "Coordinates")


def parallel_case(rng: np.random.Generator) -> Case:
    """A parallel file of one to three pieces."""
    kind = str(rng.choice([*KINDS]))
    encoding = draw_encoding(rng)
    written = Written(encoding, kind, parallel=True)
    write = {"vtu": write_mesh, "vtp": write_surface}.get(kind, write_grid)
    may_refuse = write(written, int(rng.integers(1, 4)))
    folder = str(rng.choice(["", "pieces/"]))
    names = [f"{folder}case_{number}.{kind}" for number in range(len(written.alone))]
    stated = [name.replace("/", "\\") if rng.random() < 0.2 else name for name in names]
    entry = f"case.p{kind}"
    files = {entry: _header(written, stated), **dict(zip(names, written.alone, strict=True))}
    if not written.sample.arrays:
        may_refuse = "must"
    expected = None if may_refuse == "must" else [written.sample]
    if encoding.style == "wrapped base64":
        may_refuse = may_refuse or "wrapped base64"
    described = f"p{kind} {encoding.describe()} pieces={len(names)}"
    return Case(described, entry, files, expected, _read, may_refuse.replace("must", ""))


def _header(written: Written, names: list[str]) -> bytes:
    kind = f"P{KINDS[written.kind]}"
    text = f'<VTKFile type="{kind}" version="1.0" {written.encoding.attributes()}>\n'
    text += f'<{kind}{written.grid_attributes} GhostLevel="0">\n'
    first = ElementTree.fromstring(written.pieces[0])
    for tag in _GROUPS:
        group = first.find(tag)
        if group is not None:
            declared = "".join(_declared(element) for element in group)
            text += f"<P{tag}>{declared}</P{tag}>\n"
    for name, piece in zip(names, written.pieces, strict=True):
        extent = re.search(r'<Piece( Extent="[^"]*")', piece)
        text += f'<Piece{extent[1] if extent else ""} Source="{name}"/>\n'
    return f"{text}</{kind}>\n</VTKFile>\n".encode()


def _declared(element: ElementTree.Element) -> str:
    kept = {name: element.get(name) for name in ("type", "Name", "NumberOfComponents")}
    made = ElementTree.Element("PDataArray", {k: v for k, v in kept.items() if v is not None})
    return ElementTree.tostring(made, encoding="unicode")


def parse_header(path: Path) -> ElementTree.Element:
    """Parse a file that refers to others."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError) as err:
        raise Refused(f"XML: {err}") from err
    need(root.tag == "VTKFile", "root")
    return root


def resolve(path: Path, name: str) -> Path:
    """The file that a reference means."""
    target = path.parent / (PureWindowsPath(name).as_posix() if "\\" in name else name)
    need("\0" not in name and name and target.is_file(), f"no file {name!r}")
    return target


def _read(path: Path) -> list[Sample]:
    root = parse_header(path)
    kind = root.get("type", "")
    need(kind.startswith("P") and kind[1:] in KINDS.values(), "kind")
    grid = root.find(kind)
    need(grid is not None, "no dataset")
    pieces = []
    for element in grid.findall("Piece"):
        file = XmlFile(resolve(path, element.get("Source", "")).read_bytes())
        need(file.kind == kind[1:], "kind of a piece")
        inside = file.root.find(file.kind)
        need(inside is not None, "no dataset in a piece")
        for piece in inside.findall("Piece"):
            if element.get("Extent") is not None or piece.get("Extent") is not None:
                need(extent_of(element, "Extent") == extent_of(piece, "Extent"), "extents differ")
            pieces.append((file, piece))
    return [assemble_pieces(kind[1:], grid, pieces)]
