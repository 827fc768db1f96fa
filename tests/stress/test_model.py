"""The cache against a dict: random reads, new versions, evictions, plans and crashes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.cache.read.ranges import pack_ranges
from dataplane.errors import ObjectChanged
from tests.cache.fakes import BLOCK, FolderStore, is_counted, wait_until
from tests.stress.conftest import FULL

KEYS = st.sampled_from(["a", "b", "c/d", "ü"])


class CacheMachine(RuleBasedStateMachine):
    """Whatever happens, a read returns the bytes of the version that it asked for."""

    versions = Bundle("versions")

    @initialize(blocks=st.integers(4, 20))
    def begin(self, blocks: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dataplane-model-"))
        (self.folder / "objects").mkdir()
        self.store = FolderStore(self.folder / "objects")
        self.config = CacheConfig(
            dir=self.folder / "cache",
            block_bytes=BLOCK,
            size_bytes=blocks * BLOCK,
            fetch_threads=2,
        )
        self.cache = Cache(self.config)
        self.current: dict[str, str] = {}
        self.count = 0

    @rule(target=versions, key=KEYS, size=st.integers(0, 9 * BLOCK))
    def put(self, key: str, size: int) -> tuple[object, bytes]:
        content = os.urandom(size)
        self.count += 1
        info = self.store.put(key, content, f"v{self.count}")
        self.current[key] = info.etag
        return info, content

    @rule(version=versions, data=st.data())
    def read(self, version, data) -> None:
        info, content = version
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, len(content)))
        try:
            got = bytes(self.cache.open(self.store, info).read(start, stop))
        except ObjectChanged:
            assert self.current[info.key] != info.etag
            return
        assert got == content[start:stop]

    @rule(version=versions, data=st.data())
    def read_many(self, version, data) -> None:
        """A table of ranges, and views of the same ranges."""
        info, content = version
        at = st.integers(0, len(content))
        pairs = [sorted(pair) for pair in data.draw(st.lists(st.tuples(at, at), max_size=8))]
        table = pack_ranges(pairs)
        expected = b"".join(content[start:stop] for start, stop in pairs)
        blob, out = self.cache.open(self.store, info), bytearray(len(expected))
        try:
            blob.read_ranges_into(table, out)
            views = blob.views(table[:, 0], table[:, 1])
        except ObjectChanged:
            assert self.current[info.key] != info.etag
            return
        assert out == expected
        for (start, stop), source, offset in zip(
            pairs, views.source.tolist(), views.offset.tolist(), strict=True
        ):
            shown = memoryview(views.sources[source])[offset : offset + stop - start]
            assert shown == content[start:stop]

    @rule(plan=st.lists(versions, min_size=1, max_size=5))
    def read_a_plan(self, plan) -> None:
        blobs = [(self.cache.open(self.store, info), content) for info, content in plan]
        reads = [
            PlannedRead(blob, 0, len(content), step) for step, (blob, content) in enumerate(blobs)
        ]
        with self.cache.plan(reads, window_bytes=4 * BLOCK) as ahead:
            for step, (blob, content) in enumerate(blobs):
                try:
                    assert bytes(blob.read(0, len(content))) == content
                except ObjectChanged:
                    assert self.current[blob.info.key] != blob.info.etag
                ahead.advance(step + 1)

    @rule()
    def leave_in_order(self) -> None:
        self.cache.close()
        self.cache = Cache(self.config)

    @rule()
    def crash(self) -> None:
        """The next one finds the directory as a killed process leaves it."""
        self.cache.usage_bytes()
        copy = self.folder / f"cache{self.count}-{len(list(self.folder.iterdir()))}"
        shutil.copytree(self.config.dir, copy)
        self.cache.close()
        shutil.rmtree(self.config.dir)
        copy.rename(self.config.dir)
        self.cache = Cache(self.config)

    @invariant()
    def the_books_balance(self) -> None:
        if hasattr(self, "cache"):
            # A block that was handed over from memory may still be on its way to the disk, and what
            # it takes is counted before it is known whether there is room.
            wait_until(lambda: self.cache.usage_bytes() <= self.config.size_bytes)
            wait_until(lambda: is_counted(self.config.dir, self.cache.usage_bytes()))

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder)


CacheMachine.TestCase.settings = settings(
    max_examples=400 if FULL else 15,
    stateful_step_count=40 if FULL else 25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestModel = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")(
    CacheMachine.TestCase
)
