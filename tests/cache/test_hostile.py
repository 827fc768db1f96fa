"""Names and files made to do harm: nothing outside is touched, and bytes stay right."""

from __future__ import annotations

import json
import os
import stat

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.entry_identity import Scope
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cache.eviction.inventory import walk
from dataplane.cache.maintenance.cleanup import clear
from dataplane.cache.maintenance.verify import verify
from tests.cache.fakes import BLOCK, map_files, read_all, wait_until

HOSTILE = [
    "..",
    "../../../etc/passwd",
    "a/../../b",
    "/etc/passwd",
    "//etc//passwd",
    "",
    ".",
    "./a",
    "a//b",
    "a/",
    "trailing.",
    "trailing ",
    "trailing...   ",
    "CON",
    "NUL\x00byte",
    "new\nline",
    "cr\r\nlf",
    "tab\tand\x1b[31mescape\x07",
    "x" * 4096,
    "\U0001f4a9" * 1024,
    "e\u0301",  # the same to the eye as the next, another key
    "\u00e9",
    "\u202etxt.exe",  # right-to-left override
    "\ufeffbom",
    "\u2024\u2024/one-dot-leaders",
    "full\uff0fwidth\uff0fslash",
    "lone\udcff surrogate",
    "%2e%2e%2f",
    "~root",
    "$(touch /tmp/x)`id`;|&",
    "-rf",
    "version",
    "lock",
    "entries/00/x.map",
    "'; DROP TABLE entry; --",
    '{"json": "in a key"}',
]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_hostile_keys_are_read_right_and_become_no_paths(config, store, tmp_path, monkeypatch):
    """All of them in one cache, so that a mix-up of two would show."""
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    contents = {key: os.urandom(BLOCK + 7) for key in HOSTILE}
    infos = {key: store.put(key, content) for key, content in contents.items()}
    outside = [path for path in tree(tmp_path) if not path.startswith("cache")]
    with Cache(config) as cache:
        for _ in range(2):
            for key, content in contents.items():
                assert read_all(cache.open(store, infos[key])) == content, ascii(key)
        assert cache.counters["cache_fetches"] == 2 * len(HOSTILE)
        assert cache.counters["cache_passthrough_reads"] == 0
        assert len(map_files(config.dir)) == len(HOSTILE)
    for path in config.dir.rglob("*"):
        assert path.relative_to(config.dir).as_posix().isascii()
        assert stat.S_ISDIR(path.lstat().st_mode) or stat.S_ISREG(path.lstat().st_mode)
    kept = [path for path in tree(tmp_path) if not path.startswith(("cache", "objects/log"))]
    assert kept == [path for path in outside if not path.startswith("objects/log")]


def test_hostile_keys_go_through_listing_checking_pinning_and_clearing(config, store):
    with Cache(config) as cache:
        for key in HOSTILE:
            read_all(cache.open(store, store.put(key, b"content")))
    session = Session(config.dir)
    try:
        catalog = Catalog(session.directory)
        catalog.refresh(session)
        rows, _ = catalog.rows()
        assert {row.name: row for row in rows} == {row.name: row for row in walk(session)}
        keys = {row.identity.key for row in rows if not row.identity.cut}
        assert keys >= {key for key in HOSTILE if len(key) < 300}
        assert verify(session).corrupt_blocks == 0
        for key in HOSTILE:
            assert session.pins.add(Scope("test://bucket", key), key)
        assert {pin.scope.key for pin in session.pins.load()} == set(HOSTILE)
        assert clear(session).kept_pinned == len(HOSTILE)  # "" covers the whole store
        assert clear(session, pinned=True).entries == len(HOSTILE)
    finally:
        session.close()


def test_two_keys_or_versions_never_share_an_entry(config, store):
    from dataplane.stores.base import ObjectInfo

    with Cache(config) as cache:
        variants = [
            ObjectInfo("a", 10, "bc"),
            ObjectInfo("ab", 10, "c"),
            ObjectInfo("a", 1, "0bc"),
            ObjectInfo("a\x00", 10, "bc"),
        ]
        assert len({cache.open(store, info).name for info in variants}) == len(variants)


