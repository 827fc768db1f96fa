"""One cache for the users of a group: both read and fill it, and nobody else may look."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk import locks
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.session import Session
from dataplane.cache.permissions import open_in_group
from dataplane.config import assemble
from dataplane.errors import CacheError, ConfigError
from tests.cache.fakes import BLOCK, FolderStore, read_all

ANN, BEN, EVE = 61_001, 61_002, 61_003
TEAM, OTHERS = 62_001, 62_002
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes several users: needs root")

# Processes of other users. What Python imports may lie where only the first user can read, so all
# of that happens before one of them becomes somebody else.
_PEOPLE = """
import json, os, sys
from pathlib import Path
from dataplane.cache import Cache, CacheConfig
from dataplane.stores import open_store

here, people = Path(sys.argv[1]), json.loads(sys.argv[2])
store = open_store(here / "objects")
with Cache(CacheConfig(dir=here / "warm-up", block_bytes=4096)) as cache:
    cache.open(store, store.head("a")).read(0, 1)

def read(user, group, umask, budget, keys):
    os.setgroups([group])
    os.setresgid(user, user, user)  # a primary group of one's own, as most users have
    os.setresuid(user, user, user)
    os.umask(umask)
    config = CacheConfig(dir=here / "cache", block_bytes=4096, sharing="group", size_bytes=budget)
    with Cache(config) as cache:
        for key in keys:
            expected = (here / "objects" / key).read_bytes()
            assert bytes(cache.open(store, store.head(key)).read(0, len(expected))) == expected
        names = ("fetches", "hits", "passthrough_reads", "evicted_blocks")
        figures = [int(cache.counters[f"cache_{name}"]) for name in names]
        line = json.dumps([*figures, cache.usage_bytes()]) + chr(10)
        os.write(1, line.encode())

def start(person):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        read(*person)
        code = 0
    finally:
        os._exit(code)

children = []
for together in people:  # those who read at the same time
    children = [start(person) for person in together]
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("one of them failed")
"""


@pytest.fixture
def here() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is closed to others."""
    path = Path(tempfile.mkdtemp(prefix="dataplane-sharing-"))
    path.chmod(0o755)
    (path / "objects").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def shared(here: Path) -> Path:
    """What an administrator makes: install -d -m 2770 -g TEAM."""
    path = here / "cache"
    path.mkdir()
    os.chown(path, -1, TEAM)
    path.chmod(0o2770)
    return path


@dataclass(frozen=True)
class Figures:
    """What one user's process has counted."""

    fetches: int
    hits: int
    past_the_cache: int
    evicted: int
    used_bytes: int


def person(
    user: int, keys: str, *, group: int = TEAM, umask: int = 0o077, budget: int | None = None
) -> list[object]:
    return [user, group, umask, budget, list(keys)]


