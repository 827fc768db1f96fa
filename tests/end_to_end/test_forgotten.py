"""A program that closes nothing ends at once, and its last word is its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.stores import open_store
from dataplane_testing.s3 import Faults, S3Endpoint
from tests.datasets.packed import pack, source_sample

LONG_S = 60.0  # what would be waited for if anything were
AT_ONCE_S = 15.0  # seconds for what is under way, on a busy machine

PROLOGUE = """
import sys, threading, time
from pathlib import Path
import dataplane as dp
from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.stores import open_store

config = CacheConfig(
    dir=Path(sys.argv[1]), block_bytes=1 << 16, request_bytes=1 << 16, fetch_threads=32
)
store = open_store("s3://data")

def opened(key):
    global cache
    cache = Cache(config)
    return cache.open(store, store.head(key))

def in_background(call):
    threading.Thread(target=call, daemon=True).start()
    time.sleep(0.3)  # so that it is in the middle, as a rule

def for_ever(call):
    def run():
        while True:
            call()
    in_background(run)
"""

PROGRAMS = {
    "a_cache": "blob = opened('blob'); blob.read(0, 100_000); hold = cache.lease(blob)",
    "a_plan": """
blob = opened("blob")
plan = cache.plan([PlannedRead(blob, n << 16, (n + 1) << 16, step=n) for n in range(16)])
""",
    "downloads_that_stall": """
blob = opened("stalls")
for n in range(32):
    threading.Thread(target=blob.read, args=[n << 16, (n + 1) << 16], daemon=True).start()
time.sleep(0.5)
""",
    "a_daemon_thread_that_reads": "blob = opened('blob'); for_ever(lambda: blob.read(0, 1 << 20))",
    "a_daemon_thread_that_holds_an_entry": """
blob = opened("blob"); blob.read(0, 100)
blob_entry = [cache.entry(blob.name, blob.spec)]
threading.Thread(target=lambda held: time.sleep(60), args=blob_entry, daemon=True).start()
""",
    "a_stream": "s = store.stream_range('blob', 0, 1 << 20, piece_bytes=1 << 16); next(s)",
    "a_loader": """
dataset = dp.Dataset("s3://data/packed", ["points"], cache=config)
batches = iter(dp.DataLoader(dataset, num_workers=2)); next(batches)
""",
    "a_loader_whose_transform_takes_long": """
slow = lambda sample: time.sleep(60)
dataset = dp.Dataset("s3://data/packed", ["points"], cache=config, transform=slow)
batches = iter(dp.DataLoader(dataset, num_workers=2))
time.sleep(0.3)
""",
    # Each of its calls comes back soon, to an interpreter that has ended.
    "a_loader_whose_transform_is_inside_torch": """
import torch
def busy(sample):
    while True:
        torch.rand(1 << 19).sum()
dataset = dp.Dataset("s3://data/packed", ["points"], cache=config, transform=busy)
batches = iter(dp.DataLoader(dataset, num_workers=4))
time.sleep(0.3)
""",
    "a_daemon_thread_that_trains": """
dataset = dp.Dataset("s3://data/packed", ["points"], cache=config)
for_ever(lambda: list(dp.DataLoader(dataset, num_workers=2)))
""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A server with an object, one that stalls, and a packed dataset."""
    root = tmp_path_factory.mktemp("store")
    pack(root / "packed", (source_sample(number) for number in range(4)))
    faults = Faults(stall_rate=1.0, stall_s=LONG_S, keys="data/stalls")
    with S3Endpoint(buckets=("data",), faults=faults) as endpoint, endpoint.exported():
        store = open_store("s3://data")
        store.put("blob", bytes(1 << 20))
        store.put("stalls", bytes(1 << 21))
        packed = open_store("s3://data/packed")
        for path in sorted((root / "packed").iterdir()):
            packed.put(path.name, path)
        yield endpoint


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_a_program_that_forgets(name: str, place: S3Endpoint, tmp_path: Path) -> None:
    program = PROLOGUE + PROGRAMS[name] + "\nprint(time.time())\nraise SystemExit(3)\n"
    with place.exported():
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "cache")],
            check=False,
            capture_output=True,
            text=True,
            timeout=90,
        )
    ended_s = time.time()
    assert (done.returncode, done.stderr) == (3, "")
    assert ended_s - float(done.stdout) < AT_ONCE_S
