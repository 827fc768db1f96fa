"""Who may use a cache directory, what is in it, and what happens when it cannot be used."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from dataplane import _native
from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.directory import VERSION_TEXT, Directory, names_in, unusable_warning
from dataplane.cache.disk.session import Session
from dataplane.errors import CacheError
from tests.cache.fakes import BLOCK, assert_counted, data_files, disk_usage, map_files, read_all


@pytest.fixture
def retry_at_once(monkeypatch):
    monkeypatch.setattr("dataplane.cache.disk.circuit_breaker._FIRST_S", 0.0)


def assert_passes_through(config, store, caplog, reason):
    """Reads are right, nothing is cached, and one warning says why."""
    info = store.put("a", b"content")
    with caplog.at_level(logging.WARNING, "dataplane"), Cache(config) as cache:
        blob = cache.open(store, info)
        assert read_all(blob) == b"content"
        assert read_all(blob) == b"content"
        assert cache.counters["cache_passthrough_reads"] == 2
        assert cache.counters["cache_passthrough_bytes"] == 14
        assert cache.usage_bytes() == 0
        assert not blob.is_complete()
    [record] = caplog.records
    assert reason in record.getMessage()


def test_only_the_user_may_look_into_the_directory(cache, config, store, content):
    old = os.umask(0)
    try:
        read_all(cache.open(store, store.put("a", content)))
    finally:
        os.umask(old)
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o700
    for path in config.dir.rglob("*"):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == expected, path


def test_an_empty_directory_is_taken_and_closed_to_others(cache, config, store):
    config.dir.mkdir(mode=0o755)
    read_all(cache.open(store, store.put("a", b"x")))
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o700


def test_a_directory_with_other_things_in_it_is_left_alone(config, store, caplog):
    config.dir.mkdir(mode=0o755)
    (config.dir / "thesis.tex").write_text("...")
    assert_passes_through(config, store, caplog, "'thesis.tex'")
    assert [path.name for path in config.dir.iterdir()] == ["thesis.tex"]
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"dataplane-cache 2\n", "got 'dataplane-cache 2'"),
        (b"", "got nothing"),
        (VERSION_TEXT * 2, "got 'dataplane-cache 1\\ndataplane-cache 1'"),
        (b"\xff\n", "got '\ufffd'"),
    ],
)
def test_a_cache_of_another_version_is_left_alone(config, store, caplog, text, shown):
    config.dir.mkdir()
    (config.dir / "version").write_bytes(text)
    reason = f"another version: expected 'dataplane-cache 1', {shown}"
    assert_passes_through(config, store, caplog, reason)
    assert [path.name for path in config.dir.iterdir()] == ["version"]
    assert (config.dir / "version").read_bytes() == text


def test_the_top_of_a_new_file_system_is_taken(config, store):
    (config.dir / "lost+found").mkdir(parents=True)
    info = store.put("a", b"content")
    with Cache(config) as cache:
        assert read_all(cache.open(store, info)) == b"content"
        assert cache.counters["cache_passthrough_reads"] == 0
    assert {"lost+found", "version", "entries"} <= {path.name for path in config.dir.iterdir()}
    with Cache(config) as cache:
        assert cache.open(store, info).is_complete()


def test_a_link_to_a_directory_is_followed(config, store, tmp_path):
    target = tmp_path / "nvme" / "cache"
    target.mkdir(parents=True, mode=0o755)
    config.dir.symlink_to(target)
    info = store.put("a", b"content")
    with Cache(config) as cache:
        assert read_all(cache.open(store, info)) == b"content"
        assert cache.counters["cache_passthrough_reads"] == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert config.dir.is_symlink()
    direct = dataclasses.replace(config, dir=target)
    with Cache(direct) as cache:  # one cache, whatever its name
        assert cache.open(store, info).is_complete()


def test_a_link_that_leads_elsewhere_is_noticed_like_a_directory_that_is_replaced(
    config, store, tmp_path, retry_at_once
):
    for name in ("first", "second"):
        (tmp_path / name).mkdir(mode=0o700)
    config.dir.symlink_to(tmp_path / "first")
    directory = Directory(config.dir)
    assert directory.is_current()
    config.dir.unlink()
    assert not directory.is_current()
    config.dir.symlink_to(tmp_path / "second")
    assert not directory.is_current()
    directory.close()


def test_a_link_that_others_made_or_may_write_through_is_refused(tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    for mode in (0o777, 0o770, 0o1777):
        target.chmod(mode)
        with pytest.raises(CacheError, match="to which others may write"):
            Directory(link)
    assert list(target.iterdir()) == []
    target.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CacheError, match=r"(of|to) user"):
        Directory(link)


def test_a_link_that_leads_to_no_directory_is_refused(config, store, caplog, tmp_path):
    config.dir.symlink_to(tmp_path / "nowhere")
    assert_passes_through(config, store, caplog, "symbolic link that leads to no directory")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of somebody else")
def test_a_link_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "target").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    os.lchown(link, 12345, 12345)
    with pytest.raises(CacheError, match="symbolic link of user 12345"):
        Directory(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of somebody else")
@pytest.mark.parametrize("foreign", ["second", "parent"])
def test_a_link_through_a_link_of_somebody_else_is_refused(tmp_path, foreign):
    (tmp_path / "real" / "target").mkdir(parents=True, mode=0o700)
    (tmp_path / "parent").symlink_to("real")
    (tmp_path / "second").symlink_to("./parent/../parent/target")
    (tmp_path / "link").symlink_to(tmp_path / "second")
    Directory(tmp_path / "link").close()  # all of them are root's
    os.lchown(tmp_path / foreign, 12345, 12345)
    place = re.escape(str(tmp_path / foreign))
    with pytest.raises(CacheError, match=f"leads through {place}, a symbolic link of user 12345"):
        Directory(tmp_path / "link")


def test_links_in_a_circle_lead_to_no_directory(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(CacheError, match="leads to no directory"):
        Directory(tmp_path / "one")


def test_a_file_in_place_of_the_directory_is_reported(config, store, caplog):
    config.dir.write_text("x")
    assert_passes_through(config, store, caplog, "not a directory")


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CacheError, match="belongs to user"):
        Directory(tmp_path / "cache")


@pytest.mark.parametrize("name", ["version", "lock", "usage", "entries"])
def test_planted_links_at_the_top_are_not_followed(config, store, caplog, tmp_path, name):
    config.dir.mkdir(mode=0o700)
    target = tmp_path / "target"
    if name == "entries":
        target.mkdir()
    else:
        target.write_bytes(VERSION_TEXT)
    if name != "version":
        (config.dir / "version").write_bytes(VERSION_TEXT)
    (config.dir / name).symlink_to(target)
    place = str(config.dir / name)
    assert_passes_through(config, store, caplog, f"{place} is a symbolic link, and links below")
    assert (
        list(target.iterdir()) == [] if name == "entries" else target.read_bytes() == VERSION_TEXT
    )


@pytest.mark.parametrize("suffix", ["map", "data"])
def test_planted_links_in_place_of_entry_files_are_not_followed(config, store, tmp_path, suffix):
    info = store.put("a", b"content")
    with Cache(config) as cache:
        blob = cache.open(store, info)
        read_all(blob)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    [file] = config.dir.glob(f"entries/*/*.{suffix}")
    file.unlink()
    file.symlink_to(victim)
    with Cache(config) as cache:
        assert read_all(cache.open(store, info)) == b"content"
    assert victim.read_bytes() == b"precious"


def test_a_missing_parent_is_made_and_an_impossible_one_is_passed_through(store, caplog, tmp_path):
    deep = CacheConfig(dir=tmp_path / "x" / "y" / "cache", block_bytes=BLOCK)
    with Cache(deep) as cache:
        read_all(cache.open(store, store.put("a", b"x")))
    assert deep.dir.is_dir()
    (tmp_path / "file").write_text("x")
    impossible = CacheConfig(dir=tmp_path / "file" / "cache", block_bytes=BLOCK)
    assert_passes_through(impossible, store, caplog, "a parent is not a directory")


def test_a_directory_removed_under_a_running_cache_is_made_again(
    cache, config, store, content, retry_at_once
):
    read_all(cache.open(store, store.put("a", content)))
    shutil.rmtree(config.dir)
    second = cache.open(store, store.put("b", content))
    assert read_all(second) == content  # this one finds the directory gone
    assert read_all(second) == content
    assert read_all(second) == content
    assert len(data_files(config.dir)) == 1
    assert second.is_complete()


def test_a_full_disk_costs_the_cache_but_never_the_read(tmp_path, store):
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mounted)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        content = os.urandom(1 << 20)
        info = store.put("a", content)
        # The budget is larger than the disk, so what is free of the disk is the limit.
        config = CacheConfig(dir=mounted / "c", block_bytes=BLOCK, size_bytes=1 << 30)
        with Cache(config) as cache:
            for _ in range(3):
                assert read_all(cache.open(store, info)) == content
            assert cache.counters["cache_hits"] == 0
            assert 0 < disk_usage(config.dir) <= 256 << 10
        unlimited = CacheConfig(dir=mounted / "d", block_bytes=BLOCK)
        shutil.rmtree(config.dir)
        with Cache(unlimited) as cache:
            assert read_all(cache.open(store, info)) == content
            # A tenth of the file system stays free for others, but for what downloads that ran at
            # once could not know of each other.
            under_way = unlimited.fetch_threads * BLOCK
            assert 0 < disk_usage(unlimited.dir) <= (256 << 10) * 0.9 + under_way
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_file_system_without_files_left_is_not_used_up(tmp_path, store):
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=300", "none", str(mounted)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    try:
        with Cache(CacheConfig(dir=mounted / "c", block_bytes=BLOCK, size_bytes=1 << 30)) as cache:
            for number in range(200):
                content = b"%d" % number
                info = store.put(f"k{number}", content)
                assert bytes(cache.open(store, info).read(0, len(content))) == content
            status = os.statvfs(mounted)
            assert status.f_favail >= 300 // 100
            assert cache.counters["cache_passthrough_reads"] > 50
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EROFS", "EDQUOT"])
def test_a_disk_that_refuses_writes_is_passed_by(config, store, content, caplog, monkeypatch, name):
    class Refusing:
        """A block map whose disk takes no more blocks."""

        def __init__(self, blocks):
            self._blocks = blocks

        def __getattr__(self, name):
            return getattr(self._blocks, name)

        def commit(self, block, content, *, direct):
            number = getattr(errno, name)
            raise OSError(number, os.strerror(number))

    opened = Session(config.dir)
    real = type(opened.files).open

    def open_refusing(self, spec, tag):
        blocks, taken, rebuilt = real(self, spec, tag)
        return Refusing(blocks), taken, rebuilt

    monkeypatch.setattr(type(opened.files), "open", open_refusing)
    opened.close()
    with caplog.at_level(logging.WARNING, "dataplane"), Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        assert read_all(blob) == content
        assert read_all(blob) == content
        assert cache.counters["cache_uncached_blocks"] == 11
        assert cache.counters["cache_passthrough_reads"] == 1
    assert len(caplog.records) == 1


def test_an_object_too_large_to_map_is_passed_through(cache, store, caplog):
    from dataplane.stores.base import ObjectInfo

    store.put("a", b"content")
    blob = cache.open(store, ObjectInfo("a", 1 << 50, "v1"))
    assert bytes(blob.read(0, 7)) == b"content"
    assert cache.counters["cache_passthrough_reads"] == 1
    small = cache.open(store, store.put("b", b"small"))
    read_all(small)
    assert small.is_complete()


def test_the_map_says_what_it_is_about(cache, config, store):
    info = store.put("runs/\u00fc.vtu", b"x" * 5000)
    read_all(cache.open(store, info))
    [map_file] = map_files(config.dir)
    [data_file] = data_files(config.dir)
    entry = _native.BlockMap(os.open(map_file, os.O_RDWR), os.open(data_file, os.O_RDWR), 1)
    assert (entry.block_bytes, entry.size_bytes, entry.blocks) == (BLOCK, 5000, 2)
    assert entry.key.hex() == map_file.stem
    assert b'"key": "runs/\\u00fc.vtu"' in entry.identity


def test_who_comes_alone_after_a_clean_stop_keeps_the_epoch(config):
    first = Session(config.dir)
    tag = first.verify_tag
    first.close()
    second = Session(config.dir)
    assert second.verify_tag == tag
    second.close()


def test_who_comes_alone_after_an_unclean_stop_raises_the_epoch(config):
    first = Session(config.dir)
    second = Session(config.dir)
    assert second.verify_tag == first.verify_tag
    usage = first.usage
    first.close()
    second.close()
    usage.dirty = True  # as a killed process leaves it
    third = Session(config.dir)
    assert third.verify_tag != first.verify_tag
    third.close()


def test_a_damaged_usage_file_is_counted_again(config, store, content):
    info = store.put("a", content)
    with Cache(config) as cache:
        read_all(cache.open(store, info))
        used = cache.usage_bytes()
    for damage in (b"", b"x" * 4096, b"x" * 5000):
        (config.dir / "usage").write_bytes(damage)
        with Cache(config) as cache:
            assert cache.usage_bytes() == used
            assert_counted(config.dir, used)
            assert read_all(cache.open(store, info)) == content
            assert cache.counters["cache_fetches"] == 0


def test_what_a_killed_process_left_half_made_is_removed(config, store, content):
    info = store.put("a", content)
    with Cache(config) as cache:
        read_all(cache.open(store, info))
    folder: Path = data_files(config.dir)[0].parent
    (folder / f"{'0' * 40}.data").write_bytes(b"orphan")
    (folder / f".{'0' * 40}.tmp").write_bytes(b"half a map")
    (config.dir / "usage").unlink()
    with Cache(config) as cache:
        cache.usage_bytes()
        assert len(list(folder.iterdir())) == 2
        assert read_all(cache.open(store, info)) == content


def test_names_are_those_of_the_moment_whoever_has_read_the_descriptor(tmp_path):
    for number in range(100):
        (tmp_path / str(number)).touch()
    folder = os.open(tmp_path, os.O_RDONLY)
    expected = {str(number) for number in range(100)}
    try:
        os.lseek(folder, 1 << 62, os.SEEK_SET)
        assert names_in(folder) == expected
        (tmp_path / "100").touch()
        assert names_in(folder) == expected | {"100"}
    finally:
        os.close(folder)


def test_why_a_directory_cannot_be_used_is_one_line_for_the_terminal(tmp_path, monkeypatch):
    assert unusable_warning(tmp_path / "new" / "below") is None
    assert (tmp_path / "new" / "below" / "version").read_bytes() == VERSION_TEXT
    taken, old, file = tmp_path / "taken", tmp_path / "old", tmp_path / "file"
    (taken / "thesis").mkdir(parents=True)
    old.mkdir()
    (old / "version").write_bytes(b"dataplane-cache 2\n")
    file.touch()
    reasons = {
        taken: "is not a cache: it holds 'thesis'",
        old: "is a cache of another version",
        file: "is not a directory",
        file / "below": "a parent is not a directory",
        Path("/proc/dataplane"): "cannot be used: No such file or directory",
    }
    for path, reason in reasons.items():
        told = unusable_warning(path)
        assert told is not None
        assert reason in told
        assert str(path) in told
        assert "\n" not in told
        assert told.endswith("; everything is read from the store")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to user" in (unusable_warning(tmp_path / "new" / "below") or "")
