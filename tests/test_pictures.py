"""Pictures of the documentation are what their scripts draw, and those that pages show exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_IMAGES = _ROOT / "docs" / "images"
_SHOWN = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")


def test_the_pictures_of_partial_reads_are_those_of_the_planner(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, _ROOT / "tools" / "draw_partial_reads.py", tmp_path],
        cwd=_ROOT, check=True, timeout=100,
    )  # fmt: skip
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert len(drawn) == 3
    kept = {path.name: path.read_text() for path in _IMAGES.glob("partial-*.svg")}
    assert drawn == kept, "run tools/draw_partial_reads.py and look at what has changed"


@pytest.mark.parametrize("page", sorted((_ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_pictures_that_it_shows_are_there(page: Path) -> None:
    for name in _SHOWN.findall(page.read_text()):
        assert ElementTree.parse(page.parent / name).getroot().tag.endswith("svg")


def test_each_picture_is_shown() -> None:
    shown = {
        name for page in (_ROOT / "docs").glob("*.md") for name in _SHOWN.findall(page.read_text())
    }
    assert {f"images/{path.name}" for path in _IMAGES.iterdir()} <= shown
