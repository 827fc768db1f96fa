"""The map of each package names every module of it, in an order in which imports go downward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.imports import imported_modules

_ROOT = Path(__file__).resolve().parents[1]
_MAPS = {
    **{page: page.parent for page in (_ROOT / "dataplane").rglob("README.md")},
    **{page: page.parent for page in (_ROOT / "benchmarks").glob("*/README.md")},
    _ROOT / "mounts" / "README.md": _ROOT / "mounts" / "dataplane_fuse",
    _ROOT / "examples" / "README.md": _ROOT / "examples",
}
_TREE = re.compile(r"^```text\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"( *)([\w/]+)  +\S")
_NOT_NAMED = {"__init__.py", "__main__.py"}


def named(page: str) -> Iterator[str]:
    """Yield the modules of a map, `folder/module`; a line that is no part of a map is an error."""
    match = _TREE.search(page)
    assert match, "there is no map"
    folder = ""
    for line in match[1].splitlines():
        entry = _LINE.match(line)
        assert entry, f"not `name  what it is`: {line!r}"
        indent, name = entry.groups()
        if not indent:
            folder = ""
        if name.endswith("/"):
            folder = name
        else:
            yield f"{folder}{name}"


def modules(package: Path) -> set[str]:
    paths = (path.relative_to(package) for path in package.rglob("*.py"))
    return {path.with_suffix("").as_posix() for path in paths if path.name not in _NOT_NAMED}


def climbing(package: Path, order: list[str]) -> list[str]:
    """List the imports of modules that stand above the one that imports them."""
    place = {f"{package.name}.{name.replace('/', '.')}": at for at, name in enumerate(order)}
    found = []
    for name, at in zip(place, range(len(order)), strict=True):
        for other in imported_modules(package / f"{order[at]}.py"):
            above = place.get(other.removeprefix("dataplane."), at + 1)
            if above < at:
                found.append(f"{name} imports {other}")
    return found


@pytest.mark.parametrize("page", _MAPS, ids=lambda page: page.parent.name)
def test_the_map_of_a_package_is_complete_and_imports_go_down_it(page: Path) -> None:
    package = _MAPS[page]
    found = [*named(page.read_text())]
    assert len(found) == len(set(found))
    assert set(found) == modules(package)
    assert climbing(package, found) == []


def test_what_is_wrong_is_noticed(tmp_path: Path) -> None:
    page = "```text\nopen   opens\nclients/  all\n  local   a folder\nbase   the contract\n```\n"
    assert [*named(page)] == ["open", "clients/local", "base"]
    with pytest.raises(AssertionError, match="not `name"):
        [*named("```text\nopen\n```\n")]
    package = tmp_path / "stores"
    package.mkdir()
    (package / "base.py").write_text("from dataplane.stores.open import open_store\n")
    (package / "open.py").write_text("")
    assert climbing(package, ["open", "base"]) == ["stores.base imports dataplane.stores.open"]
