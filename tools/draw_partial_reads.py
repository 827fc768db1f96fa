"""Pictures of docs/partial-reads.md: which chunks a crop, a tile and a run of points touch.

Each is drawn from the plans that the reader itself makes, of a small dataset that is packed for it:
what is blue is what a plan decodes. The same files come out on every machine.

Usage: python tools/draw_partial_reads.py [FOLDER], by default docs/images.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import dataplane as dp
from dataplane.codecs import Codec
from dataplane.datasets.array_forms import form_of_array
from dataplane.datasets.draws import Draws
from dataplane.datasets.selections import Region, Selection, is_tiled
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store

_FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
_VOLUME = (96, 128)
_POINTS = 4096
_SEED = 12
_STYLE = """\
<style>
  text { font: 12px sans-serif; fill: #333 }
  .small { font-size: 11px; fill: #666 }
  .chunk { fill: #f4f4f4; stroke: #c4c4c4 }
  .read { fill: #bcd6f5; stroke: #7fa6d6 }
  .tile { fill: none; stroke: #999; stroke-dasharray: 3 3 }
  .part { fill: none; stroke: #d3440c; stroke-width: 2 }
  .run { fill: #d3440c }
</style>
"""


@dataclass(frozen=True)
class Touched:
    """What a plan takes of an array: its region, and the numbers of the chunks that it decodes."""

    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    region: Region
    chunks: frozenset[int]

    @property
    def count(self) -> int:
        """Number of chunks of the array."""
        return int(np.prod([-(-n // c) for n, c in zip(self.shape, self.chunk_shape, strict=True)]))


def touched(dataset: dp.Dataset, epoch: int = 0, tile: int = 0) -> dict[str, Touched]:
    """Return what the plan of the first sample takes of each array."""
    draw = int(Draws(_SEED, epoch).of(0)[0])
    plan = dataset.reader().planner.plan(tile, draw=draw)
    permuted = ("point",) if "points" in dataset.selections else ()
    found = {}
    for number, (name, selection) in enumerate(dataset.selections.items()):
        rows = plan.rows[(plan.rows["destination"] == number) & (plan.rows["codec"] != Codec.FILL)]
        array = plan.entry.arrays[name]
        region = selection.region(
            form_of_array(array, permuted), draw=tile if is_tiled(selection) else draw
        )
        chunks = frozenset(rows["chunk"].tolist())
        found[name] = Touched(array.meta.shape, array.meta.chunk_shape, region, chunks)
    return found


def rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    """Return a rectangle of a class of the style sheet."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


def picture(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """Return a whole SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{title}</title>\n'
    )
    white = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return head + _STYLE + "\n".join([white, *parts]) + "\n</svg>\n"


def plane(of: Touched, left: float, top: float, scale: float) -> Iterator[str]:
    """Yield the chunks of a plane, those that are read in another colour, and the part."""
    height, width = of.chunk_shape
    columns = -(-of.shape[1] // width)
    for number in range(of.count):
        row, column = divmod(number, columns)
        yield rectangle(
            "read" if number in of.chunks else "chunk",
            left + column * width * scale,
            top + row * height * scale,
            min(width, of.shape[1] - column * width) * scale,
            min(height, of.shape[0] - row * height) * scale,
        )
    yield box("part", of.region, left, top, scale)


def box(kind: str, region: Region, left: float, top: float, scale: float) -> str:
    """Return the outline of a region with one range per dimension."""
    ((y, y_stop),), ((x, x_stop),) = region
    sizes = (x_stop - x) * scale, (y_stop - y) * scale
    return rectangle(kind, left + x * scale, top + y * scale, *sizes)


def crop_picture(dataset: dp.Dataset) -> str:
    """Draw a random crop in three epochs."""
    parts, scale = [], 2.0
    for epoch in range(3):
        of = touched(dataset, epoch)["fields/p"]
        left = 16 + epoch * (_VOLUME[1] * scale + 24)
        parts += plane(of, left, 32, scale)
        parts.append(text(left, 22, f"epoch {epoch}: {len(of.chunks)} of {of.count} chunks"))
    width = 16 + 3 * int(_VOLUME[1] * scale + 24) - 8
    return picture(width, 240, "A crop of 40 by 48 elements in three epochs", parts)


def grid_picture(dataset: dp.Dataset, tile: int) -> str:
    """Draw all tiles of a grid, and what one of them reads."""
    scale, left, top = 4.0, 16, 32
    of = touched(dataset, tile=tile)["fields/p"]
    outlines = [
        box("tile", touched(dataset, tile=other)["fields/p"].region, left, top, scale)
        for other in range(len(dataset))
    ]
    chunks = list(plane(of, left, top, scale))
    words = f"tile {tile} of {len(dataset)}: {len(of.chunks)} of {of.count} chunks"
    parts = [*chunks[:-1], *outlines, chunks[-1], text(left, 22, words)]
    return picture(int(_VOLUME[1] * scale) + 32, 432, "The tiles of a grid, and one of them", parts)


def points_picture(dataset: dp.Dataset) -> str:
    """Draw the cyclic runs of three epochs, which are of the same points in both arrays."""
    left, width, height = 120, 720, 18
    parts, y = [], 12
    for epoch in range(3):
        parts.append(text(16, y + 12, f"epoch {epoch}"))
        for name, of in touched(dataset, epoch).items():
            size = of.chunk_shape[0]
            each = width / of.shape[0]
            words = f"{name.rpartition('/')[2]}: {len(of.chunks)} of {of.count}"
            parts.append(text(16, y + 32, words, "small"))
            for number in range(of.count):
                first, stop = number * size, min((number + 1) * size, of.shape[0])
                kind = "read" if number in of.chunks else "chunk"
                place = left + first * each
                parts.append(rectangle(kind, place, y + 20, (stop - first) * each, height))
            for start, stop in of.region[0]:
                place = left + start * each
                parts.append(rectangle("run", place, y + 36, (stop - start) * each, 4))
            y += 28
        y += 20
    return picture(left + width + 16, y + 4, "A run of 1000 of 4096 permuted points", parts)


def pack(folder: Path) -> None:
    """Pack a plane and a cloud of points."""
    random = np.random.default_rng(3)
    plane_ = random.standard_normal(_VOLUME).astype("f4")
    cloud = random.standard_normal((_POINTS, 3)).astype("f4")
    arrays = {
        "fields/p": SourceArray(plane_, ("y", "x")),
        "points": SourceArray(cloud, ("point", "c")),
        "point_data/pressure": SourceArray(cloud[:, 0].copy(), ("point",)),
    }
    options = WriteOptions(codec="lz4", chunk_bytes=1024, permute_seed=1)
    with DatasetWriter(open_store(f"file://{folder}"), options) as writer:
        writer.add(SourceSample("sample", arrays))


def pictures() -> dict[str, str]:
    """Return the pictures by file name."""
    with tempfile.TemporaryDirectory() as folder:
        pack(Path(folder))

        def opened(selections: dict[str, Selection]) -> dp.Dataset:
            return dp.Dataset(f"file://{folder}", selections, cache=False)

        run = dp.points(1000)
        return {
            "partial-crop.svg": crop_picture(opened({"fields/p": dp.crop((40, 48))})),
            "partial-grid.svg": grid_picture(
                opened({"fields/p": dp.crop((40, 48), "grid", overlap=8)}), tile=4
            ),
            "partial-points.svg": points_picture(
                opened({"points": run, "point_data/pressure": run})
            ),
        }


def main() -> None:
    """Write the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in pictures().items():
        (folder / name).write_text(drawn)


if __name__ == "__main__":
    main()
