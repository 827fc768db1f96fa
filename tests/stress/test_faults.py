"""How long blocks take from a store while faults are injected, with hedging and without."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dataplane.stores import open_store
from dataplane.stores.base import StoreConfig
from dataplane_testing.s3 import Faults, S3Endpoint

BLOCK = 64 << 10
FAULTS = {
    "slow_down_rate": 0.10,
    "reset_body_rate": 0.05,
    "truncate_rate": 0.05,
    "stall_rate": 0.02,
    "retry_after_s": 0,
}


def test_hedging_cuts_the_tail(tmp_path, monkeypatch, trials, report) -> None:
    blocks = trials(1000, 250)
    stall_s = float(trials(30, 2))
    content = os.urandom(blocks * BLOCK)
    with S3Endpoint(root=tmp_path / "s3", buckets=("data",)) as endpoint:
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        info = open_store("s3://data").put("object", content)
        slowest = {}
        for hedge in (False, True):
            config = StoreConfig(
                hedge=hedge, hedge_floor_s=0.1, max_attempts=20, timeout_s=2 * stall_s
            )
            store = open_store("s3://data", config)
            for number in range(100):  # no faults yet: latencies are learned
                store.get_range("object", number * BLOCK, (number + 1) * BLOCK)
            endpoint.set_faults(Faults(seed=4, stall_s=stall_s, **FAULTS))

            def read(number: int) -> float:
                begun_s = time.perf_counter()
                start, stop = number * BLOCK, (number + 1) * BLOCK
                got = store.get_range("object", start, stop, if_match=info.etag)  # noqa: B023
                assert bytes(got) == content[start:stop]
                return time.perf_counter() - begun_s

            with ThreadPoolExecutor(8) as pool:
                taken = np.array(list(pool.map(read, range(blocks))))
            endpoint.set_faults(None)
            slowest[hedge] = np.quantile(taken, 0.99)
            name = "with hedging" if hedge else "without hedging"
            report(
                f"{name}: median {np.median(taken) * 1e3:.1f} ms, p99 {slowest[hedge]:.2f} s, "
                f"longest {taken.max():.2f} s, {store.counters['store_hedges']:.0f} hedges, "
                f"{store.counters['store_retries']:.0f} retries"
            )
            store.close()
    assert slowest[False] >= stall_s
    assert slowest[True] < stall_s
