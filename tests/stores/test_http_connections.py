"""Connections past the client library, with TLS or without: kept, broken, stalled, forked."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest

from dataplane.errors import Timeout, Unavailable
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.http import connections
from dataplane.stores.http.channels import HttpServer
from dataplane_testing.s3 import Faults, S3Endpoint
from tests.stores.conftest import Serve
from tests.stores.fakes import Answer, Request
from tests.stores.inside import close_connections
from tests.stores.ranged import BODY, ONCE, good, stream


def test_a_connection_is_kept_for_the_next_stream(serve: Serve) -> None:
    with serve(good) as server:
        store = open_store(server.url, ONCE)
        for start in (0, 1, 70_000):
            assert stream(store, start) == BODY[start:]
        assert (server.connections, len(server.requests)) == (1, 3)
        assert all(request.headers["if-match"] == '"v1"' for request in server.requests)
        store.close()


def test_a_connection_that_the_server_closed_is_replaced(serve: Serve) -> None:
    """At once after the answer, or with the next request, to which it then says nothing."""

    def closing(request: Request) -> Answer:
        answer = good(request)
        answer.keep = len(server.requests) % 3 != 0
        if len(server.requests) == 5:
            answer.keep, answer.raw = False, b""
        return answer

    with serve(closing) as server:
        store = open_store(server.url, ONCE)
        for _ in range(6):
            assert stream(store) == BODY
        assert store.counters["store_retries"] == 0
        store.close()
        assert len(server.requests) == 7


def test_no_answer_on_a_new_connection_is_unavailable(serve: Serve) -> None:
    with serve(lambda _: Answer(raw=b"")) as server:
        with pytest.raises(Unavailable, match="the connection broke"):
            stream(open_store(server.url, ONCE))
        assert len(server.requests) == 1


def test_a_stream_that_is_given_up_closes_its_connection(serve: Serve) -> None:
    with serve(good) as server:
        store = open_store(server.url, ONCE)
        pieces = store.stream_range("k", 0, len(BODY), piece_bytes=1000)
        assert bytes(next(pieces)) == BODY[:1000]
        pieces.close()
        assert stream(store) == BODY
        store.close()


def test_a_pause_is_a_timeout_and_a_slow_stream_is_not(serve: Serve) -> None:
    def stalls(request: Request) -> Answer:
        answer = good(request)
        answer.cut, answer.keep = 1000, True
        return answer

    with serve(stalls) as server:
        store = open_store(server.url, StoreConfig(max_attempts=1, timeout_s=0.2, hedge=False))
        with pytest.raises(Timeout, match="no answer in time"):
            stream(store)
        store.close()
    with S3Endpoint(buckets=("slow",)) as endpoint, endpoint.exported():
        store = open_store("s3://slow", StoreConfig(timeout_s=0.5, hedge=False))
        store.put("k", BODY)
        endpoint.set_faults(Faults(bandwidth_bytes_per_s=2e6))
        begun_s = time.monotonic()
        pieces = store.stream_range("k", 0, len(BODY), piece_bytes=len(BODY))
        assert b"".join(map(bytes, pieces)) == BODY
        assert time.monotonic() - begun_s > 0.6
        assert store.counters["store_retries"] == 0


def test_a_stream_that_the_garbage_collector_ends_leaves_no_broken_connection(serve: Serve) -> None:
    """Its last piece was received, and it is part of a cycle with all that it holds."""

    class Cycle:
        pass

    with serve(good) as server:
        store = open_store(server.url, ONCE)
        for _ in range(200):
            cycle = Cycle()
            cycle.itself = cycle  # type: ignore[attr-defined]
            cycle.pieces = store.stream_range("k", 0, 1000, piece_bytes=1000)  # type: ignore[attr-defined]
            assert bytes(next(cycle.pieces)) == BODY[:1000]  # type: ignore[attr-defined]
            del cycle
            gc.collect(0)
            assert stream(store, 0, 1000) == BODY[:1000]
        store.close()
        del store
        gc.collect()


def test_a_forked_child_does_not_share_the_bytes_of_a_stream(serve: Serve) -> None:
    with serve(good) as server:
        store = open_store(server.url, ONCE)
        pieces = store.stream_range("k", 0, len(BODY), piece_bytes=1 << 16)
        got = [bytes(next(pieces))]
        child = os.fork()
        if child == 0:
            try:
                next(pieces)
            except Unavailable:
                pieces.close()
                os._exit(0)
            except BaseException:
                os._exit(2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        got += map(bytes, pieces)
        assert b"".join(got) == BODY
        store.close()


def test_connections_that_are_not_used_for_long_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = types.SimpleNamespace(monotonic=lambda: now.s, s=0.0)
    monkeypatch.setattr(connections, "time", now)
    limits = {"timeout_s": 10.0, "connect_timeout_s": 10.0, "max_idle": 8}
    with S3Endpoint(buckets=("idle",), anonymous=True) as endpoint:
        endpoint.put("idle", "k", BODY)
        server = HttpServer("http", "127.0.0.1", endpoint.port)
        client = connections.HttpConnections(server, **limits)
        before = len(os.listdir("/proc/self/fd"))
        memory = memoryview(bytearray(len(BODY)))

        def get(count: int) -> int:
            """So many at once; return how many connections there are afterwards."""
            answers = [client.get("/idle/k", {}) for _ in range(count)]
            assert len(os.listdir("/proc/self/fd")) >= before + count
            for answer in answers:
                assert answer.read_into(memory) == len(BODY)
                assert memory == BODY
                answer.close()
            return len(os.listdir("/proc/self/fd")) - before

        assert get(10) == 8
        now.s = 20.0
        assert get(1) == 8
        now.s = 40.0
        assert get(1) == 1, "the others have waited for 40 s"
        client.close()
        assert get(1) == 0


def test_every_address_of_a_name_gets_its_share(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one where nobody is does no harm."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    with serve(lambda request: good(request, keep=False)) as server:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            refusing = closed.getsockname()
        answering = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        addresses = [(*kind, refusing), (*kind, answering)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        store = open_store(server.url, ONCE)
        for _ in range(8):
            assert stream(store, 0, 1000) == BODY[:1000]
        addresses[1:] = []
        with pytest.raises(Unavailable, match="no connection"):
            stream(store, 0, 1000)
    assert len(server.requests) == 8


def test_a_forked_child_leaves_the_connections_to_its_parent(serve: Serve) -> None:
    with serve(good) as server:
        store = open_store(server.url, ONCE)
        assert stream(store) == BODY
        child = os.fork()
        if child == 0:
            close_connections()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert stream(store) == BODY
        assert server.connections == 1
        store.close()


def test_ctrl_c_ends_the_wait_for_bytes(serve: Serve) -> None:
    program = """
import sys
from dataplane.stores import StoreConfig, open_store
store = open_store(sys.argv[1], StoreConfig(max_attempts=1, timeout_s=60, hedge=False))
print("asking", flush=True)
list(store.stream_range("k", 0, 1000000, piece_bytes=1000000))
"""
    asked = threading.Event()

    def stalls(request: Request) -> Answer:
        answer = good(request)
        answer.cut = 1000
        asked.set()
        return answer

    with serve(stalls) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", program, server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert asked.wait(60)
            time.sleep(0.3)
            begun_s = time.monotonic()
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=30)
            assert time.monotonic() - begun_s < 10
        finally:
            child.kill()
            child.wait()
    assert said.rstrip().endswith(b"KeyboardInterrupt")
