"""An engine in a process of its own, driven over a private socket pair.

The client's interpreter then shares no lock with the server's, which is what a benchmark needs.
Messages are lines of JSON, one response to each request; the first carries the settings, so that
the secret appears in no argument list. The socket pair is inherited, not named: no other process
can reach it. Bodies do not pass through it, they are files in the staging folder.

The child ends when its side of the pair reports that the parent's is closed, or when its parent
has changed (a forked sibling may hold the pair open): no endpoint outlives its owner. Ctrl-C
reaches the whole terminal group; the child ignores it and leaves it to the parent to stop.

`RemoteEngine` is thread-safe: one lock around a request and its response.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import dataplane
from dataplane.errors import ConfigError, StoreError
from dataplane_testing.s3.engine import Engine, Settings
from dataplane_testing.s3.faults import Faults
from dataplane_testing.s3.model import Limits, RequestRecord

__all__ = ["RemoteEngine", "serve_control"]

_START_S = 30.0
_STOP_S = 10.0
_ANSWER_S = 120.0
_PARENT_CHECK_S = 1.0
_RECV_BYTES = 1 << 20
_MAX_REQUEST_BYTES = 1 << 20


class RemoteEngine:
    """An engine with the calls of `Engine`, served by a child process.

    Raises:
        ConfigError: as `Engine`.
        StoreError: the process did not start.
    """

    def __init__(self, settings: Settings) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        ours, theirs = socket.socketpair()
        with theirs:
            package_root = str(Path(dataplane.__file__).resolve().parent.parent)
            paths = [package_root, os.environ.get("PYTHONPATH", "")]
            self._process = subprocess.Popen(
                [sys.executable, "-m", __package__, "--control-fd", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        self._sock: socket.socket | None = ours
        ours.settimeout(_START_S)
        try:
            answer = self._call("start", **_encode_settings(settings))
        except BaseException:
            self.close()
            raise
        ours.settimeout(_ANSWER_S)
        self.port = int(answer["port"])
        self.root = Path(answer["root"])

    @property
    def staging(self) -> Path:
        """See `Engine.staging`."""
        return self.root / "staging"

    def adopt(self, bucket: str, key: str, path: Path, after_gets: int = 0) -> str:
        """See `Engine.adopt`."""
        answer = self._call("adopt", bucket=bucket, key=key, path=str(path), after_gets=after_gets)
        return str(answer["etag"])

    def create_bucket(self, bucket: str) -> None:
        """See `Engine.create_bucket`."""
        self._call("create_bucket", bucket=bucket)

    def set_faults(self, faults: Faults) -> None:
        """See `Engine.set_faults`."""
        self._call("set_faults", faults=asdict(faults))

    def fault_counts(self) -> dict[str, int]:
        """See `Engine.fault_counts`."""
        return dict(self._call("fault_counts")["counts"])

    def requests(self) -> list[RequestRecord]:
        """See `Engine.requests`."""
        return [_decode_record(row) for row in self._call("requests")["requests"]]

    def clear_requests(self) -> None:
        """See `Engine.clear_requests`."""
        self._call("clear_requests")

    def close(self) -> None:
        """Stop the child and wait for its end. Idempotent; does nothing in a forked process."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        if os.getpid() != self._pid or sock is None:
            return
        # Its end of the pair has told it to stop; a fork of ours may hold the pair open.
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _call(self, operation: str, **arguments: object) -> dict[str, Any]:
        request = json.dumps({"operation": operation, **arguments}).encode() + b"\n"
        with self._lock:
            sock = self._sock
            if sock is None or os.getpid() != self._pid:
                raise StoreError(
                    "the S3 endpoint is closed, or was started by another process",
                    hint="start it in the process that uses it",
                )
            try:
                sock.sendall(request)
                line = _receive_line(sock)
            except OSError as err:
                # A late response would be taken for that of the next request.
                self._sock = None
                sock.close()
                self._process.kill()
                self._process.wait()
                raise StoreError(f"the S3 endpoint's process does not answer: {err}") from err
        answer = json.loads(line)
        if "error" in answer:
            raise ConfigError(answer["error"])
        return dict(answer)


