"""The map in the README.md of each package names every module of it, and none that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_MAPS = sorted((_ROOT / "dataplane").glob("**/README.md"))
_TREE = re.compile(r"^```text\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"( *)([\w/]+)  +\S")


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
    return {path.with_suffix("").as_posix() for path in paths if path.name != "__init__.py"}


@pytest.mark.parametrize("page", _MAPS, ids=lambda page: page.parent.name)
def test_the_map_of_a_package_is_complete(page: Path) -> None:
    found = [*named(page.read_text())]
    assert len(found) == len(set(found))
    assert set(found) == modules(page.parent)


def test_what_is_missing_is_noticed() -> None:
    page = "```text\nopen   opens\nclients/  all\n  local   a folder\nbase   the contract\n```\n"
    assert [*named(page)] == ["open", "clients/local", "base"]
    with pytest.raises(AssertionError, match="not `name"):
        [*named("```text\nopen\n```\n")]
