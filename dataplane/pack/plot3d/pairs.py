"""Pairs of PLOT3D grids and solutions in one folder. Converts nothing.

1. The grid of the same name: `case.xyz` and `case.q`, `finxyz.bin` and `finq.bin`.
2. The grid whose name is the solution's without its number: `case.xyz` with `case.0001.q`,
   `case.0002.q`, … They are the steps of a series, in the order of their numbers.
3. Where no name fits, the only grid of the folder whose block sizes are those of the solution.
   More than one is a doubt, and the solution is refused.

A folder is listed once; files are opened for the third case alone, and only their sizes are read.
Thread-safe: no state.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import FormatError
from dataplane.pack.plot3d.layout import FileBytes, Shape, fitting_grids, fitting_solutions

__all__ = ["Pair", "pair_folder", "pair_name"]

_GRID_ENDINGS = ("xyz", "grid")
_SOLUTION_ENDINGS = ("q",)
_SUFFIXES = (".bin", ".xyz", ".q", ".p3d", ".g", ".x")
_NUMBERED = re.compile(r"(.*?)[-_. ]*(\d+)", re.DOTALL)
_MOST_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """A grid and one of its solutions.

    Attributes:
        grid: file of the grid.
        solution: file of the solution.
        stem: name of the sample, or of the series.
        step: place in a series, from 0; None when it is in none.
    """

    grid: Path
    solution: Path
    stem: str
    step: int | None = None


def pair_name(path: Path) -> tuple[str, str] | None:
    """Return the pair that a file belongs to by its name, and its part: `grid` or `solution`.

    Example:
        >>> pair_name(Path("bluntfinxyz.bin")), pair_name(Path("case1.q"))
        (('bluntfin', 'grid'), ('case1', 'solution'))
        >>> pair_name(Path("weights.bin"))
    """
    if path.suffix.lower() not in _SUFFIXES:
        return None
    whole = path.name[: -len(path.suffix)]
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in {"xyz", "g", "x", "p3d"}:
        return whole, "grid"
    if suffix == "q":
        return whole, "solution"
    for endings, role in ((_GRID_ENDINGS, "grid"), (_SOLUTION_ENDINGS, "solution")):
        for ending in endings:
            if whole.lower().endswith(ending) and len(whole) > len(ending):
                return whole[: -len(ending)].rstrip("-_. "), role
    return None


def pair_folder(folder: Path) -> tuple[list[Pair], dict[Path, str]]:
    """Find the grid of each solution in a folder.

    Returns:
        The pairs in the order of their samples, and the reasons of solutions without a grid.
    """
    stems: dict[str, dict[Path, str]] = {"grid": {}, "solution": {}}
    for path in sorted(folder.iterdir()):
        named = pair_name(path)
        if named is not None and path.is_file():
            stems[named[1]][path] = named[0]
    grids = stems["grid"]
    pairs: list[Pair] = []
    alone: list[tuple[Path, str]] = []
    numbered: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    for solution, stem in stems["solution"].items():
        grid = _named(grids, stem, solution.suffix)
        base, number = _without_number(stem)
        if grid is not None:
            pairs.append(Pair(grid, solution, stem))
        elif number is not None and _named(grids, base, solution.suffix) is not None:
            numbered[base].append((number, solution))
        else:
            alone.append((solution, stem))
    for base, steps in numbered.items():
        grid = _named(grids, base, steps[0][1].suffix)
        assert grid is not None, "looked up above"
        pairs += _series(grid, base, steps)
    by_size, refused = _pair_by_size(grids, alone)
    return [*pairs, *by_size], refused


def _named(grids: Mapping[Path, str], stem: str, suffix: str) -> Path | None:
    """The grid of this name; one with the solution's suffix first."""
    return min(
        (grid for grid, of in grids.items() if of == stem),
        key=lambda grid: (grid.suffix != suffix, grid.name),
        default=None,
    )


def _without_number(stem: str) -> tuple[str, int | None]:
    found = _NUMBERED.fullmatch(stem)
    return (found.group(1), int(found.group(2))) if found and found.group(1) else (stem, None)


def _series(grid: Path, base: str, steps: Iterable[tuple[int, Path]]) -> list[Pair]:
    return [Pair(grid, path, base, step) for step, (_, path) in enumerate(sorted(steps))]


def _pair_by_size(
    grids: Iterable[Path], solutions: Sequence[tuple[Path, str]]
) -> tuple[list[Pair], dict[Path, str]]:
    if not solutions:
        return [], {}
    sizes = {grid: _grid_sizes(grid) for grid in grids}
    refused: dict[Path, str] = {}
    groups: dict[tuple[Path, str], list[tuple[int, Path, str]]] = defaultdict(list)
    for solution, stem in solutions:
        fitting = [grid for grid, shapes in sizes.items() if _fits(solution, shapes)]
        if len(fitting) == 1:
            base, number = _without_number(stem)
            groups[fitting[0], base].append((number or 0, solution, stem))
        elif fitting:
            names = ", ".join(grid.name for grid in fitting[:_MOST_SHOWN])
            refused[solution] = (
                f"a PLOT3D solution whose size fits {len(fitting)} grids of its folder ({names}); "
                "name it after its grid"
            )
        else:
            others = "; its size fits no other grid of its folder" if sizes else ""
            refused[solution] = (
                f"a PLOT3D solution without its grid (such as {stem}xyz.bin){others}"
            )
    pairs: list[Pair] = []
    for (grid, base), group in groups.items():
        if len(group) > 1:
            pairs += _series(grid, base, [(number, path) for number, path, _ in group])
        else:
            pairs += [Pair(grid, path, stem) for _, path, stem in group]
    return pairs, refused


def _grid_sizes(path: Path) -> set[tuple[Shape, ...]]:
    try:
        with path.open("rb", buffering=0) as file:
            return {shapes for _, shapes in fitting_grids(FileBytes(file, path.name))}
    except (FormatError, OSError):
        return set()  # packing it says why


def _fits(path: Path, sizes: Iterable[tuple[Shape, ...]]) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            content = FileBytes(file, path.name)
            return any(fitting_solutions(content, shapes) for shapes in sizes)
    except (FormatError, OSError):
        return False
