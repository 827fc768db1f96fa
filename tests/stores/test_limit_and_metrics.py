"""Requests under way are limited per place; every attempt is counted."""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane.errors import BucketNotFound, NotFound, ObjectChanged, Throttled
from dataplane.stores.clients.memory import MemoryStore
from dataplane.stores.forwarder import StoreWrapper
from dataplane.stores.policy.limit import LimitStore
from dataplane.stores.policy.metrics import MetricsStore
from dataplane.stores.policy.retry import RetryPolicy, RetryStore
from dataplane.telemetry import Counters
from tests.stores.fakes import ScriptedStore

_numbers = itertools.count()


class _Counting(StoreWrapper):
    """Holds every read until told, and remembers how many were held at once."""

    def __init__(self, inner: MemoryStore, expected: int) -> None:
        super().__init__(inner)
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.full = threading.Semaphore(0)
        self.go = threading.Event()
        self.expected = expected

    def get_range(self, key, start, stop, *, if_match=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.full.release()
        assert self.go.wait(30)
        with self.lock:
            self.now -= 1
        return super().get_range(key, start, stop, if_match=if_match)


def _memory(content: bytes = b"content") -> MemoryStore:
    memory = MemoryStore(f"limit-{next(_numbers)}")
    memory.put("k", content)
    return memory


def test_stores_of_one_place_share_the_limit() -> None:
    memory = _memory()
    inner = _Counting(memory, 3)
    counters = Counters()
    stores = [LimitStore(inner, 3, counters), LimitStore(inner, 3, counters)]
    with ThreadPoolExecutor(12) as pool:
        reads = [pool.submit(stores[n % 2].get_range, "k", 0, 7) for n in range(12)]
        for _ in range(3):
            assert inner.full.acquire(timeout=30)
        # Three are held inside. No fourth may come in while they are.
        assert not inner.full.acquire(timeout=0.05)
        inner.go.set()
        assert [bytes(read.result()) for read in reads] == [b"content"] * 12
    assert inner.most == 3
    assert counters["store_wait_s"] > 0


def test_other_places_are_not_held_up() -> None:
    held = _Counting(_memory(), 1)
    free = LimitStore(_memory(), 1, Counters())
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(LimitStore(held, 1, Counters()).get_range, "k", 0, 1)
        assert held.full.acquire(timeout=30)
        assert bytes(free.get_range("k", 0, 7)) == b"content"
        held.go.set()
        read.result()


def test_a_failed_request_gives_its_turn_back() -> None:
    inner = ScriptedStore("limit", *[Throttled("slow")] * 5, inner=_memory(b"1"))
    counters = Counters()
    store = LimitStore(inner, 1, counters)
    for _ in range(5):
        with pytest.raises(Throttled):
            store.get_range("k", 0, 1)
    assert bytes(store.get_range("k", 0, 1)) == b"1"
    assert counters["store_wait_s"] == 0


def test_a_forked_child_does_not_wait_for_its_parents_requests() -> None:
    inner = _Counting(_memory(), 1)
    store = LimitStore(inner, 1, Counters())
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(store.get_range, "k", 0, 1)
        assert inner.full.acquire(timeout=30)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if store.head("k").size_bytes == 7 else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        inner.go.set()
        read.result()
    assert os.waitstatus_to_exitcode(status) == 0


def test_reads_and_writes_are_counted_in_requests_bytes_and_time() -> None:
    counters = Counters()
    ticks = itertools.count()
    store = MetricsStore(_memory(), counters, clock=lambda: float(next(ticks)))
    store.get_range("k", 1, 4)
    store.get_range("k", 0, 7)
    store.put("other", b"12345")
    store.head("k")
    list(store.list())
    store.list_level()
    store.delete("other")
    assert counters.snapshot() == {
        "store_delete_requests": 1,
        "store_get_bytes": 10,
        "store_get_requests": 2,
        "store_get_s": 2,
        "store_head_requests": 1,
        "store_list_requests": 2,
        "store_put_bytes": 5,
        "store_put_requests": 1,
        "store_put_s": 1,
    }


def test_a_file_is_counted_by_its_size(tmp_path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"123456789")
    counters = Counters()
    MetricsStore(_memory(), counters).put("k", source)
    assert counters["store_put_bytes"] == 9


def test_an_empty_range_is_no_request() -> None:
    counters = Counters()
    assert MetricsStore(_memory(), counters).get_range("k", 3, 3) == b""
    assert counters["store_get_requests"] == 0


def test_failures_are_counted_by_kind() -> None:
    counters = Counters()
    store = MetricsStore(_memory(), counters)
    with pytest.raises(ObjectChanged):
        store.get_range("k", 0, 1, if_match='"x"')
    assert counters["store_errors_object_changed"] == 1
    assert counters["store_get_requests"] == 1
    assert counters["store_get_bytes"] == 0


def test_a_key_that_is_not_there_is_an_answer_and_no_error() -> None:
    counters = Counters()
    store = MetricsStore(_memory(), counters)
    with pytest.raises(NotFound):
        store.head("zarr.json")
    with pytest.raises(NotFound):
        store.get_range("c/0/0", 0, 1)
    with pytest.raises(NotFound):
        list(store.stream_range("c/0/1", 0, 1, piece_bytes=1))
    assert counters["store_not_found"] == 3
    assert not [name for name in counters.snapshot() if name.startswith("store_errors_")]


def test_a_missing_bucket_stays_an_error() -> None:
    counters = Counters()
    inner = ScriptedStore(f"limit-{next(_numbers)}", BucketNotFound("no bucket"))
    with pytest.raises(BucketNotFound):
        MetricsStore(inner, counters).get_range("k", 0, 1)
    assert counters["store_errors_bucket_not_found"] == 1
    assert counters["store_not_found"] == 0


def test_every_attempt_is_metered() -> None:
    counters = Counters()
    inner = ScriptedStore("limit", Throttled("slow"), Throttled("slow"), inner=_memory(b"1234"))
    metered = MetricsStore(inner, counters)
    policy = RetryPolicy(8, 120.0, lambda: 0.0, lambda _: None, lambda low, _: low)
    RetryStore(LimitStore(metered, 4, counters), policy, counters).get_range("k", 0, 4)
    assert counters["store_get_requests"] == 3
    assert counters["store_get_bytes"] == 4
    assert counters["store_errors_throttled"] == 2
    assert counters["store_retries"] == 2
