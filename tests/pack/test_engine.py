"""Packing: order, errors, what is left when it is stopped."""

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dataplane.errors import ConfigError, FormatError, NoSpace
from dataplane.pack import engine, pack, read_ahead
from dataplane.shards import DatasetIndex, WriteOptions
from dataplane.stores import open_store
from tests.pack.inside import wrap_converter
from tests.pack.packed import read_with_zarr
from tests.stores.inside import wrap_local_writes


@pytest.fixture
def temp_folder(tmp_path, monkeypatch):
    """A folder for temporary files that must be empty again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(12):
        np.save(folder / f"case{number:02d}.npy", np.full((number + 1, 3), number))
    return folder


def _url(tmp_path):
    return (tmp_path / "dataset").as_uri()


def _keys(tmp_path):
    return list(DatasetIndex.load(open_store(_url(tmp_path))).keys)


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_the_order_does_not_depend_on_the_workers(tmp_path, temp_folder, sources, workers):
    summary = pack([sources], _url(tmp_path), WriteOptions(workers=workers))
    assert _keys(tmp_path) == [f"case{n:02d}" for n in range(12)]
    assert (summary.samples, summary.arrays, summary.skipped) == (12, 1, ())
    assert summary.source_bytes == sum(24 * (n + 1) for n in range(12))
    stored = read_with_zarr(tmp_path / "dataset")
    assert np.array_equal(stored["case07"][1]["values"], np.full((8, 3), 7))


def test_equal_inputs_give_equal_shards(tmp_path, sources):
    contents = []
    for name, workers in (("one", 1), ("two", 4)):
        pack([sources], (tmp_path / name).as_uri(), WriteOptions(workers=workers))
        contents.append((tmp_path / name / "shard-000000.tar").read_bytes())
    assert contents[0] == contents[1]


def test_no_more_is_read_ahead_than_allowed(tmp_path, sources, monkeypatch):
    under_way, most = set(), []
    convert = read_ahead.convert

    def watched(source, meter):
        under_way.add(source.key)
        most.append(len(under_way))
        yield from convert(source, meter)
        under_way.discard(source.key)

    monkeypatch.setattr(read_ahead, "convert", watched)
    monkeypatch.setattr(read_ahead, "MAX_READ_AHEAD_BYTES", 1)
    pack([sources], _url(tmp_path), WriteOptions(workers=4))
    assert max(most) == 1


def test_a_large_file_is_reported_while_it_is_read_and_while_it_is_written(tmp_path, monkeypatch):
    pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")
    grid = pv.ImageData(dimensions=(60, 60, 60)).cast_to_unstructured_grid()
    grid.point_data["p"] = np.random.default_rng(0).standard_normal(grid.n_points)
    grid.save(tmp_path / "case.vtu")
    monkeypatch.setattr(read_ahead, "TICK_S", 0.001)
    monkeypatch.setattr(engine, "TICK_S", 0.001)
    seen = []
    pack([tmp_path / "case.vtu"], _url(tmp_path), progress=seen.append)
    size = (tmp_path / "case.vtu").stat().st_size
    reading = {item.bytes_under_way for item in seen if item.stage == "reading"}
    writing = {item.bytes_under_way for item in seen if item.stage == "writing"}
    assert len({bytes_ for bytes_ in reading if 0 < bytes_ < size // 2}) > 1
    assert len({bytes_ for bytes_ in writing if size // 2 < bytes_ <= size}) > 1
    fractions = [item.fraction for item in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1], seen[-1].stage) == (0, 1, "storing")


def test_keys_that_collide_get_numbers(tmp_path):
    for name in ("a.b.npy", "a b.npy", "a_b.npy"):
        np.save(tmp_path / name, np.zeros(2))
    pack([*tmp_path.glob("*.npy")], _url(tmp_path))
    assert _keys(tmp_path) == ["a_b", "a_b-2", "a_b-3"]


def test_what_cannot_be_read_is_skipped_and_named(tmp_path, temp_folder, sources):
    (sources / "case03.npy").write_bytes(b"\x93NUMPY nonsense")
    (sources / "README.md").write_text("read me")
    reports = []
    summary = pack([sources], _url(tmp_path), progress=reports.append)
    assert summary.samples == 11
    assert [label.rsplit("/", 1)[1] for label, _ in summary.skipped] == ["README.md", "case03.npy"]
    assert "case03" not in _keys(tmp_path)
    assert reports[-1].sources_done == reports[-1].sources == 13
    assert reports[-1].source_bytes_done == reports[-1].source_bytes
    assert reports[-1].samples == 11


def test_the_first_error_stops_a_strict_pack_and_leaves_no_dataset(tmp_path, temp_folder, sources):
    (sources / "case09.npy").write_bytes(b"\x93NUMPY nonsense")
    options = WriteOptions(shard_bytes=1 << 16)
    with pytest.raises(FormatError, match=r"case09\.npy"):
        pack([sources], _url(tmp_path), options, on_error="fail")
    assert list((tmp_path / "dataset").glob("*")) == []


def test_a_strict_pack_tolerates_strangers_in_folders_but_not_as_arguments(tmp_path, sources):
    (sources / "README.md").write_text("read me")
    assert pack([sources], _url(tmp_path), on_error="fail").samples == 12
    with pytest.raises(FormatError, match=r"README\.md"):
        pack([*sources.iterdir()], (tmp_path / "other").as_uri(), on_error="fail")


def test_a_sample_that_the_writer_refuses_is_skipped(tmp_path, temp_folder):
    np.savez(tmp_path / "bad.npz", **{"cells/connectivity": [0, 9], "cells/offsets": [0, 2]})
    np.save(tmp_path / "good.npy", np.zeros(3))
    np.savez(tmp_path / "deep.npz", **{"a": np.zeros(2), "a/b": np.zeros(2)})
    summary = pack([*tmp_path.glob("*.np?")], _url(tmp_path))
    assert "good" in _keys(tmp_path)
    assert [os.path.basename(label) for label, _ in summary.skipped] == ["deep.npz"]


def test_nothing_to_pack_is_an_error_that_says_why(tmp_path):
    (tmp_path / "README.md").write_text("read me")
    with pytest.raises(FormatError, match=r"nothing was packed: .*README\.md: not a simulation"):
        pack([tmp_path / "README.md"], _url(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="the sources hold no files"):
        pack([tmp_path / "empty"], _url(tmp_path))
    with pytest.raises(ConfigError, match="no sources"):
        pack([], _url(tmp_path))
    with pytest.raises(ConfigError, match="skip or fail"):
        pack([tmp_path], _url(tmp_path), on_error="ignore")


def test_a_dataset_is_replaced_only_when_asked_and_only_by_another(tmp_path, sources):
    pack([sources], _url(tmp_path))
    with pytest.raises(ConfigError, match="holds a dataset already"):
        pack([sources], _url(tmp_path))
    (tmp_path / "README.md").write_text("read me")
    with pytest.raises(FormatError):
        pack([tmp_path / "README.md"], _url(tmp_path), WriteOptions(overwrite=True))
    assert len(_keys(tmp_path)) == 12
    pack([sources / "case01.npy"], _url(tmp_path), WriteOptions(overwrite=True))
    assert _keys(tmp_path) == ["case01"]


@pytest.mark.parametrize("shard_bytes", [1 << 20, 1 << 30], ids=["many shards", "one shard"])
def test_a_pack_onto_a_full_disk_leaves_nothing(tmp_path, temp_folder, monkeypatch, shard_bytes):
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, 700_000, np.uint8)
        np.save(tmp_path / f"case{number}.npy", values)
    filled = []

    def until_full(fill):
        def fill_until_full(handle, source):
            if isinstance(source, Path) and (len(filled) or shard_bytes > 1 << 20):
                os.write(handle, b"some")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fill(handle, source)
            filled.append(source)

        return fill_until_full

    wrap_local_writes(monkeypatch, until_full)
    with pytest.raises(NoSpace):
        pack([*tmp_path.glob("*.npy")], _url(tmp_path), WriteOptions(shard_bytes=shard_bytes))
    assert len(filled) == (shard_bytes == 1 << 20)
    assert not (tmp_path / "dataset").exists()


def test_an_interruption_leaves_no_dataset_no_thread_and_no_file(tmp_path, temp_folder, sources):
    def interrupt(progress):
        if progress.samples == 5:
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        pack([sources], _url(tmp_path), WriteOptions(workers=3), progress=interrupt)
    assert list((tmp_path / "dataset").glob("*")) == []
    assert set(threading.enumerate()) <= before


def test_an_unexpected_error_in_a_reader_reaches_the_caller(
    tmp_path, temp_folder, sources, monkeypatch
):
    def broken(source, meter=None):
        raise ZeroDivisionError
        yield

    monkeypatch.setattr(read_ahead, "convert", broken)
    with pytest.raises(ZeroDivisionError):
        pack([sources], _url(tmp_path))
    assert list((tmp_path / "dataset").glob("*")) == []


def test_an_unforeseen_error_of_a_converter_costs_its_source_only(
    tmp_path, temp_folder, sources, monkeypatch, caplog
):
    def broken(convert):
        def convert_or_break(source, meter=None):
            if source.key == "case03":
                raise ZeroDivisionError("division\nby zero")
            yield from convert(source)

        return convert_or_break

    wrap_converter(monkeypatch, "npy", broken)
    caplog.set_level(logging.DEBUG, "dataplane")
    summary = pack([sources], _url(tmp_path))
    assert summary.samples == 11
    ((label, reason),) = summary.skipped
    assert label.endswith("case03.npy")
    assert reason == "reading it failed: ZeroDivisionError: division by zero"
    assert "Traceback" in caplog.text
    with pytest.raises(FormatError, match=r"case03\.npy: reading it failed: ZeroDivisionError"):
        pack([sources], (tmp_path / "strict").as_uri(), on_error="fail")


def test_an_unforeseen_error_over_a_file_of_references_costs_that_file_only(tmp_path, sources):
    document = '<?xml version="1.0" encoding="utf-7"?><VTKFile type="Collection"></VTKFile>'
    (sources / "series.pvd").write_text(document)
    steps = "".join(f'<DataSet timestep="{n}" part="{"9" * 3000}" file="x.vtu"/>' for n in (0, 0))
    whole = f'<VTKFile type="Collection"><Collection>{steps}</Collection></VTKFile>'
    (sources / "parts.pvd").write_text(whole)
    np.save(sources / "x.npy", np.zeros(2))
    (sources / "x.npy").rename(sources / "x.vtu")
    summary = pack([sources], _url(tmp_path))
    assert summary.samples == 13
    assert "series.pvd" in str(summary.skipped)
    assert "parts.pvd" in str(summary.skipped)


_SLOW_PACK = """
import sys, time
from dataplane.pack import pack
from dataplane.shards import WriteOptions
def report(progress):
    if progress.samples >= 4:
        print("running", flush=True)
        time.sleep(60)
