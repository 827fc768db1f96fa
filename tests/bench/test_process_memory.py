"""Memory of a process and its descendants."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from types import SimpleNamespace

from dataplane_bench.isolated import Isolated
from dataplane_bench.model import Cost
from dataplane_bench.process_memory import children_of, tree_rss_bytes

_PROGRAM = "import sys; held = b'x' * (96 << 20); print('held', flush=True); sys.stdin.read()"


def test_a_child_s_memory_counts_while_it_lives() -> None:
    before = tree_rss_bytes(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        assert child.pid in children_of(os.getpid())
        assert tree_rss_bytes(child.pid) > 96 << 20
        assert tree_rss_bytes(os.getpid()) > before + (64 << 20)
        child.stdin.close()
    assert tree_rss_bytes(child.pid) == 0
    assert children_of(child.pid) == []


def test_a_watched_run_tells_its_peak_and_another_does_not() -> None:
    build = functools.partial(
        SimpleNamespace, run=functools.partial(Cost, 1.0, 0.5, 1, 1), close=functools.partial(int)
    )
    for watch in (True, False):
        system = Isolated("quick", 1, build, watch_memory=watch)
        try:
            peak = system.run().peak_rss_bytes
        finally:
            system.close()
        assert (peak is not None and peak > 1 << 20) == watch
