"""Service of a mount, in its process: opens and checks the store, mounts, serves, cleans up.

Everything that must not cross a fork (store clients, the cache, threads) is made here, in the
process that keeps it. Reports over `Ready` when the mount answers or why it never will.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from dataplane.cache import Cache
from dataplane.cache.config import CacheConfig
from dataplane.errors import ConfigError, DataplaneError, MountError, NotFound, StoreError
from dataplane.prometheus import serve_metrics
from dataplane.stores import open_store, split_url
from dataplane.stores.base import Store, StoreConfig
from dataplane.telemetry import Counters, logger
from dataplane.units import format_bytes
from dataplane_fuse.caching import CacheBlocks
from dataplane_fuse.datasets import PackedDatasets
from dataplane_fuse.filesystem import Filesystem, FilesystemOptions
from dataplane_fuse.frontends.fusepy import FrontEndOptions, serve

__all__ = ["MountRequest", "Ready", "check_answers", "run"]


@dataclass(frozen=True, slots=True)
class MountRequest:
    """Request of a mount: its URL, mount point and options.

    Attributes:
        url: URL to mount.
        mountpoint: empty directory.
        store: configuration of the store.
        cache: configuration of the cache.
        filesystem: options of the filesystem.
        allow_other: whether other users may look.
        page_cache: whether to use the kernel's page cache, for programs that map files shared.
        metrics_port: port to answer Prometheus at, or None.
        metrics_host: address to do that at.
    """

    url: str
    mountpoint: Path
    store: StoreConfig
    cache: CacheConfig
    filesystem: FilesystemOptions
    allow_other: bool = False
    page_cache: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


class Ready:
    """Report to the parent process, once, that the mount answers or why it does not.

    Args:
        descriptor: writing end of a pipe, or None when no process waits there. systemd is told
            where NOTIFY_SOCKET says so.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def succeed(self) -> None:
        """Report that the kernel has made contact."""
        self._write({"ready": True, "pid": os.getpid()})
        _notify_systemd()

    def fail(self, err: DataplaneError) -> None:
        """Report that there will be no mount."""
        self._write({"kind": err.kind, "message": err.message, "hint": err.hint})

    def _write(self, report: dict[str, object]) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with suppress(OSError):  # the reader has gone; the mount serves all the same
            os.write(descriptor, json.dumps(report).encode() + b"\n")
        os.close(descriptor)


def check_answers(store: Store, config: StoreConfig) -> None:
    """Check that the store can be listed and has something below its URL.

    Raises:
        StoreError: no such bucket or folder, wrong credentials, no answer.
        MountError: the URL names one object.
    """
    missing: NotFound | None = None
    try:
        listing = store.list_level("")
        if listing.objects or listing.prefixes or listing.hidden:
            return
    except NotFound as err:
        missing = err
    # Nothing below a URL: a typing error, an empty bucket, or an object taken for a folder.
    with suppress(ConfigError):
        root, key = split_url(store.url)
        with closing(open_store(root, config)) as around, suppress(StoreError):
            info = around.head(key)
            raise MountError(
                f"{store.url} is one object ({format_bytes(info.size_bytes)}), not a directory",
                hint=f"mount {root} instead",
            )
    if missing is not None:
        raise missing
    if store.full_key("").strip("/") and not store.identity.startswith("file:"):
        raise NotFound(f"there is nothing below {store.url}", hint="check the prefix")


def run(request: MountRequest, ready: Ready) -> None:
    """Mount and serve until the mount is removed, or SIGINT or SIGTERM arrives.

    Raises:
        DataplaneError: there is no mount, and `ready` was told why.
    """
    counters = Counters()
    try:
        with _metrics(request), _parts(request, counters) as (store, filesystem):
            options = FrontEndOptions(
                source=store.url,
                allow_other=request.allow_other,
                page_cache=request.page_cache,
                attribute_ttl_s=request.filesystem.list_ttl_s,
            )
            serve(filesystem, str(request.mountpoint), options, ready.succeed)
    except DataplaneError as err:
        ready.fail(err)
        raise
    logger.info("unmounted %s: %s", request.mountpoint, counters.snapshot())


def _metrics(request: MountRequest) -> AbstractContextManager[object]:
    if request.metrics_port is None:
        return nullcontext()
    server = serve_metrics(request.metrics_port, host=request.metrics_host)
    logger.info("metrics at http://%s:%d/metrics", request.metrics_host, server.port)
    return server


@contextmanager
def _parts(request: MountRequest, counters: Counters) -> Iterator[tuple[Store, Filesystem]]:
    with closing(open_store(request.url, request.store, counters=counters)) as store:
        check_answers(store, request.store)
        with closing(Cache(request.cache, counters=counters)) as cache:
            filesystem = Filesystem(
                store,
                CacheBlocks(store, cache),
                samples=PackedDatasets(),
                options=request.filesystem,
                counters=counters,
            )
            with closing(filesystem):
                yield store, filesystem


def _notify_systemd() -> None:
    # Source: sd_notify(3). A leading @ stands for the NUL of an abstract socket.
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect("\0" + address[1:] if address.startswith("@") else address)
        notify.send(b"READY=1")
