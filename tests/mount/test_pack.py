"""Raw files in a bucket are packed through a mount."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMount

pytestmark = pytest.mark.fuse


def test_files_of_every_format_are_packed_from_a_mount(
    simulation_files: Path, make_mount: MakeMount, tmp_path: Path
) -> None:
    mount = make_mount(simulation_files)
    done = mount.mount()
    assert done.status == 0, done.errors
    summaries = []
    for number, source in enumerate((simulation_files, mount.point)):
        done = mount.command("pack", str(source), f"file://{tmp_path}/ds{number}", "--json")
        assert done.status == 0, done.errors
        summaries.append(json.loads(done.output))
    direct, mounted = summaries
    assert direct["samples"] > 10
    for name in ("samples", "arrays", "source_bytes"):
        assert mounted[name] == direct[name]
    assert [item["reason"] for item in mounted["skipped"]] == [
        item["reason"] for item in direct["skipped"]
    ]
