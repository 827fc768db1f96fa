"""VTK reads in processes apart: its crashes cost one file, and no process stays behind."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError, MissingPackage  # noqa: E402
from dataplane.pack import open_source, pack  # noqa: E402
from dataplane.pack.plan import plan_sources  # noqa: E402
from dataplane.pack.source import SourceFile  # noqa: E402
from dataplane.pack.vtk import reader as vtk_reader  # noqa: E402
from dataplane.pack.vtk import subprocess_reader  # noqa: E402
from dataplane.pack.vtk.shared_memory import SHARED, read_outcome, write_request  # noqa: E402
from dataplane.shards import DatasetIndex, WriteOptions  # noqa: E402
from dataplane.stores import open_store  # noqa: E402
from tests.pack.harm import NO_CRASH, NO_MEMORY, complain, crash, crasher, grow, mesh, plain, refuse  # noqa: E402
from tests.pack.inside import (  # noqa: E402
    borrowed_worker,
    call_before_reads,
    channel_of,
    end_idle_workers,
    idle_workers,
    keeps_reader,
    worker_here,
)
from tests.pack.oracle import assert_same_arrays, expected_arrays, values_of  # noqa: E402


def _children():
    """Processes whose parent is this one, and theirs."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _wait_until(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "VTK crashed while it read it .SIGSEGV"),
        (NO_MEMORY, "VTK ran out of memory over it"),
    ],
)
def test_a_file_that_crashes_vtk_is_refused_with_the_reason(tmp_path, capfd, content, reason):
    path = crasher(tmp_path / "case.vtu", **content)
    with pytest.raises(FormatError, match=reason) as caught:
        list(open_source(path))
    assert str(path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_crash_vtk_cost_a_pack_nothing_else(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(6):
        mesh(folder / f"good{number}.vtu")
    crasher(folder / "bad0.vtu")
    crasher(folder / "good1b.vtu", **NO_MEMORY)
    url = (tmp_path / "dataset").as_uri()
    summary = pack([folder], url, WriteOptions(workers=3))
    assert list(DatasetIndex.load(open_store(url)).keys) == [f"good{n}" for n in range(6)]
    assert [Path(label).name for label, _ in summary.skipped] == ["bad0.vtu", "good1b.vtu"]
    with pytest.raises(FormatError, match=r"bad0\.vtu: VTK crashed"):
        pack([folder], (tmp_path / "strict").as_uri(), on_error="fail")
    assert not list(tmp_path.glob("strict/*"))


def test_arrays_are_writable_and_outlive_the_worker(tmp_path, fresh_workers):
    expected = expected_arrays(pv.read(mesh(tmp_path / "case.vtu")))
    (sample,) = open_source(tmp_path / "case.vtu")
    end_idle_workers()
    assert_same_arrays(values_of(sample), expected)
    sample.arrays["points"].values[:] = 7
    assert (sample.arrays["points"].values == 7).all()


def test_a_worker_serves_file_after_file_and_crashes_do_not_end_it(tmp_path, fresh_workers):
    good, bad = mesh(tmp_path / "good.vtu"), crasher(tmp_path / "bad.vtu")
    list(open_source(good))
    (worker,) = idle_workers()
    for _ in range(3):
        with pytest.raises(FormatError):
            list(open_source(bad))
        assert len(list(open_source(good))) == 1
    assert idle_workers() == [worker]
    assert worker.process.poll() is None


def _readers(worker):
    return _children_of(worker.process.pid)


def _children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_small_files_share_a_reader_and_a_large_one_has_its_own(tmp_path, fresh_workers):
    small, large = mesh(tmp_path / "small.vtu"), tmp_path / "large.vtu"
    pv.ImageData(dimensions=(60, 60, 20)).cast_to_unstructured_grid().save(large, binary=False)
    assert large.stat().st_size > subprocess_reader.SHARED_BYTES > small.stat().st_size
    list(open_source(small))
    (worker,) = idle_workers()
    first = _readers(worker)
    assert len(first) == 1
    list(open_source(small))
    assert _readers(worker) == first
    list(open_source(large))
    assert _readers(worker) == []
    list(open_source(small))
    assert _readers(worker) != first


@pytest.mark.parametrize("content", [{}, NO_CRASH])
def test_a_file_that_fails_ends_the_reader_that_it_shared(tmp_path, fresh_workers, content):
    small, bad = mesh(tmp_path / "small.vtu"), crasher(tmp_path / "bad.vtu", **content)
    with pytest.raises(FormatError) as alone:
        list(open_source(bad))
    list(open_source(small))
    (worker,) = idle_workers()
    first = _readers(worker)
    with pytest.raises(FormatError) as shared:
        list(open_source(bad))
    assert str(shared.value) == str(alone.value)
    list(open_source(small))
    assert _readers(worker) != first


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Have a worker of this process read a file; the n-th file of a reader by the n-th converter.

    For each file: the wait status, what crossed, and whether the reader is kept for another.
    """
    ours, theirs = socket.socketpair()
    worker = worker_here(theirs)
    source = SourceFile(tmp_path / "case.vtu", "case", "case", "case", "vtu")

    def read(*converters):
        upcoming = iter(converters)

        def convert_next(source):
            return next(upcoming)(source)

        monkeypatch.setitem(vtk_reader.VTK_CONVERTERS, "vtu", convert_next)
        found = []
        for _ in converters:
            request, result = os.memfd_create("request"), os.memfd_create("result")
            write_request(request, [source])
            status = worker.read(request, result, SHARED)
            crossed = None if status else read_outcome(result)
            found.append((status, crossed, keeps_reader(worker)))
            os.close(request)
            os.close(result)
        return found

    yield read
    worker.close()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("harmed", [crash, complain, refuse])
def test_what_fails_in_a_reader_that_has_read_others_is_read_again_by_a_fresh_one(ask, harmed):
    # The first file of any reader is read well; whatever comes second in it meets `harmed`.
    for status, crossed, is_kept in ask(plain, harmed):
        assert (status, is_kept) == (0, True)
        assert crossed.document == {"log": []}
        assert np.array_equal(crossed.samples[0][0].arrays["p"].values, np.arange(3))


def test_a_crash_over_the_first_file_of_a_reader_is_the_files_own(ask):
    ((status, _, is_kept),) = ask(crash)
    assert os.WTERMSIG(status) == signal.SIGSEGV
    assert not is_kept


@pytest.mark.parametrize("harmed", [complain, refuse])
def test_a_complaint_about_the_first_file_of_a_reader_counts_and_ends_it(ask, harmed):
    ((status, crossed, is_kept),) = ask(harmed)
    assert (status, is_kept) == (0, False)
    assert crossed.document["log"] or crossed.document["failed"]


def test_a_reader_is_replaced_after_a_bounded_number_of_files(ask, monkeypatch):
    monkeypatch.setattr(vtk_reader, "READS_PER_READER", 3)
    found = ask(plain, plain, plain, plain)
    assert [is_kept for _, _, is_kept in found] == [True, True, False, True]


def test_a_reader_whose_memory_has_grown_is_replaced(ask):
    (_, (status, crossed, is_kept)) = ask(plain, grow)
    assert (status, is_kept) == (0, False)
    assert len(crossed.samples[0]) == 1


def test_relative_paths_are_those_of_this_process(tmp_path, fresh_workers, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        mesh(Path(f"{name}.vtu"))
        assert len(list(open_source(f"{name}.vtu"))) == 1


def test_a_worker_that_was_ended_is_replaced(tmp_path, fresh_workers):
    good = mesh(tmp_path / "good.vtu")
    list(open_source(good))
    (worker,) = idle_workers()
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert len(list(open_source(good))) == 1
    assert idle_workers() != [worker]


@pytest.mark.parametrize("late_s", [0.0, 1.0])
def test_a_worker_that_cannot_start_is_named_with_what_it_said(
    tmp_path, fresh_workers, monkeypatch, late_s
):
    """Also where it has ended before it is asked, as on a busy machine."""
    good = mesh(tmp_path / "good.vtu")
    monkeypatch.setattr(subprocess_reader, "_WORKER_MODULE", "dataplane.no_such_module")
    monkeypatch.setattr(subprocess_reader, "say_fraction", lambda *_: time.sleep(late_s))
    with pytest.raises(FormatError, match=r"good\.vtu: .* ended .exit code 1.*no_such_module"):
        list(open_source(good))


def test_without_vtk_the_error_names_the_extra(tmp_path, fresh_workers, monkeypatch):
    good = mesh(tmp_path / "good.vtu")
    (tmp_path / "shadow" / "vtkmodules").mkdir(parents=True)
    (tmp_path / "shadow" / "vtkmodules" / "__init__.py").write_text("raise ImportError('gone')")
    monkeypatch.syspath_prepend(tmp_path / "shadow")
    with pytest.raises(MissingPackage, match=r"gone.*pip install '\.\[vtk\]"):
        list(open_source(good))


def test_a_reader_that_never_ends_is_ended(tmp_path, fresh_workers, monkeypatch):
    os.mkfifo(tmp_path / "case.vtu")  # opening it waits for a writer that never comes
    mesh(tmp_path / "sound.vtu")
    (source,) = plan_sources([tmp_path / "sound.vtu"])
    stuck = type(source)(tmp_path / "case.vtu", "stuck", "stuck", "stuck", "vtu")
    list(open_source(tmp_path / "sound.vtu"))
    before = _children()
    monkeypatch.setattr(subprocess_reader, "_MIN_READ_S", 0.3)
    with pytest.raises(FormatError, match="stuck: VTK was still reading after"):
        list(subprocess_reader.convert_in_subprocess(stuck))
    _wait_until(lambda: not _children() - before)
    assert idle_workers() == []


_KILLED = """
import sys
from dataplane.pack.vtk import subprocess_reader
from dataplane.pack.source import SourceFile
from pathlib import Path
stuck = SourceFile(Path(sys.argv[1]), "stuck", "stuck", "stuck", "vtu")
list(subprocess_reader.convert_in_subprocess(stuck))
"""


def test_no_process_outlives_one_that_is_killed_while_it_reads(tmp_path):
    os.mkfifo(tmp_path / "case.vtu")
    with subprocess.Popen([sys.executable, "-c", _KILLED, tmp_path / "case.vtu"]) as child:
        _wait_until(lambda: _children_of(child.pid))
        (worker,) = _children_of(child.pid)
        _wait_until(lambda: _children_of(worker))
        (reader,) = _children_of(worker)
        child.kill()
    _wait_until(lambda: not _is_running(reader) and not _is_running(worker))


def test_a_reader_ends_with_its_worker(tmp_path, fresh_workers):
    os.mkfifo(tmp_path / "case.vtu")
    source = SourceFile(tmp_path / "case.vtu", "stuck", "stuck", "stuck", "vtu")
    worker = borrowed_worker()
    request = os.memfd_create("request")
    write_request(request, [source])
    socket.send_fds(channel_of(worker), [b"s"], [request])
    os.close(request)
    _wait_until(lambda: _readers(worker))
    (reader,) = _readers(worker)
    worker.process.kill()
    _wait_until(lambda: not _is_running(reader))
    worker.close()


def test_this_process_waits_for_no_idle_worker_when_it_ends(tmp_path, fresh_workers):
    list(open_source(mesh(tmp_path / "small.vtu")))
    (worker,) = idle_workers()
    os.kill(worker.process.pid, signal.SIGSTOP)  # it cannot notice that it is not needed
    begin = time.monotonic()
    end_idle_workers()
    assert time.monotonic() - begin < 2
    assert worker.process.returncode == -signal.SIGKILL


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_forked_child_has_workers_of_its_own(tmp_path, fresh_workers):
    good = mesh(tmp_path / "good.vtu")
    list(open_source(good))
    child = os.fork()
    if child == 0:
        try:
            found = len(list(open_source(good)))
            end_idle_workers()
            os._exit(0 if found == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(open_source(good))) == 1


def test_files_are_read_at_the_same_time(tmp_path, fresh_workers):
    paths = [mesh(tmp_path / f"case{n}.vtu") for n in range(3)]
    barrier = threading.Barrier(3, timeout=30)
    pids = set()

    def together(worker, _sources):
        barrier.wait()
        pids.add(worker.process.pid)

    with pytest.MonkeyPatch.context() as patch:
        call_before_reads(patch, together)
        threads = [threading.Thread(target=lambda p=p: list(open_source(p))) for p in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(pids) == 3


def test_what_vtk_warns_of_is_logged_here(simulation_files, caplog):
    caplog.set_level(logging.INFO, "dataplane")
    list(open_source(simulation_files / "can.vtu"))
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.startswith("VTK: ") for message in messages)
    assert not any(re.search("0x[0-9a-f]{5}", message) for message in messages)
