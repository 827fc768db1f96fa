"""Samples as NumPy arrays, also where torch is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dataplane as dp

from .packed import Packed

_BLOCKED = """\
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

sys.meta_path.insert(0, NoTorch())
import dataplane as dp
"""


def without_torch(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that has no torch."""
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED + program],
        capture_output=True, text=True, timeout=60, check=False, cwd=folder,
    )  # fmt: skip


def test_arrays_are_those_of_the_tensors_and_the_transform_is_not_called(packed: Packed) -> None:
    with dp.Dataset(packed.url, cache=False, transform=lambda _: pytest.fail("called")) as dataset:
        sample = dataset.numpy(-1)
    with dp.Dataset(packed.url, cache=False) as dataset:
        tensors = dataset[len(dataset) - 1]
    assert sample.keys() == tensors.keys()
    assert sample["__key__"] == tensors["__key__"] == dataset.keys[-1]
    for name, values in packed.values(dataset.keys[-1]).items():
        array = sample[name]
        assert isinstance(array, np.ndarray)
        assert array.flags.writeable
        np.testing.assert_array_equal(array, values)
        np.testing.assert_array_equal(array, tensors[name].numpy())


def test_an_index_outside_is_an_index_error(packed: Packed) -> None:
    with dp.Dataset(packed.url, cache=False) as dataset, pytest.raises(IndexError):
        dataset.numpy(len(dataset))


def test_a_dataset_is_read_without_torch(packed: Packed, tmp_path: Path) -> None:
    done = without_torch(
        f"ds = dp.Dataset({packed.url!r}, ['points', 'global_data/mach'], cache='cache')\n"
        "sample = ds.numpy(1)\n"
        "print(len(ds), ds.keys[1], sample['__key__'], sample['points'].sum(dtype='f8'))\n"
        "assert 'torch' not in sys.modules\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    count, key, own, total = done.stdout.split()
    values = packed.values(key)
    assert (int(count), own) == (len(dp.Dataset(packed.url, cache=False)), key)
    assert float(total) == values["points"].sum(dtype="f8")


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("dp.Dataset(URL, cache=False)[0]", "or read NumPy arrays with Dataset.numpy(i)"),
        ("dp.Dataset(URL, cache=False).__getitems__([0])", "or read NumPy arrays"),
        ("dp.DataLoader", "dataplane.DataLoader needs the Python package torch"),
        ("dp.collate", "dataplane.collate needs the Python package torch"),
    ],
)
def test_what_needs_torch_says_so_and_how_to_install_it(
    packed: Packed, tmp_path: Path, expression: str, words: str
) -> None:
    done = without_torch(f"URL = {packed.url!r}\n{expression}\n", tmp_path)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("dataplane.errors.MissingPackage: ")
    assert words in lines[-1]
    assert "[torch]'" in lines[-1]
    # One error, and not the story of how an import failed before it.
    assert done.stderr.count("Traceback") == 1
