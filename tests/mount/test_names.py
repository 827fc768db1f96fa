"""Keys that cannot be file names are hidden, told of once, and never escape."""

from __future__ import annotations

import errno

import pytest

from dataplane_fuse.filesystem import Filesystem, FilesystemOptions
from dataplane_fuse.names import why_not_a_name
from tests.mount.fakes import FakeBlocks, FakeStore


def mount(*keys: str, **contents: bytes) -> Filesystem:
    store = FakeStore(dict.fromkeys(keys, b"content") | contents)
    return Filesystem(store, FakeBlocks(store))


def names(fs: Filesystem, path: str = "") -> set[str]:
    return {name for name, _ in fs.readdir(path)}


def is_absent(fs: Filesystem, path: str) -> bool:
    try:
        fs.getattr(path)
    except OSError as err:
        return err.errno == errno.ENOENT
    return False


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a b,c.vtu",
        "ünï/…".partition("/")[0],
        "日本語",
        "a\\b",
        "new\nline",
        "-rf",
        "~",
        "x" * 255,
        "caf\udce9.bin",
        "\udcff" * 255,
    ],
)
def test_ordinary_and_odd_names_are_shown_as_they_are(name: str) -> None:
    assert why_not_a_name(name) is None
    fs = mount(f"dir/{name}")
    assert names(fs, "dir") == {name}
    assert fs.getattr(f"dir/{name}").size_bytes == 7


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "nul\0", "x" * 256, "ü" * 128, "\ud800", "\udcc3\udca9", "\udcff" * 256],
)
def test_what_cannot_be_a_name_is_known(name: str) -> None:
    assert why_not_a_name(name)


@pytest.mark.parametrize(
    "key",
    ["a//b", "/abs", "../up", "d/../../up", "./here", "d/./x", "d/nul\0byte", "d/" + "x" * 256],
)
def test_keys_that_are_no_paths_are_hidden_counted_and_told_of_once(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    fs = mount(key, "fine", "a/fine", "d/fine")
    assert names(fs) == {"fine", "a", "d"}
    assert names(fs, "a") == names(fs, "d") == {"fine"}
    assert len(caplog.records) == 1
    assert "hidden in the mount" in caplog.text
    assert fs.counters["mount_hidden_keys"] == 1
    assert is_absent(fs, key.replace("\0", "")) or len(key) > 255


@pytest.mark.parametrize("path", ["..", "../x", "d/..", "d/../fine", ".", "d//fine", "d/."])
def test_paths_with_dots_or_empty_parts_lead_nowhere(path: str) -> None:
    # The kernel never asks for them; a front end that did would get no further.
    assert is_absent(mount("fine", "d/fine"), path)


def test_a_directory_hides_the_object_of_the_same_name(caplog: pytest.LogCaptureFixture) -> None:
    fs = mount("a", "a/b", "c")
    assert names(fs) == {"a", "c"}
    assert fs.getattr("a").is_directory
    assert names(fs, "a") == {"b"}
    assert "a directory has the same name" in caplog.text


def test_the_marker_of_a_directory_makes_it_exist_and_is_not_in_it() -> None:
    fs = mount("empty/", "full/", "full/x")
    assert names(fs) == {"empty", "full"}
    assert fs.getattr("empty").is_directory
    assert names(fs, "empty") == set()
    assert names(fs, "full") == {"x"}


def test_many_hidden_keys_of_one_directory_are_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fs = mount(*[f"d/{'x' * (256 + i)}" for i in range(50)], "d/fine")
    assert names(fs, "d") == {"fine"}
    assert len(caplog.records) == 1
    assert fs.counters["mount_hidden_keys"] == 50


def test_a_bucket_of_nothing_but_bad_names_is_an_empty_directory() -> None:
    fs = mount("//", "..", ".")
    assert names(fs) == set()
    assert fs.getattr("").is_directory


def test_keys_that_differ_in_unicode_normalisation_are_two_files() -> None:
    fs = mount("é", "e\u0301")
    assert len(names(fs)) == 2


def test_no_samples_option_is_the_default_off() -> None:
    assert FilesystemOptions().show_samples
