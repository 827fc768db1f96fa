"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["keys", "open", "urls"])
def test_the_examples_run(name: str) -> None:
    # Through importlib: the package's attribute `open` may one day be something else.
    result = doctest.testmod(importlib.import_module(f"dataplane.stores.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
