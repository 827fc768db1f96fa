"""Conformance suite of stores: inherit `StoreConformance` and give it a `store` fixture.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> Store:
            return open_store("my://bucket/an-empty-prefix")

The class attributes state the differences between stores. Each test checks one sentence of the
contract in `dataplane.stores.base`. The suite ships with the package, so that stores of other
projects can be held to it too. It needs pytest; importing `dataplane_testing` does not import this
module.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from dataplane.errors import ConfigError, NotFound, ObjectChanged, StoreError
from dataplane.stores import ObjectInfo, Store, StoreConfig, open_store
from dataplane_testing.conformance_streams import PATTERN, StreamConformance

__all__ = ["LEGAL_KEYS", "REFUSED_KEYS", "StoreConformance"]

LEGAL_KEYS = (
    "plain.bin",
    "with space.bin",
    "comma, and more.bin",
    "plus+plus.bin",
    "per%cent.bin",
    "encoded%20space.bin",
    "ümläut-日本.bin",
    "semi;colon&and=equals.bin",
    "hash#1",
    "question?mark",
    "tilde~(paren)'quote!*",
    "at@colon:dollar$",
    "..two-dots-first",
    "two-dots-last..",
    "...",
    "deep/er/and deeper/still/k",
    "a/b.c/..d/e",
    "k" * 200,
)
REFUSED_KEYS = (
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "a//b",
    "./a",
    "a/",
    "n\0",
)

_CHILD_TIMEOUT_S = 60


class StoreConformance(StreamConformance):
    """The contract of `dataplane.stores.Store`, one behaviour per test."""

    config: ClassVar[StoreConfig | None] = None
    """Configuration to open the store again, where the environment is not enough."""
    is_shared_between_processes: ClassVar[bool] = True
    many_keys: ClassVar[int] = 0
    """Number of keys to list in one go; more than 1000 makes S3 use pages. 0 leaves it out."""

    @pytest.fixture
    def store(self) -> Store:
        """Empty store; the subclass supplies it."""
        raise NotImplementedError("a subclass of StoreConformance supplies the fixture `store`")

    def reopen(self, store: Store, suffix: str = "") -> Store:
        """Open the same place again, or a place below it."""
        return open_store(f"{store.url}/{suffix}".rstrip("/"), self.config)

    # Objects

    def test_it_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)

    def test_put_describes_the_object_as_head_does(self, store: Store) -> None:
        written = store.put("a/object", PATTERN)
        found = store.head("a/object")
        assert (found.key, found.size_bytes, found.etag) == (
            "a/object",
            len(PATTERN),
            written.etag,
        )
        assert written.key == "a/object"
        assert written.size_bytes == len(PATTERN)

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (0, len(PATTERN)), (len(PATTERN) - 1, len(PATTERN)), (250, 4097), (4096, 8192)],
    )
    def test_a_range_is_exact(self, store: Store, start: int, stop: int) -> None:
        store.put("k", PATTERN)
        assert bytes(store.get_range("k", start, stop)) == PATTERN[start:stop]

    def test_an_empty_range_is_empty(self, store: Store) -> None:
        store.put("k", PATTERN)
        assert bytes(store.get_range("k", 7, 7)) == b""

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        info = store.put("empty", b"")
        assert store.head("empty").size_bytes == 0
        assert bytes(store.get_range("empty", 0, 0, if_match=info.etag)) == b""

    def test_a_range_across_the_end_is_an_error(self, store: Store) -> None:
        store.put("k", b"12345")
        with pytest.raises(StoreError, match="k: "):
            store.get_range("k", 3, 6)

    def test_a_range_behind_the_end_is_an_error(self, store: Store) -> None:
        store.put("k", b"12345")
        with pytest.raises(StoreError):
            store.get_range("k", 5, 6)

    def test_a_range_of_an_empty_object_is_an_error(self, store: Store) -> None:
        store.put("k", b"")
        with pytest.raises(StoreError):
            store.get_range("k", 0, 1)

    @pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (-2, -1)])
    def test_an_impossible_range_is_refused(self, store: Store, start: int, stop: int) -> None:
        store.put("k", b"12345")
        with pytest.raises(ConfigError, match="not a byte range"):
            store.get_range("k", start, stop)

    def test_a_missing_key_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="missing/key"):
            store.head("missing/key")
        with pytest.raises(NotFound, match="missing/key"):
            store.get_range("missing/key", 0, 1)
        with pytest.raises(NotFound, match="missing/key"):
            store.get_range("missing/key", 0, 1, if_match='"any"')

    def test_the_start_of_other_keys_is_not_an_object(self, store: Store) -> None:
        store.put("level/key", b"1")
        with pytest.raises(NotFound):
            store.head("level")

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_can_be_put(self, store: Store, kind: type) -> None:
        store.put("k", kind(b"buffer"))
        assert bytes(store.get_range("k", 0, 6)) == b"buffer"

    def test_a_local_file_can_be_put(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "source file"
        source.write_bytes(PATTERN)
        assert store.put("from/file", source).size_bytes == len(PATTERN)
        assert bytes(store.get_range("from/file", 0, len(PATTERN))) == PATTERN

    def test_a_local_file_that_is_not_there_is_refused(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            store.put("k", tmp_path / "missing")
        with pytest.raises(NotFound):
            store.head("k")

    def test_a_large_object_arrives_whole(self, store: Store) -> None:
        content = os.urandom(self.large_bytes)
        info = store.put("large", content)
        assert store.head("large") == ObjectInfo(
            "large", len(content), info.etag, store.head("large").modified_s
        )
        assert bytes(store.get_range("large", 0, len(content), if_match=info.etag)) == content

    def test_delete_removes_and_may_be_repeated(self, store: Store) -> None:
        store.put("a/k", b"1")
        store.put("a/other", b"1")
        store.delete("a/k")
        store.delete("a/k")
        with pytest.raises(NotFound):
            store.head("a/k")
        assert [info.key for info in store.list()] == ["a/other"]

    def test_close_may_be_repeated(self, store: Store) -> None:
        store.put("k", b"1")
        store.close()
        store.close()

    # Versions

    def test_a_matching_etag_reads(self, store: Store) -> None:
        info = store.put("k", PATTERN)
        assert bytes(store.get_range("k", 1, 4, if_match=info.etag)) == PATTERN[1:4]

    def test_another_etag_is_a_changed_object_and_both_are_named(self, store: Store) -> None:
        info = store.put("k", PATTERN)
        with pytest.raises(ObjectChanged) as caught:
            store.get_range("k", 1, 4, if_match='"another"')
        assert '"another"' in str(caught.value)
        assert info.etag in str(caught.value)
        assert f"{store.url}/k" in str(caught.value)

    def test_a_replaced_object_has_another_etag(self, store: Store) -> None:
        first = store.put("k", b"first")
        second = store.put("k", b"other")
        assert first.etag != second.etag
        assert store.head("k").etag == second.etag

    def test_an_object_replaced_between_two_reads_is_noticed(self, store: Store) -> None:
        first = store.put("k", b"a" * 1000)
        assert bytes(store.get_range("k", 0, 500, if_match=first.etag)) == b"a" * 500
        second = store.put("k", b"b" * 1000)
        with pytest.raises(ObjectChanged):
            store.get_range("k", 500, 1000, if_match=first.etag)
        assert bytes(store.get_range("k", 500, 1000, if_match=second.etag)) == b"b" * 500

    def test_a_replaced_object_that_shrank_is_a_changed_one(self, store: Store) -> None:
        first = store.put("k", b"a" * 1000)
        store.put("k", b"b")
        with pytest.raises(ObjectChanged):
            store.get_range("k", 500, 1000, if_match=first.etag)

    def test_readers_see_the_old_object_or_the_new_one(self, store: Store) -> None:
        size = 64 << 10
        store.put("k", b"\0" * size)
        done = threading.Event()

        def write() -> None:
            for version in range(1, 12):
                store.put("k", bytes([version]) * size)
            done.set()

        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            seen = {0}
            while not done.is_set() and not writer.done():
                content = bytes(store.get_range("k", 0, size))
                assert len(set(content)) == 1
                seen.add(content[0])
            writer.result()
        assert bytes(store.get_range("k", 0, size)) == bytes([11]) * size

    # Listings

    def test_an_empty_store_lists_nothing(self, store: Store) -> None:
        store.put("k", b"")
        store.delete("k")
        assert list(store.list()) == []
        assert store.list_level() == type(store.list_level())((), ())

    def test_list_yields_all_keys_in_order(self, store: Store) -> None:
        keys = ["b", "a/b/c", "a/b", "a-b", "a.b", "Z", "a/c", "é"]
        keys.remove("a/b")  # A folder cannot hold a key and keys below it.
        for key in keys:
            store.put(key, key.encode())
        assert [info.key for info in store.list()] == sorted(keys)
        assert [info.size_bytes for info in store.list()] == [
            len(key.encode()) for key in sorted(keys)
        ]

    def test_list_says_what_head_says(self, store: Store) -> None:
        store.put("a/k", b"123")
        (listed,) = store.list()
        found = store.head("a/k")
        assert (listed.key, listed.size_bytes, listed.etag) == (
            found.key,
            found.size_bytes,
            found.etag,
        )

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("run", ["run-1/a", "run-1/b", "run-2/a", "runs"]),
            ("run-1", ["run-1/a", "run-1/b"]),
            ("run-1/", ["run-1/a", "run-1/b"]),
            ("run-1/b", ["run-1/b"]),
            ("run-3", []),
            ("nowhere/", []),
        ],
    )
    def test_a_prefix_need_not_end_at_a_slash(
        self, store: Store, prefix: str, expected: list[str]
    ) -> None:
        for key in ("other", "run-1/a", "run-1/b", "run-2/a", "runs"):
            store.put(key, b"")
        assert [info.key for info in store.list(prefix)] == expected

    def test_list_level_tells_objects_from_levels_below(self, store: Store) -> None:
        for key in ("top", "a/one", "a/two", "a/b/three", "a/b/c/four", "a.x/five"):
            store.put(key, key.encode())
        top = store.list_level()
        assert [info.key for info in top.objects] == ["top"]
        assert top.prefixes == ("a.x/", "a/")
        below = store.list_level("a/")
        assert [(info.key, info.size_bytes) for info in below.objects] == [
            ("a/one", 5),
            ("a/two", 5),
        ]
        assert below.prefixes == ("a/b/",)
        assert below.objects[0].etag == store.head("a/one").etag

    def test_a_level_that_is_not_there_is_empty(self, store: Store) -> None:
        store.put("a/one", b"")
        level = store.list_level("nowhere/")
        assert (level.objects, level.prefixes) == ((), ())

    @pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/../"])
    def test_what_is_no_level_is_refused(self, store: Store, prefix: str) -> None:
        with pytest.raises(ConfigError, match="not a directory prefix"):
            store.list_level(prefix)

    def test_long_listings_are_complete(self, store: Store) -> None:
        if not self.many_keys:
            pytest.skip("many_keys is 0: this server takes too long to fill")
        keys = [f"many/{number:05d}" for number in range(self.many_keys)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert [info.key for info in store.list("many/")] == keys
        assert [info.key for info in store.list_level("many/").objects] == keys

    # Names

    @pytest.mark.parametrize("key", LEGAL_KEYS)
    def test_a_key_is_opaque(self, store: Store, key: str) -> None:
        info = store.put(key, key.encode())
        size = len(key.encode())
        assert bytes(store.get_range(key, 0, size, if_match=info.etag)) == key.encode()
        assert store.head(key).etag == info.etag
        assert [listed.key for listed in store.list()] == [key]
        store.delete(key)
        assert list(store.list()) == []

    @pytest.mark.parametrize("key", REFUSED_KEYS)
    def test_a_key_that_could_leave_its_place_is_refused(self, store: Store, key: str) -> None:
        for call in (
            lambda: store.put(key, b"1"),
            lambda: store.head(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.delete(key),
        ):
            with pytest.raises(ConfigError, match="not an object key"):
                call()

    def test_a_store_sees_only_what_is_below_its_url(self, store: Store) -> None:
        inner = self.reopen(store, "inner part")
        store.put("outer", b"1")
        store.put("inner party/x", b"1")
        inner.put("k/v", b"2")
        assert [info.key for info in inner.list()] == ["k/v"]
        assert inner.list_level().prefixes == ("k/",)
        assert store.head("inner part/k/v").size_bytes == 1
        inner.close()

    def test_the_same_object_has_one_name_whatever_the_prefix(self, store: Store) -> None:
        inner = self.reopen(store, "deeper")
        assert inner.identity == store.identity
        assert inner.full_key("k") == store.full_key("deeper/k")
        assert inner.full_key("k").endswith("deeper/k")

    # Processes and threads

    def test_a_used_store_pickles(self, store: Store) -> None:
        info = store.put("k", PATTERN)
        copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - made on the line itself
        assert copy.identity == store.identity
        assert copy.url == store.url
        assert bytes(copy.get_range("k", 3, 9, if_match=info.etag)) == PATTERN[3:9]

    def test_threads_share_a_store(self, store: Store) -> None:
        info = store.put("k", PATTERN)

        def read(start: int) -> bool:
            stop = start + 700
            content = store.get_range("k", start, stop, if_match=info.etag)
            return bytes(content) == PATTERN[start:stop]

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(0, 8000, 100)))

    def test_a_spawned_process_reads(self, store: Store) -> None:
        if not self.is_shared_between_processes:
            pytest.skip("the objects live in one process")
        info = store.put("k", PATTERN)
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=_read_in_child, args=(store, info.etag))
        child.start()
        child.join(_CHILD_TIMEOUT_S)
        assert child.exitcode == 0
        child.close()

    def test_a_forked_process_reads_although_its_parent_has(self, store: Store) -> None:
        info = store.put("k", PATTERN)
        pid = os.fork()
        if pid == 0:  # pragma: no cover - another process
            code = 1
            try:
                signal.alarm(_CHILD_TIMEOUT_S)
                _read_in_child(store, info.etag)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert bytes(store.get_range("k", 3, 9, if_match=info.etag)) == PATTERN[3:9]


def _read_in_child(store: Store, etag: str) -> None:
    assert bytes(store.get_range("k", 3, 9, if_match=etag)) == PATTERN[3:9]
    assert store.head("k").etag == etag
