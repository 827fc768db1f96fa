"""Damaged files of the cache are a miss and a counter, never wrong bytes, never a crash."""

from __future__ import annotations

import os
import random

import pytest

from dataplane.cache import Cache
from tests.cache.fakes import BLOCK, data_files, map_files, read_all
from tests.cache.inside import entry_of


@pytest.fixture
def filled(config, store, content):
    """A cache that held one object and stopped uncleanly, so that blocks are checked again."""
    info = store.put("a", content)
    with Cache(config) as cache:
        read_all(cache.open(store, info))
    _mark_unclean(config)
    return info


def _mark_unclean(config):
    with (config.dir / "usage").open("r+b") as usage:
        usage.seek(32)
        usage.write((1).to_bytes(8, "little"))


def _flip(path, offset, bit=0x40):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


def test_undamaged_blocks_are_checked_and_kept(config, store, content, filled):
    with Cache(config) as cache:
        assert read_all(cache.open(store, filled)) == content
        assert cache.counters["cache_fetches"] == 0


@pytest.mark.parametrize("whole", [True, False], ids=["whole-block reads", "small reads"])
def test_a_flipped_bit_in_the_data_is_found_and_the_block_fetched_again(
    config, store, content, filled, whole
):
    _flip(data_files(config.dir)[0], 3 * BLOCK + 17)
    with Cache(config) as cache:
        blob = cache.open(store, filled)
        if whole:
            assert read_all(blob) == content
        else:  # the damaged byte is not among those that are read
            assert (
                bytes(blob.read(3 * BLOCK + 100, 3 * BLOCK + 110))
                == content[3 * BLOCK + 100 :][:10]
            )
        assert cache.counters["cache_blocks_corrupt"] == 1
        assert cache.counters["cache_fetches"] == 1
        used = cache.usage_bytes()
        assert read_all(blob) == content
        assert cache.counters["cache_fetches"] == 1
    _mark_unclean(config)
    with Cache(config) as cache:  # counted from the files
        assert cache.usage_bytes() == used


def test_data_turned_to_zeros_by_a_power_cut_is_found(config, store, content, filled):
    path = data_files(config.dir)[0]
    os.truncate(path, 0)
    os.truncate(path, len(content))
    with Cache(config) as cache:
        assert read_all(cache.open(store, filled)) == content
        assert cache.counters["cache_blocks_corrupt"] == 11


@pytest.mark.parametrize("length", [0, 1, BLOCK, 10 * BLOCK, 11 * BLOCK])
def test_a_data_file_of_the_wrong_length_is_thrown_away(config, store, content, filled, length):
    os.truncate(data_files(config.dir)[0], length)
    with Cache(config) as cache:
        blob = cache.open(store, filled)
        assert read_all(blob) == content
        assert blob.is_complete()
    assert data_files(config.dir)[0].stat().st_size == len(content)


def test_a_missing_data_file_is_made_again(config, store, content, filled):
    data_files(config.dir)[0].unlink()
    with Cache(config) as cache:
        assert read_all(cache.open(store, filled)) == content
    assert len(data_files(config.dir)) == 1


@pytest.mark.parametrize("length", [0, 1, 79, 4095, 4096, 4097, 4096 + 32 * 11 - 1, 4096 + 32 * 12])
def test_a_map_of_the_wrong_length_is_thrown_away(config, store, content, filled, length):
    os.truncate(map_files(config.dir)[0], length)
    with Cache(config) as cache:
        blob = cache.open(store, filled)
        assert read_all(blob) == content
        assert blob.is_complete()
    assert map_files(config.dir)[0].stat().st_size == 4096 + 32 * 11


def test_a_map_of_another_entry_is_thrown_away(config, store, content, filled):
    other = store.put("b", content[::-1])
    with Cache(config) as cache:
        read_all(cache.open(store, other))
        name = cache.open(store, filled).name
        other_name = cache.open(store, other).name
    entries = config.dir / "entries"
    for suffix in ("map", "data"):
        wrong = (entries / other_name[:2] / f"{other_name}.{suffix}").read_bytes()
        (entries / name[:2] / f"{name}.{suffix}").write_bytes(wrong)
    with Cache(config) as cache:
        assert read_all(cache.open(store, filled)) == content
        assert cache.counters["cache_maps_rebuilt"] == 1


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 20, 24, 31, 32, 39, 40, 48, 67, 68, 72, 80, 128])
def test_a_flipped_bit_in_the_header_throws_the_entry_away(config, store, content, filled, offset):
    _flip(map_files(config.dir)[0], offset)
    with Cache(config) as cache:
        assert read_all(cache.open(store, filled)) == content


def test_random_damage_to_map_records_never_gives_wrong_bytes(config, store, content, filled):
    dice = random.Random(7)
    path = map_files(config.dir)[0]
    for _ in range(60):
        for _ in range(dice.randrange(1, 12)):
            _flip(path, 4096 + dice.randrange(32 * 11), 1 << dice.randrange(8))
        _mark_unclean(config)
        with Cache(config) as cache:
            blob = cache.open(store, filled)
            start = dice.randrange(len(content))
            stop = dice.randrange(start, len(content))
            assert bytes(blob.read(start, stop)) == content[start:stop]
            assert read_all(blob) == content


def test_an_evicted_block_turned_ready_by_damage_is_not_believed(config, store, content, filled):
    """Its space is a hole that reads as zeros; its CRC does not match."""
    with Cache(config) as cache:
        blob = cache.open(store, filled)
        read_all(blob)
        entry = entry_of(cache, blob)
        assert entry.blocks.try_claim(2)
        assert entry.blocks.evict(2, 1 << 63) == BLOCK
        entry.blocks.release(2)
        del entry
    _flip(map_files(config.dir)[0], 4096 + 32 * 2, 1)
    with Cache(config) as cache:  # after a clean stop: other blocks are believed
        assert read_all(cache.open(store, filled)) == content
        assert cache.counters["cache_blocks_corrupt"] == 1
        assert cache.counters["cache_fetches"] == 1


def test_data_truncated_under_an_open_entry_is_found(config, store, content, filled):
    with Cache(config) as cache:
        blob = cache.open(store, filled)
        assert read_all(blob) == content
        os.truncate(data_files(config.dir)[0], 5 * BLOCK + 100)
        assert read_all(blob) == content
        assert cache.counters["cache_blocks_corrupt"] == 6


def test_garbage_in_place_of_folders_and_files_is_passed_by(config, store, content, filled):
    (config.dir / "entries" / "zz").write_text("not a folder")
    (config.dir / "entries" / "00").mkdir(exist_ok=True)
    (config.dir / "entries" / "00" / "short.map").write_text("x")
    (config.dir / "entries" / "00" / f"{'00' * 20}.map").write_text("x")
    with Cache(config) as cache:
        assert read_all(cache.open(store, filled)) == content
        assert cache.usage_bytes() > 0