def read_as(here: Path, *people: list[list[object]]) -> tuple[list[Figures], str]:
    """Let users read, list after list; those in one list at the same time."""
    done = subprocess.run(
        [sys.executable, "-c", _PEOPLE, str(here), json.dumps(people)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Figures(*json.loads(line)) for line in done.stdout.splitlines()], done.stderr


def objects(here: Path, **sizes: int) -> None:
    for key, size in sizes.items():
        (here / "objects" / key).write_bytes(os.urandom(size))


@needs_root
def test_what_one_user_has_fetched_the_other_reads_and_adds_to(here: Path, shared: Path) -> None:
    objects(here, a=10 * BLOCK, b=5 * BLOCK, c=3 * BLOCK)
    figures, warnings = read_as(
        here,
        [person(ANN, "a", umask=0o077)],
        [person(BEN, "ab", umask=0o022)],
        [person(ANN, "abc")],
    )
    assert [it.fetches for it in figures] == [10, 5, 3]
    assert [it.past_the_cache for it in figures] == [0, 0, 0]
    assert figures[1].hits > 0
    assert warnings == ""
    modes = {
        (path.is_dir(), stat.S_IMODE(path.lstat().st_mode), path.lstat().st_gid)
        for path in [shared, *shared.rglob("*")]
    }
    assert modes == {(True, 0o2770, TEAM), (False, 0o660, TEAM)}
    assert {path.stat().st_uid for path in shared.glob("entries/*/*.data")} == {ANN, BEN}


@needs_root
def test_the_budget_holds_over_the_users_and_each_evicts_what_the_other_made(
    here: Path, shared: Path
) -> None:
    objects(here, a=40 * BLOCK, b=40 * BLOCK)
    budget = 60 * BLOCK
    figures, warnings = read_as(
        here,
        [person(ANN, "a", budget=budget)],
        [person(BEN, "b", budget=budget)],
        [person(ANN, "abab", budget=budget), person(BEN, "baba", budget=budget)],
    )
    assert figures[0].evicted == 0
    assert figures[1].evicted >= 20
    # Together, one may evict a block that the other has filled before the first could copy it.
    assert [it.past_the_cache for it in figures[:2]] == [0, 0]
    assert all(it.past_the_cache < it.fetches for it in figures[2:])
    assert warnings == ""
    on_disk = sum(path.stat().st_blocks * 512 for path in shared.glob("entries/*/*"))
    assert on_disk <= budget + 2 * BLOCK  # each file may need a block to list its extents
    with closing(Session(shared, sharing="group")) as session:
        assert session.usage.used <= budget
        assert not session.usage.uncounted


@needs_root
def test_a_cache_that_a_user_makes_is_the_groups_from_the_start(here: Path) -> None:
    objects(here, a=BLOCK)
    os.chown(here, -1, TEAM)
    here.chmod(0o2775)
    figures, warnings = read_as(here, [person(ANN, "a")], [person(BEN, "a")])
    assert [it.fetches for it in figures] == [1, 0]
    assert warnings == ""
    assert stat.S_IMODE((here / "cache").stat().st_mode) == 0o2770


@needs_root
def test_who_is_not_in_the_group_reads_past_it(here: Path, shared: Path) -> None:
    objects(here, a=BLOCK)
    [ann, eve], warnings = read_as(here, [person(ANN, "a")], [person(EVE, "a", group=OTHERS)])
    assert (ann.past_the_cache, eve.past_the_cache) == (0, 1)
    assert "Permission denied" in warnings


@needs_root
def test_a_directory_that_is_open_to_others_is_refused(here: Path, shared: Path) -> None:
    objects(here, a=BLOCK)
    shared.chmod(0o2777)
    [ann], warnings = read_as(here, [person(ANN, "a")])
    assert ann.past_the_cache == 1
    assert "has mode 2777, expected 2770" in warnings


def test_a_group_may_be_of_one(tmp_path: Path, store: FolderStore, content: bytes) -> None:
    config = CacheConfig(dir=tmp_path / "cache", block_bytes=BLOCK, sharing="group")
    info = store.put("a", content)
    for fetches in (11, 0):
        with Cache(config) as cache:
            assert read_all(cache.open(store, info)) == content
            assert cache.counters["cache_fetches"] == fetches
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o2770


def test_a_private_cache_is_not_opened_to_a_group(config: CacheConfig) -> None:
    Directory(config.dir).close()
    with pytest.raises(CacheError, match="mode 0700, expected 2770") as raised:
        Directory(config.dir, sharing="group")
    assert "install -d -m 2770 -g GROUP" in str(raised.value.hint)
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o700


def test_a_groups_cache_is_not_closed_by_a_private_process(config: CacheConfig) -> None:
    Directory(config.dir, sharing="group").close()
    with pytest.raises(CacheError, match=r"is that of group \d+ .*, not private") as raised:
        Directory(config.dir)
    assert "DATAPLANE_CACHE_SHARING=group" in str(raised.value.hint)
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o2770


@pytest.mark.parametrize("through_link", [False, True])
def test_an_empty_directory_prepared_for_a_group_is_not_made_private(
    tmp_path: Path, through_link: bool
) -> None:
    prepared = tmp_path / "cache"
    prepared.mkdir()
    prepared.chmod(0o2770)
    path = prepared
    if through_link:
        path = tmp_path / "link"
        path.symlink_to(prepared)
    with pytest.raises(CacheError, match=r"that of group \d+ \(mode 2770\), not private") as raised:
        Directory(path)
    assert "set DATAPLANE_CACHE_SHARING=group" in str(raised.value.hint)
    assert "choose another" in str(raised.value.hint)
    assert stat.S_IMODE(prepared.stat().st_mode) == 0o2770
    assert list(prepared.iterdir()) == []
    Directory(path, sharing="group").close()


def test_a_directory_that_becomes_a_groups_while_a_private_process_waits_stays_so(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.dir.mkdir(mode=0o755)
    real_hold = locks.hold

    def hold(dir_fd, byte, *, wait=True):
        config.dir.chmod(0o2770)
        return real_hold(dir_fd, byte, wait=wait)

    monkeypatch.setattr(locks, "hold", hold)
    with pytest.raises(CacheError, match="not private"):
        Directory(config.dir)
    assert stat.S_IMODE(config.dir.stat().st_mode) == 0o2770


@pytest.mark.parametrize("name", ["stats", "entries", "entries/2a", "lock"])
def test_a_mode_that_a_killed_process_has_not_set_is_set_by_its_owners_next(
    config: CacheConfig, name: str
) -> None:
    Directory(config.dir, sharing="group").close()
    place = config.dir / name
    expected = stat.S_IMODE(place.stat().st_mode)
    place.chmod(0o2700 if place.is_dir() else 0o600)
    with closing(Session(config.dir, sharing="group")) as session:
        locks.close_descriptor(session.directory.open_folder("stats"))
        with session.directory.shard("2a" + 62 * "0", create=True):
            pass
    assert stat.S_IMODE(place.stat().st_mode) == expected


def test_a_directory_of_a_foreign_group_is_refused(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    Directory(config.dir, sharing="group").close()
    monkeypatch.setattr(os, "geteuid", lambda: EVE)
    monkeypatch.setattr(os, "getegid", lambda: OTHERS)
    monkeypatch.setattr(os, "getgroups", lambda: [OTHERS])
    with pytest.raises(CacheError, match=f"of which user {EVE} is no member"):
        Directory(config.dir, sharing="group")


def _mode_of_lock(config: CacheConfig) -> int:
    """Make a group's directory under a strict umask; return the mode of its lock file."""
    old = os.umask(0o077)
    try:
        Directory(config.dir, sharing="group").close()
    finally:
        os.umask(old)
    return stat.S_IMODE((config.dir / "lock").stat().st_mode)


def test_files_get_their_mode_on_a_file_system_without_unnamed_files(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def no_unnamed(path, flags, mode=0o777, *, dir_fd=None):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "not supported")
        return real_open(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", no_unnamed)
    assert _mode_of_lock(config) == 0o660


def test_files_get_their_mode_without_proc(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_link = os.link

    def no_proc(source, name, **options):
        if str(source).startswith("/proc/"):
            raise FileNotFoundError(2, "No such file or directory", source)
        real_link(source, name, **options)

    monkeypatch.setattr(os, "link", no_proc)
    assert _mode_of_lock(config) == 0o660


def test_a_mode_that_cannot_be_set_leaves_no_file_open(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    Directory(config.dir, sharing="group").close()
    (config.dir / "lock").chmod(0o600)

    def read_only(fd, mode):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fchmod", read_only)
    before = len(os.listdir("/proc/self/fd"))
    folder = os.open(config.dir, os.O_RDONLY)
    with pytest.raises(OSError, match="Read-only"):
        open_in_group("lock", os.O_RDWR | os.O_CREAT, folder)
    os.close(folder)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_setting_is_one_of_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLANE_CACHE_SHARING", "group")
    assert assemble(CacheConfig, "cache").value.sharing == "group"
    monkeypatch.setenv("DATAPLANE_CACHE_SHARING", "everyone")
    with pytest.raises(ConfigError, match=r'"private" or "group", got \'everyone\''):
        assemble(CacheConfig, "cache")
    with pytest.raises(ConfigError, match="got 'all'"):
        CacheConfig(sharing="all")  # type: ignore[arg-type]
