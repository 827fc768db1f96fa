"""What users name as sources: nothing is left out silently, nothing is searched by mistake."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dataplane.errors import ConfigError, NoSpace
from dataplane.pack import pack
from dataplane.pack.plan import plan_sources
from dataplane.pack.source import Unreadable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    np.save(folder / "case.npy", np.arange(12.0))
    return folder


def test_one_folder_may_be_text(folder: Path) -> None:
    assert pack(str(folder), "memory://one-folder").samples == 1
    assert pack(folder, "memory://one-path").samples == 1


@pytest.mark.parametrize("url", ["s3://bucket/raw", "s3:/bucket/raw", "https://host/x.vtu"])
def test_a_url_is_refused_with_the_way_to_do_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"not URLs: .*dataplane mount"):
        pack([url], "memory://from-url")


def test_a_source_that_is_not_there_stops_the_pack_before_it_begins(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file or folder: .*typo\.vtu"):
        pack([folder, folder / "typo.vtu"], "memory://typo")


def test_what_is_not_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="a source is a path, got 3"):
        pack([3], "memory://number")  # type: ignore[list-item]


def test_links_that_lead_nowhere_and_to_folders_are_named(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "more.npy", np.zeros(3))
    (folder / "linked").symlink_to(other)
    (folder / "dangling.vtu").symlink_to(tmp_path / "gone.vtu")
    (folder / "copy.npy").symlink_to(folder / "case.npy")
    planned = plan_sources([folder])
    reasons = {
        Path(item.label).name: item.reason for item in planned if isinstance(item, Unreadable)
    }
    assert reasons == {
        "linked": "a link to a folder is not followed",
        "dangling.vtu": "it links to nothing",
    }
    assert len(planned) == 3  # and the file, once


def test_folders_that_may_not_be_read_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(top: object, onerror: object = None) -> list[object]:
        onerror(PermissionError(13, "Permission denied", f"{top}/secret"))
        return []

    monkeypatch.setattr("dataplane.pack.found.os.walk", denied)
    (item,) = plan_sources([folder])
    assert isinstance(item, Unreadable)
    assert (item.label, item.reason) == (
        f"{folder}/secret",
        "it cannot be read: Permission denied",
    )


def test_a_full_temporary_disk_is_not_the_archives_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive(str(folder / "packed"), "zip", folder)
    monkeypatch.setattr(
        "dataplane.pack.archives.shutil.disk_usage", lambda _: SimpleNamespace(free=10)
    )
    with pytest.raises(NoSpace, match="has room for 0 B"):
        pack([archive], "memory://full")
