"""`dataplane cache` and `dataplane warm`, as a user and a script see them."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.session import Session
from dataplane.cli import main as command_line
from dataplane.stores import open_store
from dataplane_testing.s3 import S3Endpoint

MIB = 1 << 20


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def run(monkeypatch, capsys) -> Iterator[Any]:
    """Run a command line in this process, with its exit code and its error line."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dataplane", *map(str, arguments)])
        code = 0
        try:
            command_line.main()
        except SystemExit as err:
            code = int(err.code or 0)
        gc.collect()  # a command is a process, at whose end nothing is open any more
        out, err = capsys.readouterr()
        return Done(code, out, err)

    yield run
    logging.getLogger().handlers.clear()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three objects of 9 MB."""
    folder = tmp_path / "sims"
    folder.mkdir()
    for name in ("a.bin", "b.bin", "sub/c.bin"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(9_000_000))
    return folder


@pytest.fixture
def cache_dir(tmp_path) -> Path:
    return tmp_path / "cache"  # what DATAPLANE_CACHE_DIR says


def failed(done: Done, code: int, *words: str) -> None:
    assert done.code == code, done
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("dataplane: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_warm_then_check_then_read_without_the_store(run, folder, cache_dir):
    cold = run("warm", folder, "--check", "--json")
    assert (cold.code, cold.document["missing_bytes"]) == (1, 27_000_000)
    assert {row["key"] for row in cold.document["missing"]} == {"a.bin", "b.bin", "sub/c.bin"}
    done = run("warm", folder, "--json")
    assert done.code == 0
    assert (done.document["fetched_bytes"], done.document["missing_bytes"]) == (27_000_000, 0)
    assert run("warm", folder, "--check").code == 0
    assert run("warm", folder).out.splitlines() == [
        "25.7 MiB of 3 objects: all was in the cache, nothing fetched"
    ]
    store = open_store(folder)
    with Cache(CacheConfig(dir=cache_dir)) as cache:
        for info in store.list():
            blob = cache.open(store, info)
            assert bytes(blob.read(0, info.size_bytes)) == (folder / info.key).read_bytes()
        assert cache.counters["cache_fetch_bytes"] == 0
    assert store.counters["store_get_bytes"] == 0


def test_warm_takes_prefixes_one_object_or_a_plan(run, folder, tmp_path):
    assert run("warm", folder, "--prefix", "sub/", "--json").document["objects"] == 1
    assert run("warm", folder / "a.bin", "--json").document["fetched_bytes"] == 9_000_000
    plan = tmp_path / "plan.txt"
    plan.write_text(
        '# two reads\n\nb.bin 8500000 8500001\n{"key": "b.bin", "start": 0, "stop": 1}\n'
    )
    assert run("warm", folder, "--plan", plan, "--json").document["fetched_bytes"] == 9_000_000 - (
        4 * MIB
    )
    left = run("warm", folder, "--check", "--json").document
    assert (left["missing"], left["missing_bytes"]) == (
        [{"key": "b.bin", "bytes": 4 * MIB}],
        4 * MIB,
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.bin 5 4", ("line 1", "5 to 4")),
        ("a.bin 0 1\nok.bin\n", ("no object 'ok.bin'", "plan.txt, line 2")),
        ("a.bin 500", ("no object 'a.bin 500'", "plan.txt, line 1", "KEY START STOP")),
        ("a.bin 0-100", ("no object 'a.bin 0-100'", "plan.txt, line 1", "KEY START STOP")),
        ("a.bin 0 9000001", ("line 1", "9000000 bytes")),
        ("a.bin 0 99999999999999999999999", ("line 1", "no range")),
        ("a.bin\n{", ("line 2", "JSON")),
        ('{"key": 3}', ("line 1", "no key")),
        ('{"key": "a.bin", "start": "0"}', ("line 1", "start")),
        ('{"key": "a.bin", "stop": true}', ("line 1", "stop")),
        ('{"key": "a.bin", "length": 3}', ("line 1", "'length'")),
        ('{"key": "a.bin", "start": -1}', ("line 1", "-1")),
        ("x" * 20_000, ("line 1", "16384")),
        ("{" * 10_000, ("line 1", "JSON")),
    ],
)
def test_a_bad_line_of_a_plan_is_named(run, folder, tmp_path, text, words):
    plan = tmp_path / "plan.txt"
    plan.write_text(text)
    done = run("warm", folder, "--plan", plan)
    failed(done, 3 if words[0].startswith("no object") else 4, *words)


def test_a_plan_that_is_not_text_is_refused(run, folder, tmp_path):
    plan = tmp_path / "plan.txt"
    plan.write_bytes(b"\xff\xfe\x00")
    failed(run("warm", folder, "--plan", plan), 4, "UTF-8")


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("warm", "{folder}/nothing"), 3, "nothing"),
        (("warm", "{folder}", "--prefix", "zzz"), 3, "'zzz'"),
        (("warm", "{folder}", "--cache-size", "5MiB"), 5, "do not fit"),
        (("cache", "info"), 5, "there is no cache"),
        (("cache", "verify"), 5, "there is no cache"),
        (("cache", "clear"), 5, "there is no cache"),
        (("cache", "gc", "--max-age", "soon"), 2, "not a duration"),
        (("cache", "unpin"), 2, "name a URL"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, folder, arguments, code, word):
    failed(run(*(text.format(folder=folder) for text in arguments)), code, word)


def test_only_commands_that_touch_blocks_offer_to_seal_them(run):
    for command in (("cache", "info"), ("cache", "gc")):
        done = run(*command, "--encrypt-cache")
        assert done.code == 2
        assert "No such option" in done.err
    for command in ("warm", "mount"):
        assert "--encrypt-cache" in run(command, "--help").out


def test_info_and_ls_tell_what_is_there(run, folder, cache_dir):
    run("warm", folder)
    with Cache(CacheConfig(dir=cache_dir)) as cache:
        used = cache.usage_bytes()
    info = run("cache", "info", "--json").document
    assert info["used_bytes"] == used
    assert (info["entries"], info["complete_entries"]) == (3, 3)
    assert info["resident_bytes"] == info["object_bytes"] == 27_000_000
    assert info["stores"][0]["store"] == "file://"
    assert "25.7 MiB of 25.7 MiB" in run("cache", "info").out
    rows = run("cache", "ls", folder / "sub", "--json").document
    assert rows["total"] == 1
    assert rows["entries"][0]["key"] == str(folder / "sub/c.bin").lstrip("/")
    assert 0 <= time.time() - rows["entries"][0]["last_used_s"] < 60
    listed = run("cache", "ls", "--sort", "key", "--limit", "2")
    assert [line.split("/")[-1].strip() for line in listed.out.splitlines()[1:3]] == [
        "a.bin",
        "b.bin",
    ]
    assert "2 of 3 shown" in listed.out


def test_info_says_when_bytes_in_use_are_to_be_counted_again(run, folder, cache_dir, monkeypatch):
    run("warm", folder)
    assert run("cache", "info", "--json").document["is_counted"]
    assert "counted" not in run("cache", "info").out
    monkeypatch.setattr("dataplane.cache.disk.session.MANY_ENTRIES", 0)
    session = Session(cache_dir)
    session.close()
    session.usage.dirty = True  # as a killed process leaves it
    assert not run("cache", "info", "--json").document["is_counted"]
    assert "to be counted again after an unclean stop" in run("cache", "info").out
    run("cache", "gc")
    assert run("cache", "info", "--json").document["is_counted"]


def test_a_flipped_byte_is_found_and_fetched_again(run, folder, cache_dir):
    run("warm", folder)
    clean = run("cache", "verify", "--json")
    assert (clean.code, clean.document["blocks"], clean.document["corrupt_blocks"]) == (0, 9, 0)
    data = sorted(cache_dir.glob("entries/*/*.data"))[0]
    with data.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, 5 * MIB)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), 5 * MIB)
    found = run("cache", "verify", "--json")
    assert found.document["corrupt_blocks"] == 1
    assert (found.document["bad"][0]["start"], found.document["bad"][0]["stop"]) == (
        4 * MIB,
        8 * MIB,
    )
    failed(found, 5, "1 of 9 blocks")
    assert run("warm", folder, "--json").document["fetched_bytes"] == 4 * MIB
    assert run("cache", "verify").code == 0


def test_a_pin_spares_an_object_from_gc_and_clear(run, folder):
    run("warm", folder)
    pinned = run("cache", "pin", folder / "sub", "--json").document
    assert (pinned["state"], pinned["entries"], pinned["resident_bytes"]) == (
        "pinned",
        1,
        9_000_000,
    )
    assert "already" in run("cache", "pin", folder / "sub").out
    done = run("cache", "gc", "--cache-size", "4MiB", "--json")
    assert done.document["blocks"] == 6
    failed(done, 5, "still used")
    assert "pin" in run("cache", "ls").out.split("object")[1]
    kept = run("cache", "clear", "--json")
    assert kept.document["kept_pinned"] == 1
    failed(kept, 5, "1 object of 8.58 MiB stayed", "1 pinned", "--pinned")
    kept = run("cache", "gc", "--max-age", "0s")
    assert (kept.code, kept.out.splitlines()[-1]) == (0, "left 1 object: pinned")
    failed(run("cache", "unpin", folder), 2, "is not pinned", "sub")
    assert run("cache", "unpin", folder / "sub").code == 0
    assert run("cache", "clear", "--json").document["entries"] == 1
    assert run("cache", "info", "--json").document["used_bytes"] == 0


def test_gc_says_when_pins_keep_it_from_leaving_room_on_the_disk(run, folder, monkeypatch):
    monkeypatch.setattr(
        "dataplane.cache.eviction.budget._FREE_SHARE", 1
    )  # all of the disk is to be free
    run("warm", folder / "a.bin", "--cache-size", "1GiB")
    run("cache", "pin", folder)
    done = run("cache", "gc", "--json")
    assert done.document["over_bytes"] == done.document["used_bytes"] > 9_000_000
    failed(done, 5, "a tenth of the disk is to stay free", "pinned")
    run("cache", "unpin", "--all")
    done = run("cache", "gc", "--json")  # the disk is as full as before, but not with the cache
    assert (done.code, done.document["over_bytes"]) == (0, 0)


def test_pins_by_prefix_and_taking_all_back(run, folder):
    run("warm", folder)
    assert run("cache", "pin", folder, "--prefix", "a", "--json").document["entries"] == 1
    assert run("cache", "pin", "s3://bucket/cars").code == 0
    assert len(run("cache", "info", "--json").document["pins"]) == 2
    assert run("cache", "unpin", "--all", "--json").document == {"unpinned": 2}
    assert run("cache", "info", "--json").document["pins"] == []


def test_urls_of_pins_are_whole_in_json_and_marked_for_people(run, folder, cache_dir):
    run("cache", "pin", folder, "--prefix", "a")
    pin = run("cache", "info", "--json").document["pins"][0]
    assert (pin["url"], pin["is_prefix"]) == (f"{folder}/a", True)
    assert f"{folder}/a…" in run("cache", "info").out
    kept = cache_dir / "pins.json"
    document = json.loads(kept.read_text())
    document["pins"][0]["url"] += "…"  # as earlier releases wrote it
    kept.write_text(json.dumps(document))
    assert run("cache", "info", "--json").document["pins"][0]["url"] == f"{folder}/a"
    assert f"{folder}/a…" in run("cache", "info").out
    assert "……" not in run("cache", "info").out
    failed(run("cache", "unpin", folder), 2, f"pinned are {folder}/a…")
    assert run("cache", "unpin", folder, "--prefix", "a", "--json").document["url"] == (
        f"{folder}/a"
    )


def test_what_ls_prints_of_an_s3_server_can_be_given_back(run, monkeypatch, cache_dir):
    with S3Endpoint(in_process=True, buckets=("sims",)) as endpoint:
        for name in ("cars/a", "cars/b", "cars2/c"):
            endpoint.put("sims", name, name.encode() * 1000)
        for name, value in endpoint.environment().items():
            monkeypatch.setenv(name, value)
        run("warm", "s3://sims")
        run("cache", "pin", "s3://sims/cars", "--prefix", "b")
        for name in endpoint.environment():
            monkeypatch.delenv(name)
        cars = f"s3+{endpoint.url}/sims/cars"
        assert f"{cars}/a" in run("cache", "ls").out
        rows = run("cache", "ls", cars, "--json").document["entries"]
        assert {row["key"] for row in rows} == {"cars/a", "cars/b"}
        assert run("cache", "verify", f"{cars}/a", "--json").document["entries"] == 1
        assert run("cache", "unpin", cars, "--prefix", "b").code == 0
        assert run("cache", "clear", cars, "--json").document["entries"] == 2
        failed(run("cache", "clear", cars), 0, f"nothing of {cars} is in the cache")
        other = "s3+http://127.0.0.1:1/sims/cars"
        failed(run("cache", "ls", other), 0, f"nothing of {other} is in the cache")
        assert run("cache", "info", "--json").document["entries"] == 1
        for command in (("warm",), ("cache", "pin")):
            failed(run(*command, cars), 2, f"s3://sims/cars with --endpoint-url {endpoint.url}")


def test_clear_leaves_what_others_read_unless_forced(run, folder, cache_dir):
    run("warm", folder)
    store = open_store(folder)
    with Cache(CacheConfig(dir=cache_dir)) as reading:
        blob = reading.open(store, store.head("a.bin"))
        blob.read(0, 1)
        done = run("cache", "clear")
        failed(done, 5, "1 in use by other processes", "--force")
        assert blob.is_complete()
        assert run("cache", "clear", "--force").code == 0
        assert bytes(blob.read(0, 100)) == (folder / "a.bin").read_bytes()[:100]


def test_what_the_cache_holds_nothing_of_is_said_and_is_no_failure(run, folder, cache_dir):
    run("warm", folder)
    for command in ("ls", "verify", "clear"):
        for options in ((), ("--json",)):
            done = run("cache", command, "s3://typo/cars", *options)
            failed(done, 0, f"nothing of s3://typo/cars is in the cache {cache_dir}")
            assert (done.out == "") == (options == ())
    assert run("cache", "ls", "s3://typo/cars", "--json").document == {"entries": [], "total": 0}
    assert run("cache", "info", "--json").document["entries"] == 3
    done = run("cache", "clear", folder)
    assert (done.code, done.err) == (0, "")
    failed(run("cache", "ls"), 0, f"nothing is in the cache {cache_dir}")


def test_a_check_makes_no_cache(run, folder, tmp_path, cache_dir):
    done = run("warm", folder, "--check", "--json")
    assert (done.code, done.document["missing_bytes"]) == (1, 27_000_000)
    assert not cache_dir.exists()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    failed(run("warm", folder, "--check", "--cache-dir", tmp_path / "link"), 5, "symbolic link")


def test_a_relative_cache_directory_stays_where_it_was_named(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("warm", folder / "a.bin", "--cache-dir", "here").code == 0
    document = run("cache", "info", "--json", "--cache-dir", "here").document
    assert (document["dir"], document["entries"]) == (str(tmp_path / "here"), 1)
    monkeypatch.setenv("DATAPLANE_CACHE_DIR", "here")
    assert run("cache", "info", "--json").document["dir"] == str(tmp_path / "here")


def test_old_blocks_are_collected(run, folder):
    run("warm", folder)
    assert run("cache", "gc", "--max-age", "1h", "--json").document["blocks"] == 0
    assert run("cache", "gc", "--max-age", "0s", "--json").document["blocks"] == 9


def test_ctrl_c_ends_warming_with_130_and_keeps_what_came(tmp_path, cache_dir):
    """An object of 8 GiB, so that there is something to interrupt."""
    folder = tmp_path / "large"
    folder.mkdir()
    with (folder / "large.bin").open("wb") as file:
        file.truncate(8 << 30)  # sparse
    done = subprocess.Popen(
        [sys.executable, "-m", "dataplane", "warm", str(folder), "--cache-dir", str(cache_dir)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(path.stat().st_blocks > 1000 for path in cache_dir.glob("entries/*/*.data")):
            break
        time.sleep(0.01)
    done.send_signal(2)
    _, err = done.communicate(timeout=30)
    assert done.returncode == 130
    assert err.strip() == "dataplane: interrupted"
    data = next(iter(cache_dir.glob("entries/*/*.data")))
    assert 0 < data.stat().st_blocks * 512 < 8 << 30


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("command", [("cache", "info"), ("cache", "clear"), ("stats", "--once")])
def test_a_directory_of_another_user_is_refused_and_left(run, cache_dir, command):
    cache_dir.mkdir()
    (cache_dir / "version").write_text("dataplane-cache 1\n")
    os.chown(cache_dir, 12_345, 12_345)
    failed(run(*command), 5, "belongs to user 12345")
    assert [path.name for path in cache_dir.iterdir()] == ["version"]


def test_a_warm_into_a_directory_that_is_no_cache_is_refused(run, folder, tmp_path):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("...")
    failed(run("warm", folder, "--cache-dir", other), 5, "'chapter1.tex'")
    assert [path.name for path in other.iterdir()] == ["chapter1.tex"]
