"""Scratch folders are removed by whoever comes next, and never while they are in use."""

from __future__ import annotations

from pathlib import Path

from dataplane.shards.scratch import ScratchFolder


def test_folders_in_use_are_left_alone(tmp_path: Path) -> None:
    first = ScratchFolder(tmp_path)
    (first.path / "shard").write_bytes(b"1")
    second = ScratchFolder(tmp_path)
    assert (first.path / "shard").exists()
    assert first.path != second.path
    first.close()
    second.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_folder_is_removed_and_others_are_not(tmp_path: Path) -> None:
    abandoned = tmp_path / "dataplane-shards-abandoned"
    (abandoned / "deep").mkdir(parents=True)
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").write_bytes(b"1")
    (tmp_path / "dataplane-shards-link").symlink_to(target)
    (tmp_path / "dataplane-shards-file").write_bytes(b"1")
    folder = ScratchFolder(tmp_path)
    folder.close()
    assert not abandoned.exists()
    assert (target / "file").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dataplane-shards-file",
        "dataplane-shards-link",
        "precious",
    ]
