"""How fast ranges of one object arrive: our store, its client alone, s3fs, and a raw socket.

Against the embedded endpoint (a process of its own, sendfile) the ceiling is a raw socket that
receives into memory allocated once, with requests signed in advance. Against the user's own bucket
there is no socket that we may assume, and the ceiling is obstore without our wrappers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import random
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dataplane.stores import open_store
from dataplane_bench.isolated import RivalFailed
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Cost, Row, System, summarise
from dataplane_bench.rounds import run_rounds, start_all, timed
from dataplane_bench.signing import presigned_url
from dataplane_testing.s3 import S3Endpoint

__all__ = ["StoreOptions", "run"]

_BUCKET = "bench"
_KEY = "object"
_SOCKET = f"{CEILING_PREFIX}socket"
_CLIENT = f"{CEILING_PREFIX}obstore"


@dataclasses.dataclass(frozen=True, slots=True)
class StoreOptions:
    """What to read and how often.

    Attributes:
        store_url: prefix to write one object to; None starts the embedded endpoint.
        object_bytes: its size.
        range_bytes: sizes of the ranges, one comparison each.
        connections: requests under way at once, one comparison each.
        requests: of large ranges per run; small ranges get eight times as many.
        rounds: counted rounds; one more warms up.
        seed: of the offsets and of the order of systems.
    """

    store_url: str | None = None
    object_bytes: int = 512 << 20
    range_bytes: tuple[int, ...] = (8 << 20, 64 << 10)
    connections: tuple[int, ...] = (1, 8)
    requests: int = 64
    rounds: int = 5
    seed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class StoreInput:
    """One comparison: ranges `(start, stop)` of one object."""

    url: str
    key: str
    ranges: tuple[tuple[int, int], ...]
    connections: int
    environment: dict[str, str]


def run(options: StoreOptions, progress: Callable[[str], None]) -> list[Row]:
    """Write the object, run every comparison, remove the object."""
    rows: list[Row] = []
    with ExitStack() as stack:
        environment: dict[str, str] = {}
        url = options.store_url
        if url is None:
            root = stack.enter_context(tempfile.TemporaryDirectory(prefix="dataplane-bench-"))
            endpoint = stack.enter_context(S3Endpoint(root=Path(root), buckets=(_BUCKET,)))
            environment = endpoint.environment()
            stack.enter_context(endpoint.exported())
            url = f"s3://{_BUCKET}"
        key = f"{_KEY}-{uuid.uuid4().hex}"
        store = open_store(url)
        progress("writing the object")
        store.put(key, np.random.default_rng(options.seed).bytes(options.object_bytes))
        stack.callback(store.close)
        stack.callback(store.delete, key)
        for range_bytes in options.range_bytes:
            for connections in options.connections:
                given = StoreInput(
                    url, key, _ranges(options, range_bytes), connections, environment
                )
                rows += _compare(given, range_bytes, options, progress)
    return rows


def _ranges(options: StoreOptions, range_bytes: int) -> tuple[tuple[int, int], ...]:
    random_ = random.Random(options.seed)
    slots = max(1, options.object_bytes // range_bytes)
    count = options.requests * (8 if range_bytes < 1 << 20 else 1)
    starts = [random_.randrange(slots) * range_bytes for _ in range(count)]
    return tuple((s, min(s + range_bytes, options.object_bytes)) for s in starts)


def _compare(
    given: StoreInput, range_bytes: int, options: StoreOptions, progress: Callable[[str], None]
) -> list[Row]:
    embedded = bool(given.environment)
    case = Case(
        "store",
        "embedded S3 endpoint" if embedded else given.url,
        chunk_bytes=range_bytes,
        selection=f"{given.connections} at once",
    )
    contenders: list[tuple[str, int, Callable[[], System]]] = [
        (name, given.connections, functools.partial(build, given))
        for name, build in (
            (OUR_SYSTEM, OurStore),
            (S3fs.name, S3fs),
            *(
                (("obstore", ClientAlone), (_SOCKET, RawSocket))
                if embedded
                else ((_CLIENT, ClientAlone),)
            ),
        )
    ]
    alive, costs = run_rounds(
        start_all(contenders, progress),
        rounds=options.rounds,
        warmup=1,
        seed=options.seed,
        progress=progress,
    )
    return summarise(case, alive, costs, ceiling=_SOCKET if embedded else _CLIENT)


class _Threaded:
    """Reads all ranges from a pool of threads."""

    name = "threaded"

    def __init__(self, given: StoreInput) -> None:
        os.environ.update(given.environment)
        self.threads = given.connections
        self.given = given
        self._pool = ThreadPoolExecutor(given.connections)

    def run(self) -> Cost:
        """Read every range once."""
        return timed(
            lambda: sum(self._pool.map(self.get, self.given.ranges)),
            samples=len(self.given.ranges),
        )

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range and return its length."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


class OurStore(_Threaded):
    """`open_store(url).get_range`, with retry, limit and metering."""

    name = OUR_SYSTEM

    def __init__(self, given: StoreInput) -> None:
        super().__init__(given)
        self._store = open_store(given.url)
        self._etag = self._store.head(given.key).etag

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range."""
        return len(self._store.get_range(self.given.key, *piece, if_match=self._etag))


