"""The demo's mount ends with the demo, even one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cache.fakes import wait_until

# What the demo does at its end, stopped in the middle.
_DEMO = """
import sys, time
from pathlib import Path
from rich.console import Console
from dataplane_bench.demo_steps import Demo, _mounted
from dataplane.stores import StoreConfig

demo = Demo(Console(stderr=True), Path(sys.argv[1]), StoreConfig(), "lz4", 1, 0)
with _mounted(demo, sys.argv[2]) as mountpoint:
    print((mountpoint / "a").read_text(), flush=True)
    time.sleep(600)
"""


def is_listed(mountpoint: Path) -> bool:
    return f" {mountpoint} " in Path("/proc/self/mountinfo").read_text()


@pytest.mark.fuse
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="needs /dev/fuse")
def test_a_demo_that_is_killed_leaves_no_mount(tmp_path: Path) -> None:
    folder, source = tmp_path / "demo", tmp_path / "source"
    folder.mkdir()
    source.mkdir()
    (source / "a").write_text("content")
    with subprocess.Popen(
        [sys.executable, "-c", _DEMO, str(folder), str(source)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        try:
            assert demo.stdout is not None
            assert demo.stdout.readline() == "content\n"
            assert is_listed(folder / "mnt")
            demo.kill()
            demo.wait(60)
            wait_until(lambda: not is_listed(folder / "mnt"))
        finally:
            demo.kill()
            if is_listed(folder / "mnt"):
                subprocess.run(["umount", "-l", str(folder / "mnt")], check=False)
    assert os.listdir(folder / "mnt") == []
