"""The command line's frame: help, errors as one line, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dataplane.cli import main
from dataplane.shards.scratch import ScratchFolder
from dataplane_testing.s3 import S3Endpoint

COMMANDS = [
    "bench",
    "bench cache",
    "bench decode",
    "bench gpu",
    "bench loader",
    "bench store",
    "cache",
    "cache clear",
    "cache gc",
    "cache info",
    "cache ls",
    "cache pin",
    "cache unpin",
    "cache verify",
    "config",
    "demo",
    "doctor",
    "info",
    "mount",
    "pack",
    "plan",
    "stats",
    "umount",
    "warm",
]


def dataplane(
    *arguments: str, timeout_s: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataplane", *arguments],
        capture_output=True, text=True, timeout=timeout_s, check=False,
        env=os.environ | environment,
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The command failed with this code, and said so in one line that holds these words."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dataplane: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_help_lists_every_command_with_a_sentence() -> None:
    done = dataplane("--help")
    assert done.returncode == 0
    listed = done.stdout.split("Commands:")[1].strip().splitlines()
    assert [line.split()[0] for line in listed] == sorted({c.split()[0] for c in COMMANDS})
    assert all(len(line.split()) > 3 for line in listed)


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["inof"], "Did you mean 'info'?"),
        (["unmount"], "Did you mean 'umount' or 'mount'?"),
        (["cache", "infos"], "Did you mean 'info'?"),
        (["bench", "decod"], "Did you mean 'decode'?"),
        (["entirely-else"], "No such command 'entirely-else'"),
    ],
)
def test_an_unknown_command_is_answered_with_the_closest_ones(
    arguments: list[str], guess: str
) -> None:
    one_line(dataplane(*arguments), 2, guess, "--help)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info"], ["Missing argument 'URL'", "dataplane info --help)"]),
        (["info", "--nope", "x"], ["No such option '--nope'", "dataplane info --help)"]),
        (["cache", "info", "--cache-dir", __file__], ["--cache-dir", "is a file"]),
        (["cache", "gc", "--cache-size", "12XB"], ["--cache-size", "12XB"]),
    ],
)
def test_a_wrong_command_line_is_one_line_too(arguments: list[str], words: list[str]) -> None:
    one_line(dataplane(*arguments), 2, *words)


def test_errors_are_one_line_with_the_oldest_click_too() -> None:
    """It has no error for a command without arguments, and shows the help by itself."""
    script = (
        "import sys, click.exceptions as e; e.__dict__.pop('NoArgsIsHelpError', None); "
        "sys.argv = ['dataplane', 'info', 'file:///nothing-here']; "
        "from dataplane.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    one_line(done, 3, "nothing-here")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options_as_the_readme_says(shell: str) -> None:
    """What `eval "$(_DATAPLANE_COMPLETE=bash_source dataplane)"` makes the shell ask."""
    program = [sys.executable, "-c", "import sys; sys.argv[0] = 'dataplane'; "
               "from dataplane.cli.main import main; main()"]  # fmt: skip

    def complete(words: str, number: int) -> str:
        asked = {"_DATAPLANE_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
        word = words.split()[-1] if shell == "fish" else str(number)
        done = subprocess.run(
            program, capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | asked | {"COMP_CWORD": word},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "umount" in complete("dataplane umo", 1)
    assert "--fail-on-nan" in complete("dataplane pack --fail", 2)


@pytest.mark.parametrize("group", ["cache", "bench"])
def test_the_help_of_a_group_cuts_no_sentence(group: str) -> None:
    done = dataplane(group, "--help", COLUMNS="80")
    listed = done.stdout.split("Commands:")[1].strip().splitlines()
    assert len(listed) == len([name for name in COMMANDS if name.startswith(f"{group} ")])
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_and_all_its_options(command: str) -> None:
    done = dataplane(*command.split(), "-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: python -m dataplane {command}")
    options = [line for line in done.stdout.splitlines() if line.startswith("  -")]
    assert all(len(line.split()) > 1 for line in options)


def test_listing_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys, dataplane.cli.main as m\n"
        "try: m.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([n for n in ('torch', 'pyarrow', 'pyvista', 'obstore') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_command_is_a_usage_error() -> None:
    done = dataplane("fetch")
    assert done.returncode == 2
    assert "No such command 'fetch'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["info", "nonsense://bucket/x"], 2, ["nonsense"]),
        (["info", "s3:/bucket/cars"], 2, ["did you mean s3://bucket/cars?"]),
        (["info", "s3://"], 2, ["bucket"]),
        (["info", "file:///does/not/exist"], 3, ["no such folder", "/does/not/exist"]),
        (["mount", "memory://x", "/does/not/exist"], 6, ["/does/not/exist"]),
        (["demo", "--size", "1"], 2, ["--size"]),
        (["bench", "decode", "--codec", "zip", "--smoke"], 2, ["zip"]),
    ],
)
def test_a_wrong_argument_is_one_line_and_an_exit_code(
    arguments: list[str], code: int, words: list[str]
) -> None:
    one_line(dataplane(*arguments), code, *words)


def test_a_cache_directory_that_is_a_file_is_refused_before_a_daemon_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "point").mkdir()
    (tmp_path / "data").mkdir()
    done = dataplane(
        *("mount", str(tmp_path / "data"), str(tmp_path / "point")),
        **{"DATAPLANE_CACHE_DIR": str(tmp_path / "file"), "XDG_STATE_HOME": str(tmp_path / "log")},
    )
    one_line(done, 2, str(tmp_path / "file"), "not a directory")
    assert not (tmp_path / "log").exists()


def test_a_demo_that_is_killed_leaves_nothing_that_stays(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    demo = subprocess.Popen(
        [sys.executable, "-m", "dataplane", "demo", "--size", "64MiB"],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 60
    with demo:
        while not list(temporary.glob("*/s3")) and demo.poll() is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        demo.kill()
    assert demo.returncode == -signal.SIGKILL
    assert list(temporary.iterdir()) != []
    while list(temporary.iterdir()):  # its endpoint may need a moment to notice
        assert time.monotonic() < deadline_s
        ScratchFolder(temporary).close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3Endpoint]:
    with S3Endpoint(in_process=True, buckets=("data",)) as running:
        yield running


def an_empty_folder(tmp_path: Path) -> Path:
    """A mount point of its own: the cache lies in `tmp_path`, too."""
    folder = tmp_path / "mountpoint"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("command", [["info"], ["mount"]])
def test_a_wrong_secret_is_refused_in_one_line(
    endpoint: S3Endpoint, command: list[str], tmp_path: Path
) -> None:
    target = [str(an_empty_folder(tmp_path))] if command == ["mount"] else []
    environment = endpoint.environment() | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    done = dataplane(*command, "s3://data/ds", *target, **environment)
    one_line(done, 3, "data")
    assert "not-the-secret" not in done.stderr


@pytest.mark.parametrize("command", [["info"], ["mount"]])
def test_a_missing_bucket_is_named(
    endpoint: S3Endpoint, command: list[str], tmp_path: Path
) -> None:
    target = [str(an_empty_folder(tmp_path))] if command == ["mount"] else []
    done = dataplane(*command, "s3://no-such-bucket/ds", *target, **endpoint.environment())
    one_line(done, 3, "no-such-bucket")


def test_a_refused_anonymous_request_says_so(endpoint: S3Endpoint) -> None:
    environment = {"AWS_ENDPOINT_URL": endpoint.url, "AWS_REGION": "us-east-1"}
    one_line(dataplane("info", "s3://data/ds", "--anonymous", **environment), 3, "data")


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    environment = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "DATAPLANE_STORE_MAX_ATTEMPTS": "2",
    }
    one_line(dataplane("info", "s3://data/ds", **environment), 3, "127.0.0.1:9")


def test_packing_onto_a_full_disk_says_so_and_leaves_no_dataset(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    source, disk = tmp_path / "noise.npy", tmp_path / "disk"
    np.save(source, np.random.default_rng(0).random(1 << 18))
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        done = dataplane("pack", str(source), f"file://{disk}/ds")
        one_line(done, 5, "full")
        assert not list(disk.rglob("index.parquet"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info", "nonsense://bucket/x"], 2),
        (["mount", "memory://x", "/does/not/exist"], 6),
    ],
)
def test_debug_shows_the_traceback_and_keeps_the_exit_code(arguments: list[str], code: int) -> None:
    done = dataplane("--debug", *arguments)
    assert done.returncode == code
    assert "Traceback" in done.stderr
    assert "Error" in done.stderr


class PanicException(BaseException):
    """As pyo3 names what a panic of Rust becomes."""


@pytest.mark.parametrize(
    ("err", "words"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (PanicException("called unwrap on None\nmore"), "called unwrap on None"),
        (ModuleNotFoundError("No module named 'zarr'", name="zarr"), "pip install '.[bench]'"),
        (ModuleNotFoundError("no", name="botocore.session"), "pip install '.[s3]'"),
        (ModuleNotFoundError("no", name="unheard_of"), "pip install '.[all]'"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_whatever_escapes_a_command_is_one_line(
    err: BaseException,
    words: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise err

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["dataplane", *(["--debug"] if debug else []), "info"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    last = printed.strip().splitlines()[-1]
    assert last.startswith("dataplane: ")
    assert words in last
    assert ("Traceback" in printed or type(err).__name__ in printed) == debug


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise AssertionError("impossible")

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(AssertionError, match="impossible"):
        main.main()


def test_a_chart_that_cannot_be_written_is_refused_before_the_benchmark() -> None:
    done = dataplane("bench", "decode", "--plot", "/does/not/exist/x.png")
    one_line(done, 2, "/does/not/exist")


def test_an_endpoint_without_a_host_is_refused() -> None:
    one_line(dataplane("info", "s3://data/ds", AWS_ENDPOINT_URL="http://"), 2, "http://")


def test_the_demo_and_the_benchmarks_stay_with_their_own_server_in_any_environment() -> None:
    elsewhere = "http://127.0.0.1:9"
    hostile = {
        "AWS_ENDPOINT_URL": elsewhere, "AWS_ENDPOINT_URL_S3": elsewhere,
        "AWS_SKIP_SIGNATURE": "true", "AWS_PROFILE": "nobody", "AWS_SESSION_TOKEN": "old",
        "DATAPLANE_ANONYMOUS": "1", "HTTP_PROXY": elsewhere, "http_proxy": elsewhere,
    }  # fmt: skip
    done = dataplane("demo", "--size", "8MiB", "--json", **hostile)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [row["hit_rate"] for row in document["rows"]] == [0, 1, 0, 1]
    cold = [row["decoded_bytes"] for row in document["rows"] if row["state"] == "cold"]
    assert document["decoded_bytes"] == sum(cold)
    assert "127.0.0.1:9 " not in done.stderr


def test_the_demo_refuses_to_reach_a_store_that_it_was_not_given() -> None:
    one_line(dataplane("demo", "--endpoint-url", "http://127.0.0.1:9"), 2, "--store")


@pytest.mark.parametrize("command", ["demo", "pack"])
def test_a_missing_bucket_is_noticed_before_anything_is_packed(
    endpoint: S3Endpoint, command: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.zeros(10))
    arguments = {
        "demo": ["--store", "s3://nobucket/x"],
        "pack": [str(tmp_path / "a.npy"), "s3://nobucket/x"],
    }
    endpoint.clear_requests()
    done = dataplane(command, *arguments[command], **endpoint.environment())
    one_line(done, 3, "no such bucket: s3://nobucket")
    assert {record.operation for record in endpoint.requests()} & {"PutObject"} == set()


def test_a_local_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.vtu").touch()
    one_line(dataplane("info", str(tmp_path)), 4, str(tmp_path), "index.parquet")
    one_line(dataplane("info", str(tmp_path / "a.vtu")), 4, "a.vtu is a file")


@pytest.mark.parametrize("command", [["info"], ["warm"], ["warm", "--check"]])
def test_where_nothing_is_all_commands_say_so(
    endpoint: S3Endpoint, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    environment = endpoint.environment() | {"DATAPLANE_CACHE_DIR": str(tmp_path / "cache")}
    for url in (str(tmp_path / "empty"), "s3://data/nothing"):
        one_line(dataplane(*command, url, **environment), 3, "there is nothing", url)
