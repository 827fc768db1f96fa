"""Many ranges in one call, from memory, disk and store, are the object's bytes."""

from __future__ import annotations

import itertools
import os
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane import _native
from dataplane.cache import Cache, CacheConfig
from dataplane.cache.read.ranges import as_ranges, by_block, merge_ranges, pack_ranges, touching
from dataplane.errors import ConfigError, NotFound, ObjectChanged
from tests.cache.fakes import BLOCK, data_files, held, partly_cached

SIZE = 12 * BLOCK + 100


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


def read_ranges(blob, table) -> bytes:
    """Read a table; bytes that no range is copied to are 0xAA."""
    rows = as_ranges(table)
    length = int((rows[:, 2] + rows[:, 1] - rows[:, 0]).max(initial=0))
    out = bytearray(b"\xaa" * (length + 5))
    blob.read_ranges_into(rows, out)
    return bytes(out)


def expected_ranges(content: bytes, table) -> bytes:
    length = max((place + stop - start for start, stop, place in table), default=0)
    out = bytearray(b"\xaa" * (length + 5))
    for start, stop, place in table:
        out[place : place + stop - start] = content[start:stop]
    return bytes(out)


def spread(draws: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Put ranges, given as start and length, one after another with a gap of three bytes."""
    table, place = [], 0
    for start, length in draws:
        stop = min(SIZE, start + length)
        table.append((start, stop, place))
        place += stop - start + 3
    return table


MIXED = [
    (0, 0, 0),  # empty
    (10, 20, 0),
    (BLOCK - 5, BLOCK + 5, 10),  # crosses a block
    (BLOCK, 5 * BLOCK, 20),  # whole blocks
    (15, 18, 5 * BLOCK),  # overlaps the first
    (SIZE - 150, SIZE, 5 * BLOCK + 10),  # into the short last block
    (SIZE, SIZE, 7),  # empty, at the end
]


def test_a_table_of_ranges_is_read_cold_and_then_without_requests(any_cache, store, content):
    blob = any_cache.open(store, store.put("a", content))
    assert read_ranges(blob, MIXED) == expected_ranges(content, MIXED)
    gets = store.gets()
    assert sorted(gets) == [
        (n * BLOCK, min((n + 1) * BLOCK, SIZE)) for n in [0, 1, 2, 3, 4, 11, 12]
    ]
    assert read_ranges(blob, MIXED) == expected_ranges(content, MIXED)
    assert store.gets() == gets


def test_every_range_is_counted_as_a_read(any_cache, store, content):
    blob = any_cache.open(store, store.put("a", content))
    blob.read(0, BLOCK)
    before = any_cache.counters.snapshot()
    read_ranges(
        blob, [(0, 10, 0), (5, 5, 10), (BLOCK - 3, BLOCK + 3, 10), (2 * BLOCK, 5 * BLOCK, 20)]
    )
    after = any_cache.counters.snapshot()
    counted = {name: after[name] - before.get(name, 0) for name in after}
    assert counted["cache_hits"] == 1
    assert counted["cache_hit_bytes"] == 10
    assert counted["cache_misses"] == 2
    assert counted["cache_miss_bytes"] == 6 + 3 * BLOCK


def test_memory_disk_and_store_make_up_one_table(any_cache, store, content):
    blob = any_cache.open(store, store.put("a", content))
    blob.read(0, BLOCK)
    with held(any_cache, blob, [1, 3, 12]):
        gets = len(store.gets())
        assert read_ranges(blob, MIXED) == expected_ranges(content, MIXED)
        assert len(store.gets()) == gets + 3  # blocks 2, 4 and 11
        rows = [(n * 30, n * 30 + 25, n * 25) for n in range(SIZE // 30)]
        assert read_ranges(blob, rows) == expected_ranges(content, rows)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    draws=st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 3 * BLOCK)), max_size=12),
    on_disk=st.sets(st.integers(0, 12)),
    in_memory=st.sets(st.integers(0, 12), max_size=6),
    evicted=st.sets(st.integers(0, 12)),
    seal=st.booleans(),
)
def test_any_mixture_of_memory_disk_and_store_equals_a_slice(
    tmp_path_factory, draws, on_disk, in_memory, evicted, seal
):
    root = tmp_path_factory.mktemp("model")
    with partly_cached(root, SIZE, on_disk, seal=seal) as (cache, blob, content, _):
        table = spread(draws)
        with held(cache, blob, sorted(in_memory - on_disk)):
            evict(cache, blob, evicted)
            assert read_ranges(blob, table) == expected_ranges(content, table)
            for start, stop, _ in table:
                assert blob.view(start, stop) == content[start:stop]


def evict(cache: Cache, blob, blocks) -> None:
    """Empty blocks as another process would: through files, and so with claims, of its own."""
    theirs = cache.existing(blob.name)
    if theirs is None:
        return
    for block in blocks:
        if theirs.try_claim(block):
            theirs.evict(block, (1 << 64) - 1)
            theirs.release(block)


def test_a_block_found_corrupt_is_fetched_again_and_counted_once(config, store, content):
    info = store.put("a", content)
    with Cache(config) as cache:
        cache.open(store, info).read(0, SIZE)
    (path,) = data_files(config.dir)
    damaged = bytearray(path.read_bytes())
    damaged[2 * BLOCK + 9] ^= 4
    path.write_bytes(damaged)
    with (config.dir / "usage").open("r+b") as usage:  # as after an unclean stop
        usage.seek(32)
        usage.write((1).to_bytes(8, "little"))
    gets = len(store.gets())
    rows = [(n * 100, n * 100 + 50, n * 50) for n in range(SIZE // 100)]
    with Cache(config) as cache:
        blob = cache.open(store, info)
        assert read_ranges(blob, rows) == expected_ranges(content, rows)
        assert cache.counters["cache_blocks_corrupt"] == 1
        assert blob.is_complete()
    assert store.gets()[gets:] == [(2 * BLOCK, 3 * BLOCK)]


def test_readers_and_an_evictor_agree_on_the_bytes(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    blob.read(0, SIZE)
    rows = [(n * 999 % (SIZE - 700), n * 999 % (SIZE - 700) + 700, n * 700) for n in range(200)]
    right = expected_ranges(content, rows)
    over = threading.Event()
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(n for n in range(25) if read_ranges(blob, rows) != right)
        deadline = time.monotonic() + 30
        while len(store.gets()) <= 13 and time.monotonic() < deadline:  # until one met an eviction
            wrong.extend([-1] * (read_ranges(blob, rows) != right))

    def drop() -> None:
        while not over.is_set():
            evict(cache, blob, range(13))

    readers = [threading.Thread(target=work) for _ in range(4)]
    evictor = threading.Thread(target=drop)
    for thread in [*readers, evictor]:
        thread.start()
    for thread in readers:
        thread.join()
    over.set()
    evictor.join()
    assert not wrong
    assert len(store.gets()) > 13  # something was evicted under the readers


def test_ranges_past_an_unusable_cache_share_requests(tmp_path, store, content):
    (tmp_path / "file").write_bytes(b"")
    config = CacheConfig(dir=tmp_path / "file", block_bytes=BLOCK)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        assert read_ranges(blob, MIXED) == expected_ranges(content, MIXED)
        assert store.requests() == [(10, SIZE)]
        assert cache.counters["cache_passthrough_reads"] == 1
        assert blob.view(3, 9) == content[3:9]


def test_a_forked_child_reads_the_same_ranges(cache, store, content):
    blob = cache.open(store, store.put("a", content))
    right = expected_ranges(content, MIXED)
    with held(cache, blob, [1, 2]):
        view = blob.view(BLOCK, 2 * BLOCK)
        child = os.fork()
        if child == 0:
            good = read_ranges(blob, MIXED) == right and view == content[BLOCK : 2 * BLOCK]
            good = good and not cache.held(blob.name)
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert read_ranges(blob, MIXED) == right


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([(5, 4, 0)], "outside"),
        ([(0, 1, 0), (0, SIZE + 1, 0)], "outside"),
        (np.array([(0, 2**63, 0)], np.uint64), "outside"),
        ([(0, 10, 91)], "do not fit"),
        (np.array([(0, 10, 2**64 - 1)], np.uint64), "do not fit"),
        ([(-1, 10, 0)], "negative"),
        ([(0, 10)], "rows of"),
        ([(0.0, 10.0, 0.0)], "rows of"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_any_request(
    cache, store, content, table, message
):
    blob = cache.open(store, store.put("a", content))
    with pytest.raises(ConfigError, match=message):
        blob.read_ranges_into(table, bytearray(100))
    assert store.gets() == []


@pytest.mark.parametrize(
    "buffer", [bytes(8), np.zeros((8, 2), np.uint8)[:, 0]], ids=["read-only", "strided"]
)
def test_a_buffer_that_cannot_be_written_to_is_refused(cache, store, content, buffer):
    blob = cache.open(store, store.put("a", content))
    with pytest.raises(ConfigError, match="writable contiguous"):
        blob.read_ranges_into([(0, 8, 0)], buffer)


def test_a_table_that_is_read_into_itself_is_used_as_it_was_given(any_cache, store, content):
    blob = any_cache.open(store, store.put("a", content))
    blob.read(BLOCK, 3 * BLOCK)
    for first in (BLOCK + 7, 5 * BLOCK + 7):  # what is there, and what has to be fetched
        table = as_ranges([(first + 48 * n, first + 48 * (n + 1), 48 * n) for n in range(100)])
        shown = np.concatenate([table, table])  # the buffer is twice as long as its table
        blob.read_ranges_into(shown[:100], shown)
        assert shown.tobytes() == content[first : first + 4800]


def test_empty_tables_ask_for_nothing(cache, config, store, content):
    blob = cache.open(store, store.put("a", content))
    blob.read_ranges_into([], bytearray())
    blob.read_ranges_into([(4, 4, 0)], bytearray())
    assert store.gets() == []
    assert not config.dir.exists()


def test_errors_of_the_store_reach_the_reader_of_a_table(cache, store, content):
    info = store.put("a", content)
    blob = cache.open(store, info)
    read_ranges(blob, [(0, 10, 0)])
    store.put("a", content, "v2")
    with pytest.raises(ObjectChanged):
        read_ranges(blob, MIXED)
    assert read_ranges(blob, [(0, 10, 0)])[:10] == content[:10]
    with pytest.raises(NotFound):
        read_ranges(cache.open(store, type(info)("gone", 50, "v1")), [(0, 10, 0)])


class TestTables:
    def test_pieces_by_block_are_the_ranges_cut(self):
        table = as_ranges([(0, 0, 0), (4, 13, 100), (20, 20, 5), (2, 5, 50)])
        cut = {block: rows.tolist() for block, rows in by_block(table, 5)}
        assert cut == {
            0: [[4, 5, 100], [2, 5, 50]],
            1: [[5, 10, 101]],
            2: [[10, 13, 106]],
        }
        assert list(by_block(as_ranges([]), 5)) == []

    @given(
        ranges=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=12),
        gap=st.integers(0, 20),
        blocks=st.sets(st.integers(0, 40)),
    )
    def test_merging_and_touching_match_sets_of_bytes(self, ranges, gap, blocks):
        pairs = np.array([(a, a + n) for a, n in ranges], np.uint64).reshape(-1, 2)
        merged = merge_ranges(pairs[:, 0], pairs[:, 1], gap).tolist()
        for start, length in ranges:
            assert any(a <= start and start + length <= b for a, b, _ in merged)
        assert all(one[1] + gap < other[0] for one, other in itertools.pairwise(merged))
        places = [place for _, _, place in merged]
        assert places == [sum(b - a for a, b, _ in merged[:n]) for n in range(len(merged))]
        table = pack_ranges(pairs)
        touched = touching(table, sorted(blocks), 7).tolist()
        assert touched == [
            row for row in table.tolist() if {at // 7 for at in range(row[0], row[1])} & blocks
        ]

    def test_the_native_module_checks_what_it_is_given(self):
        out = bytearray(10)
        good = np.array([[0, 10, 0]], np.uint64)
        for ranges, memory in [
            (good.data, {0: bytes(15)}),  # too long for the block
            (good.data, {7: bytes(16)}),
            (np.array([[0, 11, 0]], np.uint64).data, {}),
            (np.array([[0, 2**64 - 1, 0]], np.uint64).data, {}),
            (good.tobytes()[:-1], {}),
        ]:
            with pytest.raises(ValueError, match=r"expected|whole number"):
                _native.copy_ranges(ranges, out, memory, block_bytes=16, size_bytes=64)
        with pytest.raises((TypeError, BufferError)):
            _native.copy_ranges(good.data, bytes(10), {}, block_bytes=16, size_bytes=64)
        missing = _native.copy_ranges(good.data, out, {}, block_bytes=16, size_bytes=64)
        assert missing is not None
        assert missing.missing == good.tobytes()
