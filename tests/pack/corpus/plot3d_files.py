"""PLOT3D pairs of every byte order, width and layout, made from a seed, and their reader.

The files do not say how they are laid out. The independent reader is told by the generator, so
what it makes of a damaged file is what the writer's own program would read.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
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
    axes: int

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

    def shapes(self) -> list[tuple[int, ...]]:
        blocks = 1
        if self.layout.multi:
            blocks = int(np.frombuffer(self.record(4), self.layout.integers())[0])
        if not 0 < blocks <= len(self.content):
            raise Refused("blocks")
        axes = self.layout.axes
        sizes = np.frombuffer(self.record(4 * axes * blocks), self.layout.integers())
        sizes = sizes.reshape(-1, axes)
        if sizes.min() < 1 or sizes.max() > len(self.content):
            raise Refused("size")
        return [tuple(int(n) for n in size[::-1]) for size in sizes]

    def end(self) -> None:
        if self.at != len(self.content):
            raise Refused("too long")


def _read(path: Path, layout: _Layout, *, with_solution: bool) -> list[Sample]:
    grid = _Reader(path.read_bytes(), layout)
    shapes = grid.shapes()
    samples = []
    for shape in shapes:
        count = int(np.prod(shape, dtype=object))
        width = layout.numbers().itemsize
        size = layout.axes * count * width
        content = grid.record(size + 4 * count * layout.blanking)
        points = np.frombuffer(content[:size], layout.numbers()).reshape(layout.axes, *shape)
        arrays = {"points": np.moveaxis(points, 0, -1).astype(layout.floats)}
        if layout.blanking:
            blank = np.frombuffer(content[size:], layout.integers())
            arrays["fields/IBlank"] = blank.reshape(shape).astype("i4")
        samples.append(Sample(arrays, {"dataset": "StructuredGrid"}))
    grid.end()
    if with_solution:
        solution = _Reader(path.with_suffix(".q").read_bytes(), layout)
        if solution.shapes() != shapes:
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
    variables = solution.layout.axes + 2
    values = np.frombuffer(solution.record(variables * count * numbers.itemsize), numbers)
    values = values.reshape(variables, *shape).astype(solution.layout.floats)
    sample.arrays["fields/Density"] = values[0]
    sample.arrays["fields/Momentum"] = np.moveaxis(values[1:-1], 0, -1)
    sample.arrays["fields/StagnationEnergy"] = values[-1]


def plot3d_case(rng: np.random.Generator) -> Case:
    """A grid, with or without its solution; rarely a 2D one, which cannot always be proven."""
    multi = bool(rng.random() < 0.5)
    axes = 2 if rng.random() < 0.1 else 3
    layout = _Layout(str(rng.choice(["<", ">"])), str(rng.choice(["f4", "f8"])), multi,
                     bool(rng.random() < 0.6), bool(rng.random() < 0.4), axes)  # fmt: skip
    blocks = int(rng.integers(1, 4)) if multi else 1
    shapes = [tuple(int(n) for n in rng.integers(2, 6, axes)) for _ in range(blocks)]
    grid, solution = layout.header(shapes), layout.header(shapes)
    for shape in shapes:
        count = int(np.prod(shape))
        content = _draw(rng, axes * count, layout)
        if layout.blanking:
            content += rng.integers(-1, 3, count).astype(layout.integers()).tobytes()
        grid += layout.record(content)
        solution += layout.record(_draw(rng, 4, layout))
        solution += layout.record(_draw(rng, (axes + 2) * count, layout))
    with_solution = bool(rng.random() < 0.6)
    files = {"case.xyz": grid}
    if with_solution:
        files["case.q"] = solution

    def oracle(path: Path) -> list[Sample]:
        try:
            return _read(path, layout, with_solution=with_solution)
        except Refused:
            # Without its number of blocks, a file of one block is a file of the other layout; and
            # the number 1 before two sizes is the first size of a 3D grid.
            other = replace(layout, multi=not layout.multi, axes=3)
            return _read(path, other, with_solution=with_solution)

    expected = _expected(grid, solution, layout, with_solution=with_solution)
    described = f"plot3d {layout}{' q' if with_solution else ''}"
    headers = (("case.xyz", 0, 48),)
    return Case(described, "case.xyz", files, expected, oracle, headers=headers)


def _draw(rng, count: int, layout: _Layout) -> bytes:
    values = rng.standard_normal(count)
    values[rng.random(count) < 0.05] = 0.0
    return values.astype(layout.numbers()).tobytes()


def _expected(grid, solution, layout: _Layout, *, with_solution: bool) -> list[Sample]:
    """Read what was written back, value by value with the standard library."""

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
    axes = layout.axes
    sizes, at = numbers(grid, at, axes * blocks, "i")
    grid_at = solution_at = at + around
    for block in range(blocks):
        shape = sizes[axes * block : axes * (block + 1)][::-1]
        count = math.prod(shape)
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
            values, solution_at = numbers(
                solution, solution_at + 2 * around, (axes + 2) * count, code
            )
            solution_at += around
            fields = np.array(values, layout.floats).reshape(axes + 2, *shape)
            sample.arrays["fields/Density"] = fields[0]
            sample.arrays["fields/Momentum"] = np.stack([*fields[1:-1]], axis=-1)
            sample.arrays["fields/StagnationEnergy"] = fields[-1]
        samples.append(sample)
    return samples
