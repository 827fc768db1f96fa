"""Runs of the corpus: cases by number, each with damaged copies, all made from one seed.

Case `number` of seed `seed` is the same in every run, whatever came before it.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.pack.corpus.archive_files import zip_case
from tests.pack.corpus.damage import damage
from tests.pack.corpus.law import Wrong, compare, judge, write
from tests.pack.corpus.legacy_files import legacy_case
from tests.pack.corpus.model import Case, Refused, Sample
from tests.pack.corpus.numpy_files import npy_case, npz_case
from tests.pack.corpus.packed_law import judge_packed
from tests.pack.corpus.parallel_files import parallel_case
from tests.pack.corpus.plot3d_files import plot3d_case
from tests.pack.corpus.series_files import blocks_case, series_case
from tests.pack.corpus.xml_files import xml_case

__all__ = ["FAMILIES", "Finding", "Tally", "run_case"]

FAMILIES: dict[str, Callable[[np.random.Generator], Case]] = {
    "xml": xml_case,
    "legacy": legacy_case,
    "plot3d": plot3d_case,
    "npy": npy_case,
    "npz": npz_case,
    "parallel": parallel_case,
    "zip": zip_case,
    "series": series_case,
    "blocks": blocks_case,
}
SLOW_S = 60.0
_PACKED_EVERY = 25
"""One file in so many goes through the whole command as well."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A file over which the law was broken: what it takes to make it again."""

    family: str
    seed: int
    number: int
    copy: int
    kind: str
    done: str
    what: str

    def __str__(self) -> str:
        done = f", {self.done}" if self.done else ""
        place = f"{self.family} {self.seed} {self.number} {self.copy}"
        return f"[{place}] {self.kind}{done}: {self.what}"


@dataclass(slots=True)
class Tally:
    """Counts of files by what became of them."""

    files: Counter[str] = field(default_factory=Counter)
    exact: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest_s: float = 0.0


def run_case(family: str, seed: int, number: int, copies: int, folder: Path) -> Iterator[object]:
    """Judge one case and its damaged copies; yields an Outcome or a Finding for each.

    The files of a copy stay in `folder` until the next one is asked for.
    """
    key = [seed, number, sorted(FAMILIES).index(family)]
    case = FAMILIES[family](np.random.default_rng(key))
    for copy in range(copies + 1):
        done, current = "", case
        if copy:
            done, current = damage(case, np.random.default_rng([*key, copy]))
        shutil.rmtree(folder, ignore_errors=True)
        write(current.files, folder)
        start = time.monotonic()
        try:
            if not copy:
                check_oracle(case, folder)
            outcome = judge(current, folder, damaged=copy > 0)
            if (number + copy) % _PACKED_EVERY == 0:
                shutil.rmtree(packed := folder.with_name("packed"), ignore_errors=True)
                outcome = judge_packed(current, folder, packed, damaged=copy > 0)
            yield outcome
            if time.monotonic() - start > SLOW_S:
                raise Wrong(f"took {time.monotonic() - start:.0f} s")
        except Wrong as err:
            yield Finding(family, seed, number, copy, case.kind, done, str(err))


def check_oracle(case: Case, folder: Path) -> None:
    """Hold the independent reader to what the generator wrote.

    Raises:
        Wrong: they differ, so one of the two is.
    """
    try:
        read = case.oracle(folder / case.entry)
    except Refused as err:
        if case.expected is not None:
            raise Wrong(f"the independent reader refuses a sound file: {err}") from err
        return
    if case.expected is None:
        raise Wrong("the independent reader reads what must be refused")
    try:
        compare([_as_found(sample) for sample in read], case.expected)
    except Wrong as err:
        raise Wrong(f"the independent reader differs from the generator: {err}") from err


def _as_found(sample: Sample):
    from dataplane.shards import SourceArray, SourceSample

    arrays = {name: SourceArray(values, None) for name, values in sample.arrays.items()}
    return SourceSample("case", arrays, dict(sample.attributes))
