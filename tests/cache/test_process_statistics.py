"""A running process shows its figures; a dead one leaves nothing that anybody believes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import pytest

from dataplane.cache import Cache
from dataplane.cache.disk.session import Session
from dataplane.cache.maintenance.process_statistics import program_name, read_published
from dataplane.telemetry import totals
from tests.cache.fakes import read_all, wait_until


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("dataplane.cache.maintenance.process_statistics._INTERVAL_S", 0.02)


@pytest.fixture
def session(config):
    session = Session(config.dir)
    yield session
    session.close()


def test_figures_appear_follow_and_go_with_the_cache(config, store, content, session):
    assert read_published(session) == []
    counted = totals().get("cache_fetch_bytes", 0)
    with Cache(config) as cache:
        blob = cache.open(store, store.put("a", content))
        assert read_published(session) == []  # it has not used the directory yet
        read_all(blob)
        first = read_published(session)[0]
        assert first.pid == os.getpid()
        assert first.size_bytes is None
        wait_until(
            lambda: (
                read_published(session)[0].counters.get("cache_fetch_bytes", 0)
                >= counted + len(content)
            )
        )
        figures = read_published(session)[0]
        assert figures.written_s >= figures.started_s
        assert figures.gauges["cache_used_bytes"] >= len(content)
        assert {"cache_jobs", "cache_plan_bytes", "cache_memory_bytes"} <= figures.gauges.keys()
    assert read_published(session) == []
    assert list((config.dir / "stats").iterdir()) == []


def test_two_caches_of_one_directory_have_a_place_each(config, store, session):
    info = store.put("a", b"x")
    with Cache(config) as first, Cache(config) as second:
        read_all(first.open(store, info))
        read_all(second.open(store, info))
        assert len(read_published(session)) == 2
    assert read_published(session) == []


def _publish_and_wait(config, store, info, ready):
    cache = Cache(config)
    read_all(cache.open(store, info))
    ready.set()
    time.sleep(60)


def test_what_a_killed_process_leaves_is_ignored_and_then_removed(
    config, store, session, monkeypatch
):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(
        target=_publish_and_wait, args=(config, store, store.put("a", b"x"), ready)
    )
    child.start()
    assert ready.wait(30)
    assert [figures.pid for figures in read_published(session)] == [child.pid]
    child.kill()
    child.join()
    assert read_published(session) == []
    [left] = (config.dir / "stats").glob("*.json")
    monkeypatch.setattr("dataplane.cache.maintenance.process_statistics._STALE_S", 0.0)
    os.utime(left, (0, 0))
    assert read_published(session) == []
    assert not left.exists()


def test_a_forked_child_publishes_its_own(config, store, session):
    info = store.put("a", b"x")
    with Cache(config) as cache:
        blob = cache.open(store, info)
        read_all(blob)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            read_all(blob)
            os.write(writer, b"x")
            os.read(reader, 1)
            os._exit(0)
        pids: set[int] = set()
        wait_until(lambda: pids.update(f.pid for f in read_published(session)) or len(pids) == 2)
        assert pids == {os.getpid(), child}
        os.kill(child, 9)
        os.waitpid(child, 0)
        assert [figures.pid for figures in read_published(session)] == [os.getpid()]
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"3",
        b'{"version": 9}',
        b"[" * 100_000,
        json.dumps(
            {"version": 1, "pid": "x", "program": "", "started_s": 0, "written_s": 0,
             "size_bytes": None, "counters": {}, "gauges": {}}
        ).encode(),
        json.dumps(
            {"version": 1, "pid": 1, "program": "", "started_s": 0, "written_s": 0,
             "size_bytes": None, "counters": {"a": "b"}, "gauges": {}}
        ).encode(),
    ],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_passed_over(config, session, text):
    slot = session.live.take_slot()
    stats = config.dir / "stats"
    stats.mkdir()
    (stats / f"{slot}.json").write_bytes(text)
    for name in ("x.json", "99999.json", "-1.json", "٣.json", ".0.tmp", "1.json.bak"):
        (stats / name).write_text("{}")
    assert read_published(session) == []


def test_links_planted_in_the_folder_are_not_followed(config, store, session, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    stats = config.dir / "stats"
    stats.mkdir()
    for slot in range(3):
        (stats / f"{slot}.json").symlink_to(victim)
        (stats / f".{slot}.tmp").symlink_to(victim)
    with Cache(config) as cache:
        assert read_all(cache.open(store, store.put("a", b"x"))) == b"x"
        assert read_published(session) == []
    assert victim.read_text() == "precious"


def test_a_link_in_place_of_the_folder_is_not_followed(config, store, tmp_path):
    Session(config.dir).close()
    target = tmp_path / "target"
    target.mkdir()
    (config.dir / "stats").symlink_to(target)
    with Cache(config) as cache:
        assert read_all(cache.open(store, store.put("a", b"x"))) == b"x"
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/home/me/train.py", "--token", "secret"], "train.py"),
        (["/venv/bin/dataplane", "--debug", "mount", "s3://b"], "dataplane mount"),
        (["/x/dataplane/__main__.py", "warm", "s3://b"], "dataplane warm"),
        ([""], "python"),
        (["x" * 500], "x" * 100),
    ],
)
def test_a_program_is_called_by_its_name_without_its_arguments(monkeypatch, argv, expected):
    monkeypatch.setattr("sys.argv", argv)
    assert program_name() == expected
