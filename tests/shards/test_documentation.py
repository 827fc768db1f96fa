"""The format's page tells the truth: its Python runs against a dataset that was just packed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataplane.shards.archive import ALIGN_FROM_BYTES, PAGE_BYTES
from dataplane.shards.index_schema import FORMAT_NAME, FORMAT_VERSION, SCHEMA
from dataplane.shards.permutation import permutation_order
from dataplane.stores import Store

from .conftest import make_sample

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dataset-format.md"


@pytest.fixture
def page() -> str:
    return PAGE.read_text()


# webdataset leaves its shards to the garbage collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_its_programs_run_without_this_project(
    page: str, pack: Callable[..., Store], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("zarr", "tensorstore", "webdataset"):
        pytest.importorskip(module)
    pack(make_sample("run 1/case"), make_sample("b"), permute_seed=5)
    monkeypatch.chdir(folder.parent)
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(programs) == 5
    assert not any("dataplane" in program for program in programs)
    names: dict[str, Any] = {}
    for program in programs:
        exec(compile(program, str(PAGE), "exec"), names)
    for number, dimension in ((1, "point"), (2, "cell")):
        expected = permutation_order(5, "run 1/case", dimension, 500)  # type: ignore[arg-type]
        np.testing.assert_array_equal(names["order"](5, "run 1/case", number, 500), expected)
    assert names["values"].shape == (500, 3)


def test_it_lists_every_column(page: str) -> None:
    section = page[page.index("## The index: `index.parquet`") :]
    for name in SCHEMA.names:
        assert f"`{name}`" in section


def test_it_states_the_constants_of_the_code(page: str) -> None:
    page = " ".join(page.split())  # lines may be broken anywhere
    assert f"Format `{FORMAT_NAME}`, version {FORMAT_VERSION}." in page
    assert f"multiple of {PAGE_BYTES} bytes" in page
    assert f"{ALIGN_FROM_BYTES >> 10} KiB or more starts" in page
