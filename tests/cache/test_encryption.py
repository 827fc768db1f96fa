"""An encrypted cache: right bytes with the key, nothing without it, nothing to read on the disk."""

from __future__ import annotations

import os
import random
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from dataplane.cache import Cache, CacheConfig, PlannedRead
from dataplane.cache.entries.encryption import HEADER_BYTES, OpenedBlocks, Sealer
from dataplane.cache.entries.keys import KEY_VARIABLE, key_identity, load_key
from dataplane.errors import ConfigError, MissingPackage
from tests.cache.fakes import BLOCK, assert_counted, data_files, map_files, read_all, wait_until

SECRET = b"the pressure at the stagnation point"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> bytes:
    key = os.urandom(32)
    monkeypatch.setenv(KEY_VARIABLE, key.hex())
    return key


@pytest.fixture
def sealed(tmp_path: Path, key: bytes) -> CacheConfig:
    return CacheConfig(dir=tmp_path / "cache", block_bytes=2 * BLOCK, encrypt=True)


@pytest.fixture
def content() -> bytes:
    return SECRET * 2000 + os.urandom(777)


def test_bytes_are_right_and_not_on_the_disk(sealed, store, content, key) -> None:
    info = store.put("a", content)
    with Cache(sealed) as cache:
        blob = cache.open(store, info)
        assert read_all(blob) == content
        gets = len(store.gets())
        dice = random.Random(4)
        for _ in range(200):
            start = dice.randrange(len(content))
            stop = dice.randrange(start, len(content) + 1)
            assert blob.read(start, stop) == content[start:stop]
        assert len(store.gets()) == gets
        assert blob.is_complete()
        assert blob.resident_bytes() == len(content)
        assert_counted(sealed.dir, cache.usage_bytes())
    for path in [*sealed.dir.rglob("*")]:
        if path.is_file():
            assert SECRET not in path.read_bytes()
            assert key not in path.read_bytes()
            assert key.hex().encode() not in path.read_bytes()


def test_another_process_finds_what_was_cached(sealed, store, content) -> None:
    info = store.put("a", content)
    with Cache(sealed) as cache:
        read_all(cache.open(store, info))
    gets = len(store.gets())
    with Cache(sealed) as cache:
        assert read_all(cache.open(store, info)) == content
    assert len(store.gets()) == gets


@pytest.mark.parametrize("encrypt", [True, False])
def test_with_another_key_or_none_the_cache_is_empty(
    sealed, store, content, monkeypatch, encrypt
) -> None:
    info = store.put("a", content)
    with Cache(sealed) as cache:
        read_all(cache.open(store, info))
    gets = len(store.gets())
    monkeypatch.setenv(KEY_VARIABLE, os.urandom(32).hex())
    other = CacheConfig(dir=sealed.dir, block_bytes=sealed.block_bytes, encrypt=encrypt)
    with Cache(other) as cache:
        blob = cache.open(store, info)
        assert blob.resident_bytes() == 0
        assert read_all(blob) == content
    assert len(store.gets()) == 2 * gets
    assert len(map_files(sealed.dir)) == 2


def test_plans_fill_an_encrypted_cache(sealed, store, content) -> None:
    with Cache(sealed) as cache:
        blob = cache.open(store, store.put("a", content))
        with cache.plan([PlannedRead(blob, 0, len(content), 0)]):
            wait_until(blob.is_complete)
        assert read_all(blob) == content


def test_the_budget_counts_what_sealed_blocks_take(tmp_path, store, key) -> None:
    config = CacheConfig(
        dir=tmp_path / "cache", block_bytes=2 * BLOCK, size_bytes=20 * BLOCK, encrypt=True
    )
    with Cache(config) as cache:
        for number in range(6):
            content = os.urandom(9 * BLOCK)
            assert read_all(cache.open(store, store.put(f"k{number}", content))) == content
            assert cache.usage_bytes() <= config.size_bytes
            assert_counted(config.dir, cache.usage_bytes())
        assert cache.counters["cache_evicted_bytes"] > 0


