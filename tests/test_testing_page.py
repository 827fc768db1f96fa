"""The tests that docs/testing.md names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_PAGE = (_ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


def test_the_page_names_tests() -> None:
    assert len(_NAMED.findall(_PAGE)) > 40


@pytest.mark.parametrize(("file", "name"), sorted(set(_NAMED.findall(_PAGE))))
def test_each_named_test_is_there(file: str, name: str) -> None:
    source = (_ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE)
