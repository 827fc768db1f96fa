"""A cache that another release wrote: the refusal says what to type, and that frees the disk."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataplane.cache import Cache, CacheConfig
from dataplane.cache.disk.directory import Directory
from dataplane.cache.disk.other_version import remove_other_version
from dataplane.cli.cache_maintain import clear
from dataplane.errors import CacheError, ConfigError
from dataplane.stores import open_store


def dataplane(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataplane", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A filled cache, made one of version 2."""
    (tmp_path / "a.bin").write_bytes(os.urandom(100_000))
    path = tmp_path / "a cache"
    store = open_store(tmp_path)
    with Cache(CacheConfig(dir=path)) as cache:
        cache.open(store, store.head("a.bin")).read(0, 100_000)
    (path / "version").write_text("dataplane-cache 2\n")
    return path


def names(path: Path) -> set[str]:
    return {str(it.relative_to(path)) for it in path.rglob("*")}


def test_the_refusal_says_what_to_type_and_that_frees_the_disk(newer: Path) -> None:
    before = names(newer)
    refused = dataplane("cache", "clear", "--cache-dir", str(newer))
    assert refused.returncode == 5
    assert len(refused.stderr.splitlines()) == 1
    typed = refused.stderr.partition("free its disk space with: ")[2].rstrip(")\n")
    assert names(newer) == before
    done = dataplane(*shlex.split(typed)[1:], "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["version"] == 2
    assert document["freed_bytes"] >= 100_000
    assert names(newer) == set()
    assert dataplane("cache", "info", "--cache-dir", str(newer)).returncode == 0


def test_the_refusal_names_the_directory_that_a_link_leads_to(newer: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(newer)
    with pytest.raises(CacheError, match="another version") as raised:
        Directory(link)
    assert str(raised.value.hint).endswith(f"--cache-dir '{newer}'")


def test_what_a_new_file_system_has_at_its_top_stays(newer: Path) -> None:
    (newer / "lost+found").mkdir()
    assert remove_other_version(newer).kept == ()
    assert names(newer) == {"lost+found"}
    assert remove_other_version(newer).version is None


def test_a_cache_of_this_version_is_not_touched(newer: Path) -> None:
    (newer / "version").write_text("dataplane-cache 1\n")
    before = names(newer)
    done = CliRunner().invoke(clear, ["--other-version", "--cache-dir", str(newer)])
    assert done.exit_code == 0
    assert done.stderr == f"dataplane: no cache of another version is at {newer}\n"
    assert names(newer) == before


def test_all_of_a_cache_and_a_part_of_one_cannot_be_asked_for_at_once(newer: Path) -> None:
    before = names(newer)
    done = CliRunner().invoke(clear, ["s3://b", "--other-version", "--cache-dir", str(newer)])
    assert isinstance(done.exception, ConfigError)
    assert "leave URL and --pinned out" in str(done.exception)
    assert names(newer) == before


@pytest.mark.parametrize(
    "text",
    [None, b"", b"2\n", b"dataplane-cache 2", b"dataplane-cache x\n", b"dataplane-cache 0\n"],
)
def test_what_may_be_no_cache_is_left_alone(newer: Path, text: bytes | None) -> None:
    if text is None:
        (newer / "version").unlink()
    else:
        (newer / "version").write_bytes(text)
    before = names(newer)
    with pytest.raises(CacheError, match="may be no cache"):
        remove_other_version(newer)
    assert names(newer) == before


def test_names_that_no_cache_has_are_left_and_named(newer: Path) -> None:
    (newer / "thesis.tex").write_text("...")
    done = CliRunner().invoke(clear, ["--other-version", "--cache-dir", str(newer)])
    assert isinstance(done.exception, CacheError)
    assert "thesis.tex" in str(done.exception)
    # With `version` still there it is known for what it is, and the removal can be repeated.
    assert names(newer) == {"thesis.tex", "version"}


def test_links_are_removed_and_not_followed(newer: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("...")
    (newer / "stats").rename(newer / "entries" / "stats")
    (newer / "stats").symlink_to(precious)
    (newer / "entries" / "link").symlink_to(precious)
    assert remove_other_version(newer).kept == ()
    assert names(newer) == set()
    assert (precious / "file").read_text() == "..."


def test_a_directory_behind_a_link_is_not_emptied(newer: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(newer)
    before = names(newer)
    with pytest.raises(CacheError, match="name the directory itself"):
        remove_other_version(link)
    assert names(newer) == before


def test_a_cache_of_somebody_else_is_left(newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(newer)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CacheError, match="belongs to user"):
        remove_other_version(newer)
    assert names(newer) == before


def test_what_another_process_uses_stays_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(os.urandom(100_000))
    path, store = tmp_path / "cache", open_store(tmp_path)
    with Cache(CacheConfig(dir=path)) as cache:
        cache.open(store, store.head("a.bin")).read(0, 100_000)
        (path / "version").write_text("dataplane-cache 2\n")
        with pytest.raises(CacheError, match="another process uses"):
            remove_other_version(path)
        assert remove_other_version(path, in_use=True).files > 0
        assert names(path) == set()