def serve_control(fd: int) -> None:
    """Run an engine for the process at the other end of `fd`, until it closes or dies."""
    parent = os.getppid()
    stop_reader, stop_writer = os.pipe()
    os.set_blocking(stop_writer, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(stop_writer)
    engine: Engine | None = None
    with socket.socket(fileno=fd) as sock:
        try:
            pending = b""
            poll = select.poll()  # select() takes no descriptor above 1023
            poll.register(fd, select.POLLIN)
            poll.register(stop_reader, select.POLLIN)
            while os.getppid() == parent:
                ready = {ready for ready, _ in poll.poll(_PARENT_CHECK_S * 1000)}
                if stop_reader in ready:
                    return
                if not ready:
                    continue
                more = sock.recv(_RECV_BYTES)
                if not more:
                    return
                pending += more
                while b"\n" in pending:
                    line, _, pending = pending.partition(b"\n")
                    engine, answer = _perform(engine, json.loads(line))
                    sock.sendall(json.dumps(answer).encode() + b"\n")
                if len(pending) > _MAX_REQUEST_BYTES:
                    return
        except ConnectionError:
            return
        finally:
            if engine is not None:
                engine.close()
            signal.set_wakeup_fd(-1)
            os.close(stop_reader)
            os.close(stop_writer)


def _perform(
    engine: Engine | None, request: dict[str, Any]
) -> tuple[Engine | None, dict[str, Any]]:
    operation = request.pop("operation")
    try:
        if operation == "start":
            engine = Engine(_decode_settings(request))
            return engine, {"port": engine.port, "root": str(engine.root)}
        assert engine is not None, "the first request starts the engine"
        return engine, _perform_started(engine, operation, request)
    except (ConfigError, OSError) as err:
        return engine, {"error": str(err)}


def _perform_started(engine: Engine, operation: str, request: dict[str, Any]) -> dict[str, Any]:
    if operation == "adopt":
        path = Path(request["path"])
        etag = engine.adopt(request["bucket"], request["key"], path, request["after_gets"])
        return {"etag": etag}
    if operation == "create_bucket":
        engine.create_bucket(request["bucket"])
    elif operation == "set_faults":
        engine.set_faults(Faults.from_mapping(request["faults"]))
    elif operation == "fault_counts":
        return {"counts": engine.fault_counts()}
    elif operation == "requests":
        names = [field.name for field in fields(RequestRecord)]
        rows = [[getattr(record, name) for name in names] for record in engine.requests()]
        return {"requests": rows}
    elif operation == "clear_requests":
        engine.clear_requests()
    else:
        raise ConfigError(f"unknown control operation: {operation}")
    return {}


def _decode_record(row: list[Any]) -> RequestRecord:
    values = dict(zip((field.name for field in fields(RequestRecord)), row, strict=True))
    if values["range"] is not None:
        values["range"] = tuple(values["range"])
    return RequestRecord(**values)


def _encode_settings(settings: Settings) -> dict[str, Any]:
    values = asdict(settings)
    for name in ("root", "certificate"):
        values[name] = None if values[name] is None else str(values[name])
    return values


def _decode_settings(values: dict[str, Any]) -> Settings:
    return Settings(
        root=None if values["root"] is None else Path(values["root"]),
        buckets=tuple(values["buckets"]),
        access_key=values["access_key"],
        secret_key=values["secret_key"],
        anonymous=values["anonymous"],
        port=values["port"],
        faults=Faults.from_mapping(values["faults"]),
        limits=Limits(**values["limits"]),
        certificate=None if values["certificate"] is None else Path(values["certificate"]),
    )


def _receive_line(sock: socket.socket) -> bytes:
    parts = []
    while True:
        part = sock.recv(_RECV_BYTES)
        if not part:
            raise ConnectionResetError("it ended")
        parts.append(part)
        if part.endswith(b"\n"):
            return b"".join(parts)
