"""Readers of pack on generated files: exact or refused, never anything else.

A sample of what `python -m tests.pack.corpus` runs at length; the seed is fixed. A finding says
what makes it again: `python -m tests.pack.corpus --again FAMILY SEED NUMBER COPY`.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vtkmodules", reason="the vtk extra is not installed")

from tests.pack.corpus.law import Wrong, judge, write
from tests.pack.corpus.model import Sample
from tests.pack.corpus.numpy_files import npz_case
from tests.pack.corpus.runs import FAMILIES, Finding, check_oracle, run_case

SEED = 20
SIZES = {
    **{"xml": (9, 7), "legacy": (9, 7), "parallel": (6, 6), "zip": (6, 6)},
    **{"series": (4, 6), "blocks": (3, 6), "plot3d": (10, 10), "npy": (12, 8), "npz": (10, 8)},
}
"""Cases of each family, and damaged copies of each."""


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_is_exact_and_the_rest_is_refused(tmp_path, family):
    cases, copies = SIZES[family]
    findings, exact, refused = [], 0, 0
    for number in range(cases):
        for outcome in run_case(family, SEED, number, copies, tmp_path / "files"):
            if isinstance(outcome, Finding):
                findings.append(str(outcome))
            else:
                exact += outcome.exact
                refused += not outcome.exact
    assert findings == []
    assert exact > cases // 2
    assert refused > cases


@pytest.mark.parametrize("family", FAMILIES)
def test_the_independent_readers_read_what_the_generators_wrote(tmp_path, family):
    # The two share no code for values, so this is what makes the corpus worth believing.
    for number in range(15):
        case = FAMILIES[family](np.random.default_rng([7, number]))
        folder = tmp_path / str(number)
        write(case.files, folder)
        check_oracle(case, folder)


@pytest.fixture
def sound(tmp_path):
    """A case of several arrays, and the folder that its files are in."""
    case = npz_case(np.random.default_rng(3))
    write(case.files, tmp_path)
    return case, tmp_path


def _changed(case, change):
    sample = Sample(dict(case.expected[0].arrays), dict(case.expected[0].attributes))
    change(sample.arrays)
    return replace(case, expected=[sample])


def _flip_the_last_bit(arrays):
    name = next(name for name, values in arrays.items() if values.size)
    values = np.ascontiguousarray(arrays[name]).copy()
    values.reshape(-1).view(np.uint8)[-1] ^= 1
    arrays[name] = values


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_flip_the_last_bit, "1 of .* differ"),
        (lambda arrays: arrays.popitem(), "more arrays"),
        (lambda arrays: arrays.update(more=np.zeros(2)), "missing: {'more'}"),
    ],
)
def test_the_law_notices_one_bit_and_one_array(sound, change, what):
    case, folder = sound
    assert judge(case, folder, damaged=False).exact
    with pytest.raises(Wrong, match=what):
        judge(_changed(case, change), folder, damaged=False)


def test_the_law_notices_a_refusal_of_a_sound_file_and_a_file_that_should_be_refused(sound):
    case, folder = sound
    with pytest.raises(Wrong, match="must be refused"):
        judge(replace(case, expected=None), folder, damaged=False)
    (folder / case.entry).write_bytes(case.files[case.entry][:-30])
    assert not judge(case, folder, damaged=True).exact
    with pytest.raises(Wrong, match="a sound file is refused"):
        judge(case, folder, damaged=False)


def test_the_law_notices_other_exceptions(sound, monkeypatch):
    case, folder = sound
    monkeypatch.setattr("dataplane.pack.convert.plan_sources", lambda paths: 1 // 0)
    with pytest.raises(Wrong, match="ZeroDivisionError instead of FormatError"):
        judge(case, folder, damaged=False)


def test_the_long_run_keeps_its_files_in_a_folder_that_is_named_from_here(tmp_path):
    asked = ["--minutes", "0.02", "--families", "npy", "--keep", "kept"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.pack.corpus", *asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
