"""The store case: ranges of one object by our store, its client alone, s3fs, and a raw socket.

Our store is asked for whole ranges and for streams, which it receives past its client. Against the
embedded endpoint (a process of its own, sendfile) the ceiling is a raw socket that receives into
memory allocated once, with requests signed in advance; over TLS, OpenSSL on that socket. Against
the user's own bucket there is no socket that we may assume, and the ceiling is obstore without our
wrappers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import random
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from dataplane.cache import CacheConfig
from dataplane.stores import StoreConfig, open_store
from dataplane.stores.trust import root_certificates
from dataplane_bench.endpoint import start_endpoint
from dataplane_bench.model import CEILING_PREFIX, OUR_SYSTEM, Case, Cost, Row, System, summarise
from dataplane_bench.raw_socket import RawConnections, ceiling_name
from dataplane_bench.rounds import run_rounds, start_all, timed

if TYPE_CHECKING:
    from obstore.store import ClientConfig

__all__ = ["StoreOptions", "run"]

_BUCKET = "bench"
_KEY = "object"
_CLIENT = f"{CEILING_PREFIX}obstore"


@dataclasses.dataclass(frozen=True, slots=True)
class StoreOptions:
    """Options of the store case.

    Attributes:
        store_url: prefix to write one object to; None starts the embedded endpoint.
        tls: whether the embedded endpoint speaks TLS.
        object_bytes: size of the object.
        range_bytes: sizes of the ranges, one comparison each.
        connections: requests under way at once, one comparison each.
        requests: requests of large ranges per run; small ranges get eight times as many.
        rounds: counted rounds; one more warms up.
        seed: seed of the offsets and of the order of systems.
    """

    store_url: str | None = None
    tls: bool = False
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
            _, environment = start_endpoint(stack, _BUCKET, tls=options.tls)
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
    raw = ceiling_name(given.environment) if embedded else ""
    over = " over TLS" if options.tls else ""
    case = Case(
        "store",
        f"embedded S3 endpoint{over}" if embedded else given.url,
        chunk_bytes=range_bytes,
        selection=f"{given.connections} at once",
    )
    contenders: list[tuple[str, int, Callable[[], System]]] = [
        (name, given.connections, functools.partial(build, given))
        for name, build in (
            (OUR_SYSTEM, OurStore),
            (OurStreams.name, OurStreams),
            (S3fs.name, S3fs),
            *(
                (("obstore", ClientAlone), (raw, RawSocket))
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
    return summarise(case, alive, costs, ceiling=raw or _CLIENT)


class _Threaded:
    """A system that reads all ranges from a pool of threads."""

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
    """`open_store(url).get_range`, with retry, limit, hedge and metrics."""

    name = OUR_SYSTEM

    def __init__(self, given: StoreInput) -> None:
        super().__init__(given)
        self._store = open_store(given.url)
        self._etag = self._store.head(given.key).etag

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range."""
        return len(self._store.get_range(self.given.key, *piece, if_match=self._etag))


class OurStreams(OurStore):
    """`open_store(url).stream_range`, a piece for each block of a cache."""

    name = f"{OUR_SYSTEM} streams"

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range."""
        pieces = self._store.stream_range(
            self.given.key, *piece, piece_bytes=CacheConfig().block_bytes, if_match=self._etag
        )
        return sum(memoryview(part).nbytes for part in pieces)


class ClientAlone(_Threaded):
    """obstore's `get_range`, without our wrappers."""

    name = "obstore"

    def __init__(self, given: StoreInput) -> None:
        super().__init__(given)
        import obstore.store

        options: ClientConfig = {"allow_http": True}
        roots = root_certificates(StoreConfig(), given.environment)
        if roots is not None:
            options["root_certificate"] = roots
        self._store = obstore.store.S3Store.from_url(given.url, client_options=options)

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
    """The ceiling; see `raw_socket.py`."""

    def __init__(self, given: StoreInput) -> None:
        super().__init__(given)
        self.name = ceiling_name(given.environment)
        largest_bytes = max(stop - start for start, stop in given.ranges)
        bucket = urlsplit(given.url).netloc
        self._raw = RawConnections(given.environment, bucket, given.key, largest_bytes)

    def get(self, piece: tuple[int, int]) -> int:
        """Read one range."""
        return self._raw.get(*piece)

    def close(self) -> None:
        """Stop the threads, close their connections."""
        super().close()
        self._raw.close()
