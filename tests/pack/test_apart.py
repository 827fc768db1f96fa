"""VTK reads in processes apart: its crashes cost one file, and no process stays behind."""

import base64
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.errors import FormatError, MissingPackage  # noqa: E402
from dataplane.pack import apart, open_source, pack  # noqa: E402
from dataplane.pack.plan import plan_sources  # noqa: E402
from dataplane.shards import DatasetIndex, WriteOptions  # noqa: E402
from dataplane.stores import open_store  # noqa: E402
from tests.pack.oracle import assert_same_arrays, expected_arrays, values_of  # noqa: E402


@pytest.fixture
def fresh_workers():
    """Workers that only this test uses."""
    apart._close_idle()
    yield
    apart._close_idle()


def _mesh(path, **arguments):
    grid = pv.Sphere(theta_resolution=12, phi_resolution=12).cast_to_unstructured_grid()
    grid.point_data["p"] = np.random.default_rng(0).standard_normal(grid.n_points)
    grid.save(path, **arguments)
    return path


def _crasher(path, *, field=0, value=0):
    """Save a compressed mesh, one number of its points' compression header changed."""
    content = _mesh(path).read_bytes()
    start = content.index(b">", content.index(b'Name="Points"')) + 1
    while content[start : start + 1].isspace():
        start += 1
    header = bytearray(base64.b64decode(content[start : start + 24]))
    assert struct.unpack("<2I", header[:8]) == (1, 32768), "one block of at most 32 KiB"
    struct.pack_into("<I", header, 4 * field, value)
    path.write_bytes(content[:start] + base64.b64encode(header) + content[start + 24 :])
    return path


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
    ("field", "value", "reason"),
    [
        (0, 0, "VTK crashed while it read it .SIGSEGV"),
        (1, 0, "VTK crashed while it read it .SIGFPE"),
        (0, 2**32 - 1, "VTK ran out of memory over it"),
    ],
)
def test_a_file_that_crashes_vtk_is_refused_with_the_reason(tmp_path, capfd, field, value, reason):
    path = _crasher(tmp_path / "case.vtu", field=field, value=value)
    with pytest.raises(FormatError, match=reason) as caught:
        list(open_source(path))
    assert str(path) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_crash_vtk_cost_a_pack_nothing_else(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(6):
        _mesh(folder / f"good{number}.vtu")
    _crasher(folder / "bad0.vtu")
    _crasher(folder / "good1b.vtu", value=2**32 - 1)
    url = (tmp_path / "dataset").as_uri()
    summary = pack([folder], url, WriteOptions(workers=3))
    assert list(DatasetIndex.load(open_store(url)).keys) == [f"good{n}" for n in range(6)]
    assert [Path(label).name for label, _ in summary.skipped] == ["bad0.vtu", "good1b.vtu"]
    with pytest.raises(FormatError, match=r"bad0\.vtu: VTK crashed"):
        pack([folder], (tmp_path / "strict").as_uri(), on_error="fail")
    assert not list(tmp_path.glob("strict/*"))


def test_arrays_are_writable_and_outlive_the_worker(tmp_path, fresh_workers):
    expected = expected_arrays(pv.read(_mesh(tmp_path / "case.vtu")))
    (sample,) = open_source(tmp_path / "case.vtu")
    apart._close_idle()
    assert_same_arrays(values_of(sample), expected)
    sample.arrays["points"].values[:] = 7
    assert (sample.arrays["points"].values == 7).all()


def test_a_worker_serves_file_after_file_and_crashes_do_not_end_it(tmp_path, fresh_workers):
    good, bad = _mesh(tmp_path / "good.vtu"), _crasher(tmp_path / "bad.vtu")
    list(open_source(good))
    (worker,) = apart._idle
    for _ in range(3):
        with pytest.raises(FormatError):
            list(open_source(bad))
        assert len(list(open_source(good))) == 1
    assert apart._idle == [worker]
    assert worker.process.poll() is None


def test_a_worker_that_was_ended_is_replaced(tmp_path, fresh_workers):
    good = _mesh(tmp_path / "good.vtu")
    list(open_source(good))
    (worker,) = apart._idle
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    assert len(list(open_source(good))) == 1
    assert apart._idle != [worker]


def test_a_worker_that_cannot_start_is_named_with_what_it_said(
    tmp_path, fresh_workers, monkeypatch
):
    good = _mesh(tmp_path / "good.vtu")
    monkeypatch.setattr(apart, "_WORKER_MODULE", "dataplane.no_such_module")
    with pytest.raises(FormatError, match=r"good\.vtu: .* ended .exit code 1.*no_such_module"):
        list(open_source(good))


def test_without_vtk_the_error_names_the_extra(tmp_path, fresh_workers, monkeypatch):
    good = _mesh(tmp_path / "good.vtu")
    (tmp_path / "shadow" / "vtkmodules").mkdir(parents=True)
    (tmp_path / "shadow" / "vtkmodules" / "__init__.py").write_text("raise ImportError('gone')")
    monkeypatch.syspath_prepend(tmp_path / "shadow")
    with pytest.raises(MissingPackage, match=r"gone.*pip install '\.\[vtk\]"):
        list(open_source(good))


def test_a_reader_that_never_ends_is_ended(tmp_path, fresh_workers, monkeypatch):
    os.mkfifo(tmp_path / "case.vtu")  # opening it waits for a writer that never comes
    _mesh(tmp_path / "sound.vtu")
    (source,) = plan_sources([tmp_path / "sound.vtu"])
    stuck = type(source)(tmp_path / "case.vtu", "stuck", "stuck", "stuck", "vtu")
    list(open_source(tmp_path / "sound.vtu"))
    before = _children()
    monkeypatch.setattr(apart, "_MIN_READ_S", 0.3)
    with pytest.raises(FormatError, match="stuck: VTK was still reading after"):
        list(apart.convert_apart(stuck))
    _wait_until(lambda: not _children() - before)
    assert apart._idle == []


_KILLED = """
import sys
from dataplane.pack import apart
from dataplane.pack.source import SourceFile
from pathlib import Path
worker = apart._borrow()
print(worker.process.pid, flush=True)
apart._give_back(worker)
list(apart.convert_apart(SourceFile(Path(sys.argv[1]), "stuck", "stuck", "stuck", "vtu")))
"""


def test_no_process_outlives_one_that_is_killed_while_it_reads(tmp_path):
    os.mkfifo(tmp_path / "case.vtu")
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, tmp_path / "case.vtu"], stdout=subprocess.PIPE, text=True
    )
    with child:
        worker = int(child.stdout.readline())
        tasks = Path(f"/proc/{worker}/task/{worker}/children")
        _wait_until(lambda: tasks.exists() and tasks.read_text().split())
        (reader,) = map(int, tasks.read_text().split())
        child.kill()
    _wait_until(lambda: not _is_running(reader) and not _is_running(worker))


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_forked_child_has_workers_of_its_own(tmp_path, fresh_workers):
    good = _mesh(tmp_path / "good.vtu")
    list(open_source(good))
    child = os.fork()
    if child == 0:
        try:
            found = len(list(open_source(good)))
            apart._close_idle()
            os._exit(0 if found == 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(open_source(good))) == 1


def test_files_are_read_at_the_same_time(tmp_path, fresh_workers):
    paths = [_mesh(tmp_path / f"case{n}.vtu") for n in range(3)]
    barrier = threading.Barrier(3, timeout=30)
    read = apart._Worker.read
    pids = set()

    def together(worker, source):
        barrier.wait()
        pids.add(worker.process.pid)
        return read(worker, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart._Worker, "read", together)
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