@pytest.mark.parametrize("where", ["entries/{}", "entries/{}/{}.map", "entries/{}/{}.data"])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "fifo"])
def test_what_is_planted_in_the_place_of_an_entry_is_harmless(config, store, tmp_path, where, kind):
    content = os.urandom(3 * BLOCK)
    info = store.put("a", content)
    with Cache(config) as cache:
        name = cache.open(store, info).name
    Session(config.dir).close()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_bytes(b"precious")
    place = config.dir / where.format(name[:2], name)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    if kind == "link":
        place.symlink_to(victim if where.endswith("{}") else victim / "precious")
    elif kind == "dangling":
        place.symlink_to(tmp_path / "nowhere" / "at all")
    elif kind == "folder":
        place.mkdir()
        (place / "x").write_text("x")
    else:
        os.mkfifo(place)
    with Cache(config) as cache:
        blob = cache.open(store, info)
        assert read_all(blob) == content
        assert read_all(blob) == content
    session = Session(config.dir)
    verify(session)
    clear(session)
    session.close()
    assert tree(victim) == ["precious"]
    assert (victim / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_planted_things_do_not_stop_eviction(store, tmp_path):
    config = CacheConfig(dir=tmp_path / "c", block_bytes=BLOCK, size_bytes=30 * BLOCK)
    Session(config.dir).close()
    for number, plant in enumerate((os.mkdir, os.mkfifo, lambda path: os.symlink("x", path))):
        name = f"{number:02d}" * 20
        folder = config.dir / "entries" / name[:2]
        folder.mkdir()
        plant(folder / f"{name}.map")
    with Cache(config) as cache:
        for key in "abc":
            blob = cache.open(store, store.put(key, os.urandom(20 * BLOCK)))
            read_all(blob)
            wait_until(blob.is_complete)
        assert cache.counters["cache_passthrough_reads"] == 0
        assert cache.usage_bytes() <= config.size_bytes


def test_names_that_are_no_entries_are_passed_over_and_left(config, store):
    with Cache(config) as cache:
        read_all(cache.open(store, store.put("a", b"x")))
    [real] = map_files(config.dir)
    foreign = [
        real.parent / "notes.map",
        real.parent / ("z" * 39 + ".map"),
        real.parent / ("f" * 300)[:200],
        config.dir / "entries" / "zz",
        config.dir / "entries" / "file",
    ]
    foreign[3].mkdir()
    for path in (*foreign[:3], foreign[4], foreign[3] / f"{'zz' * 20}.map"):
        path.write_text("mine")
    session = Session(config.dir)
    assert [row.name for row in walk(session)] == [real.stem]
    assert verify(session).entries == 1
    Catalog(session.directory).refresh(session)
    assert clear(session).entries == 1
    session.close()
    assert all(path.exists() for path in foreign)


def test_an_entry_of_another_name_does_not_pass_for_this_one(config, store):
    """Files copied over another entry's: whole by themselves, and not what was asked for."""
    first, second = store.put("a", b"A" * 5000), store.put("b", b"B" * 5000)
    with Cache(config) as cache:
        for info in (first, second):
            read_all(cache.open(store, info))
        names = [cache.open(store, info).name for info in (first, second)]
    for kind in ("map", "data"):
        source, target = (config.dir / f"entries/{n[:2]}/{n}.{kind}" for n in names)
        target.write_bytes(source.read_bytes())
    with Cache(config) as cache:
        assert read_all(cache.open(store, second)) == b"B" * 5000


@pytest.mark.parametrize("name", ["live", "stats", "pins.json", "catalog.sqlite"])
@pytest.mark.parametrize("kind", ["link", "folder", "file"])
def test_strange_things_beside_the_entries_never_stop_a_read(
    config, store, tmp_path, name, kind, caplog
):
    Session(config.dir).close()
    place, victim = config.dir / name, tmp_path / "victim"
    if place.is_dir():
        place.rmdir()
    place.unlink(missing_ok=True)
    victim.write_bytes(b"precious")
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_bytes(os.urandom(100))
    content = os.urandom(BLOCK)
    with Cache(config) as cache:
        assert read_all(cache.open(store, store.put("a", content))) == content
    assert victim.read_bytes() == b"precious"


def test_a_map_whose_identity_lies_is_shown_as_it_is_and_believed_in_nothing(config, store):
    """The identity is for people; the bytes that a reader gets come by the name."""
    info = store.put("a", b"content")
    with Cache(config) as cache:
        blob = cache.open(store, info)
        read_all(blob)
        lying = cache.open(store, store.put("b", b"other"))
        spec = lying.spec
    from dataplane import _native

    [path] = map_files(config.dir)
    lie = json.dumps({"store": "\x1b[31m", "key": "/etc/passwd\n", "etag": 3}).encode()
    path.unlink()
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    _native.BlockMap.create(
        fd, block_bytes=BLOCK, size_bytes=7, key=bytes.fromhex(path.stem), identity=lie
    )
    os.close(fd)
    session = Session(config.dir)
    [row] = walk(session)
    session.close()
    assert (row.identity.key, row.identity.etag) == ("/etc/passwd\n", "3")
    with Cache(config) as cache:
        assert read_all(cache.open(store, info)) == b"content"
    assert spec.key == "b"
