"""The endpoint as a whole: its two homes, its log, and that nothing of it stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dataplane.errors import ConfigError, StoreError
from dataplane.stores import open_store
from dataplane_testing.s3 import Faults, Limits, S3Endpoint
from tests.testing.inside import process_id_of

REPOSITORY = Path(__file__).resolve().parents[2]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dp-s3")]


@pytest.mark.parametrize("in_process", [True, False])
def test_both_homes_answer_the_same_calls(connect, tmp_path, in_process):
    source = tmp_path / "source.bin"
    source.write_bytes(b"from a file")
    with S3Endpoint(
        tmp_path / "root", buckets=("data", "more"), in_process=in_process, anonymous=True
    ) as endpoint:
        etag = endpoint.put("data", "k, ü", b"hello")
        assert etag == '"5d41402abc4b2a76b9719d911017c592"'
        endpoint.put("more", "file", source)
        endpoint.create_bucket("third")
        client = connect(endpoint)
        answer = client.get("/data/k%2C%20%C3%BC", "Range: bytes=1-2")
        assert (answer[0], answer[1]["etag"], answer[2]) == (206, etag, b"el")
        assert client.get("/more/file")[2] == b"from a file"
        assert client.get("/third/x")[0] == 404
        endpoint.set_faults(Faults(script=("slow_down",)))
        assert client.get("/more/file")[0] == 503
        records = endpoint.requests()
        assert [
            (r.index, r.method, r.operation, r.bucket, r.key, r.range, r.status, r.bytes_sent)
            for r in records[:3]
        ] == [
            (0, "GET", "GetObject", "data", "k, ü", (1, 3), 206, 2),
            (1, "GET", "GetObject", "more", "file", None, 200, 11),
            (2, "GET", "GetObject", "third", "x", None, 404, records[2].bytes_sent),
        ]
        assert (records[2].code, records[3].fault) == ("NoSuchKey", "slow_down")
        assert {record.connection for record in records} == {1}
        assert endpoint.fault_counts() == {"slow_down": 1}
        endpoint.clear_requests()
        assert endpoint.requests() == []
        endpoint.set_faults(None)
        assert client.get("/more/file")[0] == 200
        new = endpoint.replace_between("more", "file", b"new")
        assert client.get("/more/file")[2] == b"from a file"
        status, headers, body = client.get("/more/file")
        assert (status, headers["etag"], body) == (200, new, b"new")
        assert endpoint.fault_counts()["replace"] == 1
    assert source.read_bytes() == b"from a file"
    assert list((tmp_path / "root" / "staging").iterdir()) == []


@pytest.mark.parametrize("in_process", [True, False])
def test_wrong_calls_are_config_errors(tmp_path, in_process):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        S3Endpoint(tmp_path / "foreign", in_process=in_process)
    with pytest.raises(ConfigError, match="bucket"):
        S3Endpoint(buckets=("Not Allowed",), in_process=in_process)
    with S3Endpoint(in_process=in_process) as endpoint:
        with pytest.raises(ConfigError, match="listen"):
            S3Endpoint(port=endpoint.port, in_process=in_process)
        with pytest.raises(ConfigError, match="nowhere"):
            endpoint.put("nowhere", "k", b"x")
        with pytest.raises(ConfigError, match="too long"):
            endpoint.put("data", "k" * 2000, b"x")
        with pytest.raises(FileNotFoundError):
            endpoint.put("data", "k", tmp_path / "missing")
        with pytest.raises(ConfigError, match="bucket"):
            endpoint.create_bucket("..")
        assert list((endpoint.root / "staging").iterdir()) == []


def test_the_environment_leads_sdks_to_the_endpoint(endpoint, monkeypatch):
    import boto3

    for name, value in endpoint.environment().items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    try:
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["data"]
    finally:
        client.close()


def test_exported_leads_there_whatever_else_is_set_up(endpoint, monkeypatch, tmp_path):
    import boto3

    elsewhere = "http://127.0.0.1:9"
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = {elsewhere}\nregion = mars\n")
    hostile = {
        "AWS_ENDPOINT_URL_S3": elsewhere,
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_PROFILE": "nobody",
        "AWS_SESSION_TOKEN": "old",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "DATAPLANE_ANONYMOUS": "1",
        "HTTP_PROXY": elsewhere,
        "http_proxy": elsewhere,
        "NO_PROXY": "example.org",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with endpoint.exported():
        client = boto3.session.Session().client("s3")
        assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["data"]
        client.close()
        assert open_store("s3://data").put("k", b"x").key == "k"
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"
    assert dict(os.environ) == before


def test_secrets_are_random_and_never_shown():
    with S3Endpoint(in_process=True) as first, S3Endpoint(in_process=True) as second:
        assert first.secret_key != second.secret_key
    with S3Endpoint() as endpoint:
        pid = process_id_of(endpoint)
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert endpoint.secret_key.encode() not in arguments + environment


def test_the_log_holds_a_request_as_soon_as_its_client_has_the_answer(open_endpoint, connect):
    open_endpoint.put("data", "k", b"x" * 300_000)
    client = connect(open_endpoint)
    for count in range(1, 50):
        client.get("/data/k")
        records = open_endpoint.requests()
        assert (len(records), records[-1].bytes_sent) == (count, 300_000)


def test_the_log_is_bounded_and_keeps_the_newest(connect):
    with S3Endpoint(in_process=True, anonymous=True, limits=Limits(log_records=10)) as endpoint:
        client = connect(endpoint)
        for _ in range(25):
            client.get("/data/k")
        assert [record.index for record in endpoint.requests()] == list(range(15, 25))


def test_many_connections_are_served_at_once(open_endpoint, connect):
    open_endpoint.put("data", "k", b"x" * 1000)
    clients = [connect(open_endpoint) for _ in range(50)]
    for _ in range(3):
        for client in clients:
            client.send(b"GET /data/k HTTP/1.1\r\nHost: h\r\n\r\n")
        assert all(client.answer()[2] == b"x" * 1000 for client in clients)
    assert len(open_endpoint.requests()) == 150


def test_closing_leaves_no_thread_no_folder_and_refuses_connections(connect):
    before = own_threads()
    endpoint = S3Endpoint(in_process=True, anonymous=True)
    clients = [connect(endpoint) for _ in range(5)]
    for client in clients:
        client.get("/data/k")
    root = endpoint.root
    endpoint.close()
    endpoint.close()
    assert own_threads() == before
    assert not root.exists()
    with pytest.raises(ConnectionRefusedError):
        connect(endpoint)
    assert all(client.at_end() for client in clients)


def test_no_answer_leaves_a_file_open(connect):
    def open_files() -> int:
        return sum("buckets" in os.readlink(entry) for entry in files() if entry.is_symlink())

    def files() -> list[Path]:
        return list(Path("/proc/self/fd").iterdir())

    with S3Endpoint(in_process=True, anonymous=True) as endpoint:
        etag = endpoint.put("data", "k", b"x" * 300_000)
        endpoint.set_faults(Faults(script=("", "", "", "", "slow_down", "truncate", "reset_body")))
        headers = ["If-Match: wrong", f"If-None-Match: {etag}", "Range: bytes=900000-", "X: y"]
        statuses = [connect(endpoint).get("/data/k", header)[0] for header in headers]
        assert statuses == [412, 304, 416, 200]
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                connect(endpoint).get("/data/k")
        assert [record.fault for record in endpoint.requests()][-3:] == [
            "slow_down",
            "truncate",
            "reset_body",
        ]
        assert open_files() == 0


def test_closing_ends_the_process_and_removes_its_folder(connect):
    endpoint = S3Endpoint(anonymous=True)
    pid, root = process_id_of(endpoint), endpoint.root
    client = connect(endpoint)
    assert client.get("/data/k")[0] == 404
    started = time.monotonic()
    endpoint.close()
    endpoint.close()
    assert time.monotonic() - started < 5
    assert not is_running(pid)
    assert not root.exists()
    with pytest.raises(StoreError, match="closed"):
        endpoint.requests()


OWNER = """
import os, sys, time
from dataplane_testing.s3 import S3Endpoint
from tests.testing.inside import process_id_of
endpoint = S3Endpoint()
if "fork" in sys.argv:
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
print(process_id_of(endpoint), endpoint.root, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_with_its_owner_however_that_ends(number):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    with owner:
        assert owner.stdout is not None
        pid_text, root = owner.stdout.readline().decode().split()
        owner.send_signal(number)
        owner.wait(10)
        wait_until(lambda: not is_running(int(pid_text)))
        assert not Path(root).exists()


def test_the_process_ends_with_its_owner_even_if_a_fork_holds_the_control_socket():
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, "fork"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    with owner:
        try:
            assert owner.stdout is not None
            pid_text, root = owner.stdout.readline().decode().split()
            owner.kill()
            owner.wait(10)
            wait_until(lambda: not is_running(int(pid_text)))
            assert not Path(root).exists()
        finally:
            os.killpg(owner.pid, signal.SIGKILL)  # the fork, a child of our own child


def test_an_endpoint_whose_process_was_killed_says_so(connect):
    endpoint = S3Endpoint()
    root = endpoint.root
    os.kill(process_id_of(endpoint), signal.SIGKILL)
    with pytest.raises(StoreError, match="does not answer"):
        endpoint.requests()
    endpoint.close()
    import shutil

    shutil.rmtree(root)  # nobody was left to do it


def test_a_forked_process_does_not_stop_its_parents_endpoint(connect):
    with S3Endpoint(anonymous=True) as endpoint:
        child = subprocess.run(  # a fork of the interpreter, without forking pytest
            [sys.executable, "-W", "ignore", "-c", FORKER],
            check=False,
            capture_output=True,
            timeout=60,
            text=True,
        )
        assert child.stdout == "child closed\nparent 404\n", child.stderr
        assert connect(endpoint).get("/data/k")[0] == 404


FORKER = """
import os, urllib.request, urllib.error
from dataplane_testing.s3 import S3Endpoint
with S3Endpoint(anonymous=True) as endpoint:
    pid = os.fork()
    if pid == 0:
        endpoint.close()
        print("child closed", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        urllib.request.urlopen(endpoint.url + "/data/k", timeout=10)
    except urllib.error.HTTPError as err:
        print("parent", err.code, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_until_it_is_told_to_stop(tmp_path, number):
    program = subprocess.Popen(
        [
            *(sys.executable, "-m", "dataplane_testing.s3", "--bucket", "mine"),
            *("--root", str(tmp_path / "root"), "--secret-key", "it's secret"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        lines = [program.stdout.readline().strip() for _ in range(7)]
        assert "export AWS_SECRET_ACCESS_KEY='it'\"'\"'s secret'" in lines
        assert (tmp_path / "root" / "buckets" / "mine").is_dir()
        program.send_signal(number)
        _, errors = program.communicate(timeout=10)
        assert (program.returncode, errors) == (0, "")


def test_the_program_explains_a_folder_that_it_cannot_take(tmp_path):
    (tmp_path / "file").touch()
    program = subprocess.run(
        [sys.executable, "-m", "dataplane_testing.s3", "--root", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert program.returncode == ConfigError.exit_code
    assert program.stderr.startswith(f"{tmp_path} is not empty")
    assert len(program.stderr.splitlines()) == 1


def test_importing_the_testing_package_imports_no_server():
    code = "import sys, dataplane_testing; print('dataplane_testing.s3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout == "False\n"
