"""Take the tests of another module into one of this folder, to be run on a device."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import Any


def take(into: dict[str, Any], module: ModuleType, *, but: Collection[str] = ()) -> None:
    """Put tests and fixtures of a module into the globals of another."""
    missing = set(but) - set(vars(module))
    assert not missing, f"{module.__name__} has no {missing}"
    for name, value in vars(module).items():
        is_test = name.startswith("test_") and callable(value) and name not in but
        if is_test or type(value).__name__ == "FixtureFunctionDefinition":
            into[name] = value
    if "pytestmark" in vars(module):
        into["pytestmark"] = module.pytestmark
