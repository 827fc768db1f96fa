"""Small VTK files are read in one go: the same outcome as singly, whatever one of them does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError
from dataplane.pack import convert as convert_module
from dataplane.pack import open_source, pack
from dataplane.pack.plan import plan_sources
from dataplane.pack.source import SourceFile
from dataplane.pack.vtk import reader as vtk_reader
from dataplane.pack.vtk.shared_memory import TOGETHER, read_outcome, write_request
from dataplane.shards import SourceArray, SourceSample, WriteOptions
from tests.pack.harm import complain, crash, crasher, grow, mesh, plain, refuse
from tests.pack.inside import call_before_reads, keeps_reader, worker_here, wrap_requests


def _converted_by(monkeypatch, converters):
    """Have `case0.vtu`, `case1.vtu` … converted by these."""

    def convert(source):
        return converters[int(source.key.removeprefix("case"))](source)

    monkeypatch.setitem(vtk_reader.VTK_CONVERTERS, "vtu", convert)


@pytest.fixture
def ask_together(monkeypatch, tmp_path):
    """Have a worker of this process read files in one go, each by a converter of its own."""
    ours, theirs = socket.socketpair()
    worker = worker_here(theirs)

    def read(*converters):
        _converted_by(monkeypatch, converters)
        sources = [
            SourceFile(tmp_path / f"case{n}.vtu", f"case{n}", f"case{n}", f"case{n}", "vtu")
            for n in range(len(converters))
        ]
        request, result = os.memfd_create("request"), os.memfd_create("result")
        write_request(request, sources)
        status = worker.read(request, result, TOGETHER)
        crossed = None if status else read_outcome(result)
        os.close(request)
        os.close(result)
        return status, crossed, keeps_reader(worker)

    yield read
    worker.close()
    ours.close()
    theirs.close()


def test_files_that_are_read_in_one_go_arrive_each_with_its_samples(ask_together):
    def twice(source):
        yield from plain(source)
        yield SourceSample("second", {"q": SourceArray(np.ones((2, 3), np.float32))})

    status, crossed, is_kept = ask_together(plain, twice, lambda _: iter(()), plain)
    assert (status, is_kept) == (0, True)
    keys = [[sample.key for sample in samples] for samples in crossed.samples]
    assert keys == [["case0"], ["case1", "second"], [], ["case3"]]
    assert np.array_equal(crossed.samples[1][1].arrays["q"].values, np.ones((2, 3)))
    assert np.array_equal(crossed.samples[3][0].arrays["p"].values, np.arange(3))


@pytest.mark.parametrize("harmed", [crash, complain, refuse])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_complaint_leaves_nothing_of_what_was_read_in_one_go(ask_together, harmed, at):
    converters = [plain, plain, plain]
    converters[at] = harmed
    status, _, is_kept = ask_together(*converters)
    assert (status != 0, is_kept) == (True, False)


def test_a_reader_is_replaced_after_files_that_were_read_in_one_go_too(ask_together, monkeypatch):
    monkeypatch.setattr(vtk_reader, "READS_PER_READER", 3)
    assert [ask_together(plain, plain)[2] for _ in range(3)] == [True, False, True]
    assert ask_together(plain, grow)[::2] == (0, False)


def test_small_files_are_read_in_one_go_and_packed_as_singly(tmp_path, fresh_workers, monkeypatch):
    for n in range(70):
        mesh(tmp_path / f"case{n:02d}.vtu")
    asked = []
    call_before_reads(monkeypatch, lambda _worker, sources: asked.append(len(sources)))
    shards = []
    for name in ("together", "singly"):
        pack([tmp_path], (tmp_path / name).as_uri(), WriteOptions(workers=2))
        shards.append((tmp_path / name / "shard-000000.tar").read_bytes())
        monkeypatch.setattr(convert_module, "_MOST_TOGETHER", 1)
    assert shards[0] == shards[1]
    assert asked[:3] == [32, 32, 6]
    assert asked[3:] == [1] * 70


@pytest.mark.parametrize("harm", [OSError(12, "no memory"), ValueError("nonsense"), "too few"])
def test_whatever_happens_to_a_request_for_many_files_they_are_read_singly(
    tmp_path, fresh_workers, monkeypatch, harm
):
    for n in range(5):
        mesh(tmp_path / f"case{n}.vtu")

    def harmed(read):
        def read_harmed(sources, meter):
            if len(sources) == 1:
                return read(sources, meter)
            if isinstance(harm, Exception):
                raise harm
            return read(sources[1:], meter)

        return read_harmed

    wrap_requests(monkeypatch, harmed)
    summary = pack([tmp_path], (tmp_path / "dataset").as_uri(), WriteOptions(workers=2))
    assert (summary.samples, summary.skipped) == (5, ())


def test_no_more_is_read_in_one_go_than_a_reader_may_share(tmp_path):
    for n in range(8):
        mesh(tmp_path / f"case{n}.vtu")
    planned = plan_sources([tmp_path])
    size = planned[0].size_bytes()
    assert len(convert_module.together(planned, 1 << 30)) == 8
    assert len(convert_module.together(planned, 3 * size + 1)) == 3
    assert convert_module.together(planned, 2 * size) == []
    np.save(tmp_path / "case2b.npy", np.zeros(3))
    assert len(convert_module.together(plan_sources([tmp_path]), 1 << 30)) == 3


def test_what_is_the_matter_with_one_of_many_files_is_said_of_it_alone(tmp_path, fresh_workers):
    bad = (3, 11, 12)
    for n in range(20):
        mesh(tmp_path / f"case{n:02d}.vtu")
    crasher(tmp_path / "case03.vtu")
    (tmp_path / "case11.vtu").write_text('<VTKFile type="UnstructuredGrid"><')
    (tmp_path / "case12.vtu").write_bytes((tmp_path / "case13.vtu").read_bytes()[:3000])
    summary = pack([tmp_path], (tmp_path / "dataset").as_uri(), WriteOptions(workers=2))
    assert summary.samples == 17
    assert [Path(label).name for label, _ in summary.skipped] == [f"case{n:02d}.vtu" for n in bad]
    for (label, reason), n in zip(summary.skipped, bad, strict=True):
        with pytest.raises(FormatError) as alone:
            list(open_source(tmp_path / f"case{n:02d}.vtu"))
        assert alone.value.message == f"{label}: {reason}"
