"""`dataplane pack` as a user sees it."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from dataplane.cli import pack_progress
from dataplane.cli.info import info
from dataplane.cli.pack import pack
from dataplane.shards import DatasetIndex
from dataplane.stores import open_store


def _run(*arguments):
    command = [sys.executable, "-m", "dataplane", "pack", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(3):
        np.save(folder / f"case{number}.npy", np.full((100, 3), number / 3))
    (folder / "README.md").write_text("read me")
    return folder


def test_a_summary_is_printed_and_skipped_sources_are_named_once(tmp_path, sources):
    done = _run(sources, (tmp_path / "ds").as_uri())
    assert done.returncode == 0
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines() if line[:1] != " ")
    assert lines["samples"].strip() == "3"
    assert lines["arrays"].strip() == "1"
    assert lines["skipped"].strip() == "1, named above"
    assert "README.md" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("skipped 1 file of an unknown format: …")
    assert line.endswith("/sources/README.md")
    assert len(line) <= 100


def test_a_case_beside_a_dataset_is_told_in_a_line_per_kind(tmp_path):
    folder = tmp_path / "runs"
    for name in ("0/U", "0/p", "constant/g", "system/controlDict"):
        (folder / "case" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "case" / name).write_text("/*-------*- C++ -*-------*\\\nFoamFile {}")
    for number in range(30):
        (folder / f"log.{number}").write_text("a line")
        (folder / f"notes{number}.txt").write_text("a line")
        (folder / f"damaged{number}.npy").write_text("no array")
    (folder / "case" / "case.foam").write_bytes(b"")
    (folder / "DONE").write_bytes(b"")
    np.save(folder / "good.npy", np.zeros(3))
    done = _run(folder, (tmp_path / "ds").as_uri(), "--json")
    assert len(json.loads(done.stdout)["skipped"]) == 4 + 3 * 30 + 2
    lines = done.stderr.splitlines()
    damaged = [line for line in lines if line.endswith("its content is not that of a .npy file")]
    assert len(damaged) == 20
    told, convert = lines[20:], "run foamToVTK in the case and pack its folder VTK"
    assert told == [
        "skipped 10 more sources that cannot be read (--json lists them all)",
        "skipped 61 files of unknown formats: 30 .N (e.g. log.0), 30 .txt (e.g. notes0.txt), "
        "1 without suffix",
        f"skipped 4 OpenFOAM files (e.g. …/runs/case/0/U): {convert}",
        f"skipped 1 OpenFOAM case (…/runs/case/case.foam): {convert}",
    ]
    assert max(map(len, told)) <= 100


def test_json_is_the_only_thing_on_stdout(tmp_path, sources):
    done = _run(sources, (tmp_path / "ds").as_uri(), "--json", "--codec", "zstd", "--level", "9")
    document = json.loads(done.stdout)
    assert document["samples"] == 3
    assert document["source_bytes"] == 3 * 2400
    assert document["skipped"][0]["source"].endswith("README.md")
    assert document["ratio"] == pytest.approx(7200 / document["stored_bytes"], abs=1e-3)


@pytest.mark.parametrize("options", [(), ("--float32",)])
def test_pack_and_info_say_the_same(tmp_path, sources, options):
    url = (tmp_path / "ds").as_uri()
    packed = json.loads(_run(sources, url, "--json", *options).stdout)
    told = json.loads(CliRunner().invoke(info, [url, "--json"], catch_exceptions=False).output)
    assert packed["arrays"] == len(told["arrays"])
    assert [packed["decoded_bytes"], packed["stored_bytes"]] == [
        told["decoded_bytes"],
        told["stored_bytes"],
    ]
    assert packed["ratio"] == round(told["decoded_bytes"] / told["stored_bytes"], 4)
    assert packed["source_bytes"] == packed["decoded_bytes"] * (2 if options else 1)


def test_options_reach_the_dataset(tmp_path, sources):
    arguments = ("--float32", "--round-bits", "4", "--permute-seed", "3", "--workers", "2")
    assert _run(sources, (tmp_path / "ds").as_uri(), *arguments).returncode == 0
    index = DatasetIndex.load(open_store((tmp_path / "ds").as_uri()))
    assert index[0].arrays["values"].meta.dtype == np.float32
    assert index[0].attributes["source"]["name"] == "sources/case0.npy"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["README.md"], 4, "nothing was packed"),
        (["missing.vtu"], 2, "no such file or folder"),
        (["case0.npy", "missing.vtu"], 2, "no such file or folder"),
        (["s3://bucket/raw"], 2, "sources are local files and folders, not URLs"),
        (["case0.npy", "README.md", "--on-error", "fail"], 4, "README.md: not a simulation"),
        (["case0.npy", "--chunk-bytes", "12"], 2, "chunk bytes must be"),
        (["case0.npy", "--codec", "gzip"], 2, "gzip"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(tmp_path, sources, arguments, code, message):
    paths = [a if a[:2] == "--" or not (a.count(".")) else str(sources / a) for a in arguments]
    done = _run(*paths, (tmp_path / "ds").as_uri())
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ds" / "index.parquet").exists()


@pytest.mark.parametrize(
    ("alone", "message"),
    [
        ("can.vtu", "pack lacks a destination after can.vtu"),
        ("s3://bucket/x", "pack lacks a source before s3://bucket/x"),
    ],
)
def test_one_argument_alone_is_told_what_it_lacks(alone, message):
    done = _run(alone)
    assert done.returncode == 2
    assert done.stderr == f"dataplane: {message} (write dataplane pack SOURCE... DEST_URL)\n"


def test_an_existing_dataset_needs_overwrite(tmp_path, sources):
    url = (tmp_path / "ds").as_uri()
    assert _run(sources, url).returncode == 0
    refused = _run(sources, url)
    assert refused.returncode == 2
    assert "holds a dataset already" in refused.stderr
    assert _run(sources, url, "--overwrite").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_dataset_and_no_temporary_files(tmp_path, number, monkeypatch):
    sources, temporary = tmp_path / "sources", tmp_path / "temporary"
    sources.mkdir()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    rng = np.random.default_rng(0)
    for index in range(60):
        np.save(sources / f"case{index:02d}.npy", rng.random(1 << 18))
    # The size of a shard, so that some are uploaded and can be waited for.
    command = [sys.executable, "-m", "dataplane", "pack", str(sources)]
    command += [(tmp_path / "ds").as_uri(), "--shard-bytes", "2MiB", "--codec", "zstd"]
    child = subprocess.Popen([*command, "--level", "9"], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("ds/shard-*")) and child.poll() is None:
        pass
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.strip() == "dataplane: interrupted"
    assert list(temporary.iterdir()) == []
    assert list(tmp_path.glob("ds/*")) == []


def test_help_explains_itself_with_examples():
    done = _run("--help")
    assert done.returncode == 0
    for word in ("SOURCE...", "DEST_URL", "--on-error", "PLOT3D", "Examples:", "s3://bucket"):
        assert word in done.stdout


def _progress_of(*arguments):
    done = CliRunner().invoke(pack, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return [line for line in done.stderr.splitlines() if line.startswith("packing: ")], done.stdout


def test_a_long_pack_says_how_far_it_is_where_there_is_no_terminal(tmp_path, sources, monkeypatch):
    lines, _ = _progress_of(sources, (tmp_path / "quick").as_uri())
    assert lines == []
    monkeypatch.setattr(pack_progress, "_LINE_S", 0.0)
    lines, _ = _progress_of(sources, (tmp_path / "slow").as_uri())
    assert lines[0] == "packing: 1 of 4 sources, 0 B of 7.41 KiB, reading"
    expected = r"packing: 3 of 4 sources, \d.* of 7.41 KiB, reading case1.npy, about \S+ s left"
    assert any(re.fullmatch(expected, line) for line in lines), lines
    assert lines[-1] == "packing: 4 of 4 sources, 7.41 KiB of 7.41 KiB, storing"


def test_a_quiet_pack_shows_no_progress_and_json_stays_alone_on_stdout(
    tmp_path, sources, monkeypatch
):
    monkeypatch.setattr(pack_progress, "_LINE_S", 0.0)
    lines, _ = _progress_of("--quiet", sources, (tmp_path / "quiet").as_uri())
    assert lines == []
    lines, stdout = _progress_of("--json", sources, (tmp_path / "json").as_uri())
    assert lines
    assert json.loads(stdout)["samples"] == 3
