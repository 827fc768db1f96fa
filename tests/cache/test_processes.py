"""Several processes on one cache directory, some of which are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead
from tests.cache import children
from tests.cache.fakes import BLOCK, FolderStore, assert_counted, disk_usage, read_all, wait_until

_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def start_process():
    """Start `function(*arguments)` in a fresh process; none outlives the test."""
    processes = []

    def start(function, *arguments):
        process = _SPAWN.Process(target=function, args=arguments)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()
        process.close()


def join_all(processes, timeout_s=60):
    for process in processes:
        process.join(timeout_s)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_four_processes_download_each_block_once(start_process, config, store, tmp_path):
    content = os.urandom(40 * BLOCK + 7)
    slow = FolderStore(store.folder, delay_s=0.01)
    info = slow.put("a", content)
    go = tmp_path / "go"
    started = [start_process(children.read_whole, config, slow, info, go) for _ in range(4)]
    go.touch()
    join_all(started)
    assert sorted(store.gets()) == [
        (start, min(start + BLOCK, len(content))) for start in range(0, len(content), BLOCK)
    ]


def test_killed_fillers_leave_nothing_to_repair(start_process, tmp_path, store):
    """kill -9 at ten moments of filling and evicting; then every byte is right."""
    infos = [store.put(key, os.urandom(30 * BLOCK + 11)) for key in "abc"]
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=60 * BLOCK, fetch_threads=4
    )
    slow = FolderStore(store.folder, delay_s=0.001)
    for round_ in range(5):
        pair = [start_process(children.read_forever, config, slow, infos) for _ in range(2)]
        before = len(store.gets())
        wait_until(lambda: len(store.gets()) > before + 20)  # noqa: B023
        time.sleep(0.013 * round_)
        for process in pair:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    unlimited = CacheConfig(dir=config.dir, block_bytes=BLOCK)
    with Cache(unlimited) as cache:
        assert_counted(config.dir, cache.usage_bytes())
        for info in infos:
            expected = store.content_of(info.key)
            assert read_all(cache.open(store, info)) == expected
        assert cache.counters["cache_passthrough_reads"] == 0


def test_a_waiter_takes_over_from_a_killed_filler(start_process, config, store, tmp_path, content):
    stuck = FolderStore(store.folder, delay_s=3600)
    info = store.put("a", content)
    go = tmp_path / "go"
    go.touch()
    process = start_process(children.read_whole, config, stuck, info, go)
    wait_until(store.gets)
    with Cache(config) as cache:
        results = []
        reader = threading.Thread(target=lambda: results.append(read_all(cache.open(store, info))))
        reader.start()
        # Beside the four claimed blocks it keeps as many under way as one read may.
        wait_until(lambda: len(store.gets()) == 8)
        assert results == []
        os.kill(process.pid, signal.SIGKILL)
        reader.join(20)
        assert results == [content]


def test_the_budget_holds_across_processes_and_no_byte_is_wrong(start_process, tmp_path, store):
    """Four processes race with eviction; the disk is looked at all the while."""
    infos = [store.put(key, os.urandom(40 * BLOCK + 100)) for key in "abcd"]
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=BLOCK, size_bytes=64 * BLOCK, fetch_threads=2
    )
    started = [start_process(children.read_for, config, store, infos, 3.0) for _ in range(4)]
    highest = 0
    while any(process.is_alive() for process in started):
        highest = max(highest, disk_usage(config.dir))
        time.sleep(0.005)
    join_all(started)
    # The files are looked at one after the other, and four of them may have an extent block.
    assert config.size_bytes // 2 < highest <= config.size_bytes + 8 * BLOCK
    with Cache(config) as cache:
        assert_counted(config.dir, cache.usage_bytes())


def in_child(action) -> None:
    """Fork, run `action` in the child, and expect it to succeed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_forked_child_reads_on_with_threads_of_its_own(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    blob.read(0, BLOCK)

    def child():
        assert cache.counters.snapshot() == {}
        assert read_all(blob) == content
        assert cache.counters["cache_fetches"] == 10

    in_child(child)
    assert read_all(blob) == content
    assert cache.counters["cache_fetches"] == 1


def test_a_child_forked_during_reads_and_prefetch_is_not_stuck(cache, store, content):
    slow = FolderStore(store.folder, delay_s=0.002)
    info = slow.put("a", content)
    blob = cache.open(slow, info)
    stop = threading.Event()

    def read_on():
        while not stop.is_set():
            read_all(cache.open(slow, info))

    threads = [threading.Thread(target=read_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            other = store.put(f"b{number}", content)
            plan = [PlannedRead(cache.open(slow, other), 0, len(content), 0)]
            with cache.plan(plan) as ahead:

                def child():
                    assert read_all(blob) == content
                    assert read_all(cache.open(store, other)) == content  # noqa: B023
                    ahead.close()
                    cache.close()

                in_child(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_fork_does_not_keep_the_parents_claims(config, store, content, tmp_path):
    """The parent dies during a download while its child lives on: the block is free again."""
    stuck = FolderStore(store.folder, delay_s=3600)
    info = store.put("a", content)
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        cache = Cache(config)
        blob = cache.open(stuck, info)
        threading.Thread(target=read_all, args=(blob,), daemon=True).start()
        wait_until(lambda: len(store.gets()) == 4)
        if os.fork() == 0:
            os.write(writing, os.getpid().to_bytes(8, "little"))
            time.sleep(60)
        time.sleep(60)
        os._exit(1)
    grandchild = int.from_bytes(os.read(reading, 8), "little")
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        with Cache(config) as cache:
            assert read_all(cache.open(store, info)) == content
    finally:
        os.kill(grandchild, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_shared_caches_are_usable_in_a_child(config, store, content):
    cache = Cache.shared(config)
    try:
        info = store.put("a", content)
        read_all(cache.open(store, info))

        def child():
            again = Cache.shared(config)
            assert read_all(again.open(store, info)) == content
            assert again.counters["cache_fetches"] == 0

        in_child(child)
    finally:
        cache.close()