pack([sys.argv[1]], sys.argv[2], WriteOptions(shard_bytes=1 << 16), progress=report)
"""


def test_a_killed_pack_leaves_nothing_that_looks_whole_and_can_be_repeated(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        np.save(folder / f"case{number}.npy", rng.random(8192))
    child = subprocess.Popen(
        [sys.executable, "-c", _SLOW_PACK, str(folder), _url(tmp_path)], stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"running\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert list((tmp_path / "dataset").glob("shard-*"))
    with pytest.raises(FormatError):
        DatasetIndex.load(open_store(_url(tmp_path)))
    pack([folder], _url(tmp_path))
    assert len(read_with_zarr(tmp_path / "dataset")) == 6


def test_memory_is_bounded_by_the_readers_not_by_the_sources(tmp_path, sources, monkeypatch):
    # A slow writer must hold the readers back: one sample queued and one in the making for each.
    made = []
    convert = read_ahead.convert

    def counted(source, meter):
        for outcome in convert(source, meter):
            made.append(source.key)
            yield outcome

    monkeypatch.setattr(read_ahead, "convert", counted)
    ahead = []

    def slow(progress):
        if progress.samples and progress.samples < 6:
            time.sleep(0.05)
            ahead.append(len(made) - progress.samples)

    pack([sources], _url(tmp_path), WriteOptions(workers=2), progress=slow)
    assert max(ahead) <= 4
