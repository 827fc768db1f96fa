"""Tests that the documentation names are there; pages name all of a file, and every argument."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import dataplane as dp

_ROOT = Path(__file__).parent.parent
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_PAGES = {
    name: _NAMED.findall((_ROOT / "docs" / name).read_text(encoding="utf-8"))
    for name in ("testing.md", "loader.md")
}
_LISTED = [
    *(f"tests/loader/torch_parity/test_{name}.py"
      for name in ("arguments", "batches", "iterators", "order", "workers")),
    "tests/loader/test_stateful_parity.py",
]  # fmt: skip
"""Files whose tests docs/loader.md lists, each once."""


@pytest.mark.parametrize("page", _PAGES)
def test_the_page_names_tests(page: str) -> None:
    assert len(_PAGES[page]) > 40


@pytest.mark.parametrize(
    ("file", "name"), sorted({one for named in _PAGES.values() for one in named})
)
def test_each_named_test_is_there(file: str, name: str) -> None:
    source = (_ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE)


@pytest.mark.parametrize("file", _LISTED)
def test_the_loader_s_page_lists_each_behaviour_once(file: str) -> None:
    source = (_ROOT / file).read_text(encoding="utf-8")
    behaviours = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    assert sorted(name for of, name in _PAGES["loader.md"] if of == file) == sorted(behaviours)


def test_every_argument_of_the_loader_has_a_row_that_says_it_and_one_that_names_its_tests() -> None:
    rows = [
        line.rpartition(" | ")[::2]
        for line in (_ROOT / "docs" / "loader.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `") or "`tests/" in line
    ]
    said = {name for first, _ in rows for name in re.findall(r"`(\w+)", first)}
    tested = {
        name for first, rest in rows if "`tests/" in rest for name in re.findall(r"`(\w+)", first)
    }
    arguments = set(inspect.signature(dp.DataLoader).parameters)
    assert "ragged_as" in arguments
    assert arguments - said == set()
    assert arguments - tested == set()
