"""Epochs, loaders that are dropped and children that are forked leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cache.fakes import wait_until
from tests.datasets.packed import pack, source_sample

# In a process of its own: what other tests have left open does not count.
PROGRAM = """
import gc, json, os, sys, threading, time
import torch
import dataplane as dp

url, cache, epochs, dropped, mode = sys.argv[1:]
transforms, mode = mode != "none", "thread" if mode == "none" else mode

def transform(sample):
    return {"v": sample["fields/velocity"] + torch.rand(1), "k": sample["__key__"]}

dataset = dp.Dataset(url, ["fields/velocity"], cache=cache)
dataset.transform = transform if transforms else None

def make():
    return dp.DataLoader(dataset, 2, shuffle=True, seed=1, num_workers=2, transform_mode=mode)

def figures():
    gc.collect()
    pages = int(open("/proc/self/statm").read().split()[1])
    return {
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": len(open(f"/proc/self/task/{os.getpid()}/children").read().split()),
    }

def settle(until):
    deadline = time.monotonic() + 30
    while (found := figures()) and time.monotonic() < deadline:
        if all(found[name] <= until[name] for name in ("threads", "descriptors", "children")):
            break
        time.sleep(0.05)
    return found

def work(epochs, dropped, forks):
    loader = make()
    for _ in range(epochs):
        assert sum(1 for _ in loader) == 6
    for _ in range(dropped):
        batches = iter(make())
        next(batches)
    del batches
    batches = iter(loader)
    for _ in range(forks):
        next(batches)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if sum(1 for _ in dp.DataLoader(dataset, 2, num_workers=0)) == 6 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

work(2, 3, 2)
time.sleep(0.5)
before, shared = figures(), set(os.listdir("/dev/shm"))
work(int(epochs), int(dropped), 4)
after, deadline = settle(before), time.monotonic() + 30
# Other programs come and go there meanwhile; what was left stays.
new = set(os.listdir("/dev/shm")) - shared
while new and time.monotonic() < deadline:
    time.sleep(0.05)
    new &= set(os.listdir("/dev/shm"))
print(json.dumps([before, after, sorted(new)]))
"""


@pytest.mark.parametrize("mode", ["none", "thread", "process"])
def test_a_long_run_of_loaders_stays_flat(
    tmp_path: Path, trials: Callable[[int, int], int], report: Callable[[str], None], mode: str
) -> None:
    url = pack(tmp_path / "ds", map(source_sample, range(11))).url
    # A process takes seconds to start, and each dropped loader had two.
    dropped = trials(200, 12) if mode != "process" else trials(30, 2)
    epochs = trials(30, 6) if mode != "process" else trials(30, 3)
    shared = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, tmp_path / "cache", str(epochs), str(dropped), mode],
        check=False, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, after, left_by_pass = json.loads(done.stdout)
    assert_flat(before, after)
    assert left_by_pass == []
    left = set(os.listdir("/dev/shm")) - shared
    wait_until(lambda: not left & set(os.listdir("/dev/shm")))
    report(f"{mode}: {epochs} epochs, {dropped} loaders dropped: {before} -> {after}")


def assert_flat(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in ("threads", "descriptors", "children"):
        assert after[name] <= before[name], (name, before, after)
    assert after["rss_mib"] < before["rss_mib"] + 40, (before, after)
