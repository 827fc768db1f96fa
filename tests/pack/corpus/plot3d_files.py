"""PLOT3D pairs of every byte order, width and layout, made from a seed, and their reader.

The files do not say how they are laid out. The independent reader is told by the generator, so
what it makes of a damaged file is what the writer's own program would read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.pack.corpus.model import Case, Refused, Sample

__all__ = ["plot3d_case"]

_CONDITIONS = ("mach", "alpha", "reynolds", "time")


@dataclass(frozen=True, slots=True)
class _Layout:
    order: str
    floats: str
    multi: bool
    records: bool
    blanking: bool

    def integers(self) -> np.dtype:
        return np.dtype(f"{self.order}i4")

    def numbers(self) -> np.dtype:
        return np.dtype(self.order + self.floats)

    def record(self, content: bytes) -> bytes:
        if not self.records:
            return content
        length = np.array([len(content)], self.integers()).tobytes()
        return length + content + length

    def header(self, shapes) -> bytes:
        sizes = np.array([n for shape in shapes for n in shape[::-1]], self.integers()).tobytes()
        if not self.multi:
            return self.record(sizes)
        count = np.array([len(shapes)], self.integers()).tobytes()
        return self.record(count) + self.record(sizes)


class _Reader:
    """A position in a file of a known layout."""

    def __init__(self, content: bytes, layout: _Layout) -> None:
        self.content, self.layout, self.at = content, layout, 0

    def take(self, size: int) -> bytes:
        if size > len(self.content) - self.at:
            raise Refused("cut")
        self.at += size
        return self.content[self.at - size : self.at]

    def record(self, size: int) -> bytes:
        around = [0, 0]
        if self.layout.records:
            around[0] = int(np.frombuffer(self.take(4), self.layout.integers())[0])
        content = self.take(size)
        if self.layout.records:
            around[1] = int(np.frombuffer(self.take(4), self.layout.integers())[0])
            if around != [size, size]:
                raise Refused("record length")
        return content

    def shapes(self, dimensions: int) -> list[tuple[int, ...]]:
        blocks = 1
        if self.layout.multi:
            blocks = int(np.frombuffer(self.record(4), self.layout.integers())[0])
        if not 0 < blocks <= len(self.content):
            raise Refused("blocks")
        numbers = np.frombuffer(self.record(4 * dimensions * blocks), self.layout.integers())
        sizes = numbers.reshape(-1, dimensions)
        if sizes.min() < 1 or sizes.max() > len(self.content):
            raise Refused("size")
        return [tuple(int(n) for n in size[::-1]) for size in sizes]

    def end(self) -> None:
        if self.at != len(self.content):
            raise Refused("too long")


def _read(path: Path, layout: _Layout, axes: int, *, with_solution: bool) -> list[Sample]:
    grid = _Reader(path.read_bytes(), layout)
    shapes = grid.shapes(axes)
    samples = []
    for shape in shapes:
        count = int(np.prod(shape, dtype=object))
        width = layout.numbers().itemsize
        content = grid.record(count * (axes * width + 4 * layout.blanking))
        points = np.frombuffer(content[: axes * count * width], layout.numbers())
        points = points.reshape(axes, *shape)
        arrays = {"points": np.moveaxis(points, 0, -1).astype(layout.floats)}
        if layout.blanking:
            blank = np.frombuffer(content[axes * count * width :], layout.integers())
            arrays["fields/IBlank"] = blank.reshape(shape).astype("i4")
        samples.append(Sample(arrays, {"dataset": "StructuredGrid"}))
    grid.end()
    if with_solution:
        solution = _Reader(path.with_suffix(".q").read_bytes(), layout)
        if solution.shapes(axes) != shapes:
            raise Refused("sizes differ")
        for shape, sample in zip(shapes, samples, strict=True):
            _read_solution(solution, shape, sample)
        solution.end()
    return samples


def _read_solution(solution: _Reader, shape, sample: Sample) -> None:
    numbers = solution.layout.numbers()
    conditions = np.frombuffer(solution.record(4 * numbers.itemsize), numbers)
    sample.attributes["plot3d"] = dict(zip(_CONDITIONS, map(float, conditions), strict=True))
    count = int(np.prod(shape, dtype=object))
    variables = len(shape) + 2
    values = np.frombuffer(solution.record(variables * count * numbers.itemsize), numbers)
    values = values.reshape(variables, *shape).astype(solution.layout.floats)
    sample.arrays["fields/Density"] = values[0]
    sample.arrays["fields/Momentum"] = np.moveaxis(values[1:-1], 0, -1)
    sample.arrays["fields/StagnationEnergy"] = values[-1]


def plot3d_case(rng: np.random.Generator) -> Case:
    """A grid, with or without its solution; rarely a 2D one."""
    multi = bool(rng.random() < 0.5)
    layout = _Layout(str(rng.choice(["<", ">"])), str(rng.choice(["f4", "f8"])), multi,
                     bool(rng.random() < 0.6), bool(rng.random() < 0.4))  # fmt: skip
    blocks = int(rng.integers(1, 4)) if multi else 1
    shapes = [tuple(int(n) for n in rng.integers(2, 6, 3)) for _ in range(blocks)]
    planes = rng.random() < 0.1
    grid, solution = (_planes if planes else _volumes)(rng, layout, shapes)
    with_solution = bool(rng.random() < 0.6)
    files = {"case.xyz": grid}
    if with_solution:
        files["case.q"] = solution

    axes = 2 if planes else 3

    def oracle(path: Path) -> list[Sample]:
        return _read(path, layout, axes, with_solution=with_solution)

    expected = _expected(grid, solution, layout, axes, with_solution=with_solution)
    described = f"plot3d {layout}{' 2D' if planes else ''}{' q' if with_solution else ''}"
    return Case(described, "case.xyz", files, expected, oracle, headers=(("case.xyz", 0, 48),))


def _volumes(rng, layout: _Layout, shapes) -> tuple[bytes, bytes]:
    grid, solution = layout.header(shapes), layout.header(shapes)
    for shape in shapes:
        count = int(np.prod(shape))
        content = _draw(rng, 3 * count, layout)
        if layout.blanking:
            content += rng.integers(-1, 3, count).astype(layout.integers()).tobytes()
        grid += layout.record(content)
        solution += layout.record(_draw(rng, 4, layout)) + layout.record(
            _draw(rng, 5 * count, layout)
        )
    return grid, solution


def _planes(rng, layout: _Layout, shapes) -> tuple[bytes, bytes]:
    """The same in two dimensions: two sizes, x and y, and four variables."""
    sizes = np.array([n for shape in shapes for n in shape[:2]], layout.integers()).tobytes()
    header = layout.record(sizes)
    if layout.multi:
        header = layout.record(np.array([len(shapes)], layout.integers()).tobytes()) + header
    grid, solution = header, header
    for shape in shapes:
        count = shape[0] * shape[1]
        content = _draw(rng, 2 * count, layout)
        if layout.blanking:
            content += rng.integers(0, 2, count).astype(layout.integers()).tobytes()
        grid += layout.record(content)
        solution += layout.record(_draw(rng, 4, layout)) + layout.record(
            _draw(rng, 4 * count, layout)
        )
    return grid, solution


def _draw(rng, count: int, layout: _Layout) -> bytes:
    values = rng.standard_normal(count)
    values[rng.random(count) < 0.05] = 0.0
    return values.astype(layout.numbers()).tobytes()


def _expected(grid, solution, layout: _Layout, axes: int, *, with_solution: bool) -> list[Sample]:
    """Read what was written back, value by value with the standard library."""
    import struct

    def numbers(content: bytes, at: int, count: int, code: str) -> tuple[list, int]:
        form = f"{layout.order}{count}{code}"
        return list(struct.unpack_from(form, content, at)), at + struct.calcsize(form)

    code = "f" if layout.floats == "f4" else "d"
    around = 4 * layout.records
    samples = []
    at = around
    blocks = 1
    if layout.multi:
        (blocks,), at = numbers(grid, at, 1, "i")
        at += 2 * around
    sizes, at = numbers(grid, at, axes * blocks, "i")
    grid_at = solution_at = at + around
    for block in range(blocks):
        shape = sizes[axes * block : axes * (block + 1)][::-1]
        count = int(np.prod(shape))
        points, grid_at = numbers(grid, grid_at + around, axes * count, code)
        arrays = {"points": np.array(points, layout.floats).reshape(axes, *shape)}
        arrays["points"] = np.stack([*arrays["points"]], axis=-1)
        if layout.blanking:
            blank, grid_at = numbers(grid, grid_at, count, "i")
            arrays["fields/IBlank"] = np.array(blank, "i4").reshape(shape)
        grid_at += around
        sample = Sample(arrays, {"dataset": "StructuredGrid"})
        if with_solution:
            conditions, solution_at = numbers(solution, solution_at + around, 4, code)
            sample.attributes["plot3d"] = dict(zip(_CONDITIONS, conditions, strict=True))
            variables = axes + 2
            at = solution_at + 2 * around
            values, solution_at = numbers(solution, at, variables * count, code)
            solution_at += around
            found = np.array(values, layout.floats).reshape(variables, *shape)
            sample.arrays["fields/Density"] = found[0]
            sample.arrays["fields/Momentum"] = np.stack([*found[1:-1]], axis=-1)
            sample.arrays["fields/StagnationEnergy"] = found[-1]
        samples.append(sample)
    return samples
