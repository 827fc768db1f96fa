"""Fixtures that lend tests a real S3 server.

`s3_server` is whatever DATAPLANE_TEST_S3_ENDPOINT names (with the usual AWS_* variables), else
Ceph's radosgw started once per test session, else a skip that says why. `s3_url` is an empty place
on it (`s3://bucket/prefix`) whose credentials are in the environment, so that `open_store(s3_url)`
works; `s3_bucket` is a whole bucket, which takes longer to make. `moto_url` is such a place on
moto, in this process: for small objects, and available everywhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_ENVIRON = dict(os.environ)  # Before any fixture clears the AWS variables.
_SCRIPT = Path(__file__).with_name("ceph_rgw.sh")
_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
_START_TIMEOUT_S = 100.0
_MOTO_BUCKET = "dataplane-test"


@dataclass(frozen=True)
class S3Server:
    """An S3 server and the keys to it."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    session_token: str | None = None

    def environ(self) -> dict[str, str]:
        """The variables that point dataplane, boto3 and s3fs at this server."""
        variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }
        if self.session_token:
            variables["AWS_SESSION_TOKEN"] = self.session_token
        return variables

    def client(self) -> Any:
        """A boto3 client, for what stores do not do: making buckets."""
        boto3 = pytest.importorskip("boto3")
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            aws_session_token=self.session_token,
        )


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of a server."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """Its URL for `open_store`."""
        return f"s3://{self.name}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server: the one that is named, else Ceph radosgw, else a skip."""
    endpoint = _ENVIRON.get("DATAPLANE_TEST_S3_ENDPOINT")
    if endpoint:
        yield S3Server(
            endpoint,
            _ENVIRON.get("AWS_ACCESS_KEY_ID", ""),
            _ENVIRON.get("AWS_SECRET_ACCESS_KEY", ""),
            _ENVIRON.get("AWS_REGION", "us-east-1"),
            _ENVIRON.get("AWS_SESSION_TOKEN"),
        )
        return
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"no S3 server: {', '.join(missing)} not installed (Debian packages ceph-mon ceph-osd "
            f"radosgw), and DATAPLANE_TEST_S3_ENDPOINT is not set"
        )
    with _Ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """An empty bucket on the real server, reachable with the environment's credentials."""
    with _bucket(s3_server) as name:
        _point_at(s3_server, monkeypatch)
        yield S3Bucket(s3_server, name)


@pytest.fixture(scope="session")
def _s3_session_bucket(s3_server: S3Server) -> Iterator[str]:
    with _bucket(s3_server) as name:
        yield name


@pytest.fixture
def s3_url(s3_server: S3Server, _s3_session_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place on the real server, reachable with the environment's keys."""
    _point_at(s3_server, monkeypatch)
    return f"s3://{_s3_session_bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """moto's S3 in this process. It checks no signatures and is slow for objects above 8 MiB."""
    moto = pytest.importorskip("moto.server")
    thread = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    thread.start()
    host, port = thread.get_host_and_port()
    server = S3Server(f"http://{host}:{port}", "AKIDTEST", "SECRETTEST")
    with _bucket(server, _MOTO_BUCKET):
        yield server
    thread.stop()


@pytest.fixture
def moto_url(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place on moto, reachable with the environment's keys."""
    _point_at(moto_server, monkeypatch)
    return f"s3://{_MOTO_BUCKET}/{uuid.uuid4().hex}"


def _point_at(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)


@contextlib.contextmanager
def _bucket(server: S3Server, name: str | None = None) -> Iterator[str]:
    client = server.client()
    name = name or f"dataplane-test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
            if keys:
                client.delete_objects(Bucket=name, Delete={"Objects": keys})
        client.delete_bucket(Bucket=name)
        client.close()


class _Ceph:
    """radosgw for the time of a `with` block; it also ends when this process does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._errors = (folder / "errors").open("w+b")
        self._process = subprocess.Popen(
            ["bash", str(_SCRIPT), str(folder / "state"), str(_free_ports(3))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for the tests; they stop the server in order.
        )

    def __enter__(self) -> S3Server:
        assert self._process.stdout is not None
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self._process.stdout, select.POLLIN)
        ready = poll.poll(_START_TIMEOUT_S * 1000)
        line = self._process.stdout.readline().decode().strip() if ready else ""
        if not line.startswith("http://"):
            self.__exit__()
            self._errors = (self._folder / "errors").open("rb")
            report = self._errors.read().decode(errors="replace")
            self._errors.close()
            pytest.fail(f"radosgw is installed and did not start:\n{report}")
        return S3Server(line, "AKIDTEST", "SECRETTEST")

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait(15)
        self._process.stdout.close()
        self._errors.close()


def _free_ports(count: int) -> int:
    """The first of `count` free ports in a row, below those the kernel gives to clients."""
    for first in range(20100 + os.getpid() % 4000, 32000, count):
        sockets: list[socket.socket] = []
        try:
            for port in range(first, first + count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free ports")
