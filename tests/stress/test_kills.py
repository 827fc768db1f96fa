"""Processes that die at any moment of filling and evicting leave nothing to repair."""

from __future__ import annotations

import os
import random
import signal
import time

from dataplane.cache import Cache, CacheConfig
from tests.cache import children
from tests.cache.fakes import BLOCK, FolderStore, assert_counted, read_all, wait_until

PROCESSES = 4


def test_kill_9_at_random_moments_of_a_cold_fill(
    start_process, tmp_path, store, trials, report
) -> None:
    contents = {key: os.urandom(30 * BLOCK + 11) for key in "abcd"}
    infos = [store.put(key, content) for key, content in contents.items()]
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=40 * BLOCK, fetch_threads=4
    )
    slow = FolderStore(store.folder, delay_s=0.001)
    moments = random.Random(5)
    kills, wanted = 0, trials(200, 12)
    running = [start_process(children.read_forever, config, slow, infos) for _ in range(PROCESSES)]
    while kills < wanted:
        gets = len(store.gets())
        wait_until(lambda: len(store.gets()) > gets + 4)  # noqa: B023 - somebody is at it
        time.sleep(moments.uniform(0, 0.05))
        victim = running.pop(moments.randrange(len(running)))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills += 1
        running.append(start_process(children.read_forever, config, slow, infos))
    for process in running:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with Cache(CacheConfig(dir=config.dir, block_bytes=BLOCK)) as cache:
        assert_counted(config.dir, cache.usage_bytes())
        for info in infos:
            assert read_all(cache.open(store, info)) == contents[info.key]
        assert cache.counters["cache_passthrough_reads"] == 0
        assert_counted(config.dir, cache.usage_bytes())
    count = kills + PROCESSES
    report(f"{count} kills of {PROCESSES} processes: every byte right, accounting consistent")