def test_blocks_that_changed_places_are_not_opened(sealed, store, content) -> None:
    """Their checksums are right: only the seal says where they belong."""
    info = store.put("a", content)
    with Cache(sealed) as cache:
        read_all(cache.open(store, info))
    length = sealed.block_bytes + HEADER_BYTES
    (data,) = data_files(sealed.dir)
    (records,) = map_files(sealed.dir)
    stored, map_ = bytearray(data.read_bytes()), bytearray(records.read_bytes())
    stored[:length], stored[length : 2 * length] = stored[length : 2 * length], stored[:length]
    one, other = slice(4096, 4096 + 32), slice(4096 + 32, 4096 + 64)
    map_[one], map_[other] = map_[other], map_[one]
    data.write_bytes(stored)
    records.write_bytes(map_)
    with Cache(sealed) as cache:
        assert read_all(cache.open(store, info)) == content
        assert cache.counters["cache_blocks_corrupt"] == 2
        assert cache.counters["cache_fetches"] == 2
        assert_counted(sealed.dir, cache.usage_bytes())


def test_a_flipped_bit_is_found(sealed, store, content) -> None:
    info = store.put("a", content)
    with Cache(sealed) as cache:
        read_all(cache.open(store, info))
    (data,) = data_files(sealed.dir)
    damaged = bytearray(data.read_bytes())
    damaged[HEADER_BYTES + 100] ^= 1
    data.write_bytes(damaged)
    with (sealed.dir / "usage").open("r+b") as usage:  # as after an unclean stop
        usage.seek(32)
        usage.write((1).to_bytes(8, "little"))
    with Cache(sealed) as cache:
        assert read_all(cache.open(store, info)) == content
        assert cache.counters["cache_blocks_corrupt"] == 1


def test_opened_blocks_are_bounded() -> None:
    opened = OpenedBlocks(100)
    for number in range(10):
        opened.add("a", number, memoryview(bytes(30)))
    assert [number for number in range(10) if opened.get("a", number)] == [7, 8, 9]
    opened.add("a", 99, memoryview(bytes(101)))
    assert opened.get("a", 99) is None


def test_a_seal_is_never_the_same_twice(key) -> None:
    sealer = Sealer(key)
    first, second = (np.empty(HEADER_BYTES + 4, np.uint8) for _ in range(2))
    sealer.seal(b"same", b"x", first)
    sealer.seal(b"same", b"x", second)
    assert first.tobytes() != second.tobytes()
    assert bytes(sealer.open(first.data, b"x") or b"") == b"same"
    assert sealer.open(first.data, b"y") is None


class TestKeys:
    def test_a_key_comes_from_a_file_that_only_its_owner_reads(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text("ab" * 32 + "\n")
        path.chmod(0o600)
        assert load_key(path) == b"\xab" * 32
        path.chmod(0o644)
        with pytest.raises(ConfigError, match=r"others may read.*chmod 600"):
            load_key(path)

    @pytest.mark.parametrize("text", ["", "xyz", "ab" * 31, "ab" * 33])
    def test_what_is_no_key_is_refused_and_not_shown(self, monkeypatch, text: str) -> None:
        monkeypatch.setenv(KEY_VARIABLE, text)
        with pytest.raises(ConfigError, match="holds no cache key") as caught:
            load_key(None)
        assert not text or text not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            load_key(tmp_path / "nowhere")

    def test_without_one_the_processes_of_a_boot_share_a_random_key(
        self, monkeypatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        key = load_key(None)
        assert load_key(None) == key
        (path,) = tmp_path.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.unlink()
        assert load_key(None) != key

    def test_the_name_of_a_key_does_not_give_it_away(self) -> None:
        key = os.urandom(32)
        assert key_identity(key) == key_identity(key)
        assert key_identity(key) != key_identity(os.urandom(32))
        assert key.hex()[:8] not in key_identity(key)


def test_without_its_package_it_is_said_which_extra_brings_it(
    key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingPackage, match=r"cryptography.*'\.\[encrypt\]'"):
        Sealer(key)