class ClientAlone(_Threaded):
    """obstore's `get_range`, without our wrappers."""

    name = "obstore"

    def __init__(self, given: StoreInput) -> None:
        super().__init__(given)
        import obstore.store

        self._store = obstore.store.S3Store.from_url(given.url, client_options={"allow_http": True})

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range."""
        import obstore

        start, stop = piece
        return len(obstore.get_range(self._store, self.given.key, start=start, end=stop))


class S3fs:
    """s3fs, its coroutines gathered in one event loop."""

    name = "s3fs"

    def __init__(self, given: StoreInput) -> None:
        os.environ.update(given.environment)
        import s3fs

        self.threads = given.connections
        self._given = given
        self._loop = asyncio.new_event_loop()
        self._filesystem: Any = s3fs.S3FileSystem(asynchronous=True, loop=self._loop)
        self._path = f"{given.url.removeprefix('s3://')}/{given.key}"
        self._session: Any = self._loop.run_until_complete(self._filesystem.set_session())

    def run(self) -> Cost:
        """Read every range once."""
        return timed(
            lambda: self._loop.run_until_complete(self._all()), samples=len(self._given.ranges)
        )

    def close(self) -> None:
        """Close the session and the loop."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._session.close())
            self._loop.close()

    async def _all(self) -> int:
        limit = asyncio.Semaphore(self._given.connections)

        async def get(start: int, stop: int) -> int:
            async with limit:
                return len(await self._filesystem._cat_file(self._path, start=start, end=stop))

        return sum(await asyncio.gather(*(get(*piece) for piece in self._given.ranges)))


class RawSocket(_Threaded):
    """The ceiling: presigned requests on kept-alive sockets, received into reused memory."""

    name = _SOCKET

    def __init__(self, given: StoreInput) -> None:
        super().__init__(given)
        bucket = urlsplit(given.url).netloc
        signed = urlsplit(presigned_url(given.environment, bucket, given.key))
        self._address = (signed.hostname, signed.port)
        self._head = f"GET {signed.path}?{signed.query} HTTP/1.1\r\nHost: {signed.netloc}\r\n"
        self._local = threading.local()
        self._largest = max(stop - start for start, stop in given.ranges)

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range."""
        start, stop = piece
        connection, memory = self._connection()
        connection.sendall(f"{self._head}Range: bytes={start}-{stop - 1}\r\n\r\n".encode())
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            head += connection.recv(4096)
        if not head.startswith(b"HTTP/1.1 206"):
            raise RivalFailed(f"the endpoint answered {bytes(head[:40])!r}")
        memory[: len(head) - end - 4] = head[end + 4 :]
        got = len(head) - end - 4
        while got < stop - start:
            got += connection.recv_into(memory[got : stop - start])
        return got

    def _connection(self) -> tuple[socket.socket, memoryview]:
        if not hasattr(self._local, "pair"):
            connection = socket.create_connection(self._address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._local.pair = (connection, memoryview(bytearray(self._largest)))
        pair: tuple[socket.socket, memoryview] = self._local.pair
        return pair
