"""Whatever bits change on the disk: the bytes that are read are right."""

from __future__ import annotations

import os
import random
import shutil

from dataplane.cache import Cache, CacheConfig
from tests.cache.fakes import BLOCK, data_files, map_files, read_all

BLOCKS = 8


def _mark_unclean(config: CacheConfig) -> None:
    with (config.dir / "usage").open("r+b") as usage:
        usage.seek(32)
        usage.write((1).to_bytes(8, "little"))


def test_flipped_bits_in_data_and_maps(tmp_path, store, trials, report) -> None:
    content = os.urandom(BLOCKS * BLOCK - 100)
    info = store.put("a", content)
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK, direct_io=False)
    with Cache(config) as cache:
        read_all(cache.open(store, info))
    sound = {path: path.read_bytes() for path in data_files(config.dir) + map_files(config.dir)}
    dice = random.Random(7)
    found = refetched = 0
    count = trials(10_000, 200)
    for _ in range(count):
        for path, good in sound.items():
            path.write_bytes(good)
        victim = dice.choice(list(sound))
        damaged = bytearray(sound[victim])
        for _ in range(dice.randrange(1, 5)):
            # Maps are mostly header and padding: aim at the records half of the time.
            low = 4096 if victim.suffix == ".map" and dice.random() < 0.5 else 0
            damaged[dice.randrange(low, len(damaged))] ^= 1 << dice.randrange(8)
        victim.write_bytes(damaged)
        _mark_unclean(config)
        with Cache(config) as cache:
            assert read_all(cache.open(store, info)) == content
            found += cache.counters["cache_blocks_corrupt"] > 0
            refetched += cache.counters["cache_fetches"] > 0
    report(f"{count} damaged entries: 0 wrong bytes, {refetched:.0f} had to fetch, {found} by CRC")


def test_a_power_cut_in_the_middle_of_a_fill(tmp_path, store, trials, report, monkeypatch) -> None:
    """A copy of the directory as it was mid-fill, with pages that had not reached the disk lost."""
    content = os.urandom(60 * BLOCK + 7)
    info = store.put("a", content)
    dice = random.Random(9)
    lost = 0
    count = trials(300, 15)
    for number in range(count):
        folder = tmp_path / f"cache{number}"
        config = CacheConfig(dir=folder / "live", block_bytes=BLOCK, direct_io=False)
        with Cache(config) as cache:
            blob = cache.open(store, info)
            for _ in range(dice.randrange(1, 12)):
                start = dice.randrange(len(content))
                blob.read(start, min(len(content), start + dice.randrange(1, 9 * BLOCK)))
            shutil.copytree(config.dir, folder / "after")  # in use: marked as not left in order
        after = CacheConfig(dir=folder / "after", block_bytes=BLOCK)
        for path in data_files(after.dir) + map_files(after.dir) + [after.dir / "usage"]:
            lost += _lose_pages(path, dice)
        boot = folder / "boot_id"
        boot.write_text(f"boot {number}")
        monkeypatch.setattr("dataplane.cache.disk.session._BOOT_ID", boot)
        with Cache(after) as cache:
            assert read_all(cache.open(store, info)) == content
        with Cache(after) as cache:
            assert read_all(cache.open(store, info)) == content
            assert cache.counters["cache_fetches"] == 0
        shutil.rmtree(folder)
    report(f"{count} power cuts, {lost} pages lost: 0 wrong bytes, each whole after one read")


def _lose_pages(path, dice: random.Random) -> int:
    """Put zeros in place of some pages, as a file system does for blocks it never wrote."""
    content = bytearray(path.read_bytes())
    pages = range(0, len(content), 4096)
    chosen = [page for page in pages if dice.random() < 0.2]
    for page in chosen:
        content[page : page + 4096] = bytes(len(content[page : page + 4096]))
    path.write_bytes(content)
    return len(chosen)
