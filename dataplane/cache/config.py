"""Configuration of the cache, and the warning of a directory that cannot be used.

`Cache` (in `cache.py`) opens one `CachedObject` per object version; `PlannedRead` is the unit of a
plan handed to `Cache.plan`. Configuration is a module of its own because every caller (loader,
mount, command line) passes it on as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from dataplane.cache.permissions import Sharing, parse_sharing
from dataplane.config import absolute_path, parse_flag, setting, with_attributes
from dataplane.errors import ConfigError
from dataplane.units import parse_bytes

__all__ = [
    "DEFAULT_BLOCK_BYTES",
    "MAX_BLOCK_BYTES",
    "MAX_HOST_REQUESTS",
    "MIN_BLOCK_BYTES",
    "CacheConfig",
    "CacheWarning",
    "default_dir",
]

DEFAULT_BLOCK_BYTES = 4 << 20
DEFAULT_PART_BLOCK_BYTES = 64 << 10
MIN_BLOCK_BYTES = 4096
MAX_BLOCK_BYTES = 64 << 20
MAX_HOST_REQUESTS = 1024
MAX_FETCH_THREADS = 256

_PART_THREADS = 4  # times as many downloads at once: a small one mostly waits for its first byte


_SIZES = (
    "size_bytes",
    "block_bytes",
    "part_block_bytes",
    "request_bytes",
    "prefetch_window_bytes",
    "prefetch_memory_bytes",
    "next_epoch_bytes",
)


def default_dir() -> Path:
    """Return `$XDG_CACHE_HOME/dataplane`, else `~/.cache/dataplane`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # Source: XDG Base Directory Specification, which says to ignore a relative path.
    return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "dataplane"


class CacheWarning(UserWarning):
    """The cache directory cannot be used: everything is read from the store, each time."""


@with_attributes
@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Configuration of a cache: its directory, its budget, and how hard it fetches.

    Raises:
        ConfigError: a value is out of its range.
    """

    dir: Path = setting(
        default_factory=default_dir,
        env="DATAPLANE_CACHE_DIR",
        parse=absolute_path,
        is_path=True,
        doc="directory",
    )
    size_bytes: int | None = setting(
        None,
        env="DATAPLANE_CACHE_SIZE",
        parse=parse_bytes,
        doc="budget; by default all but 10 % of the file system",
    )
    sharing: Sharing = setting(
        "private",
        env="DATAPLANE_CACHE_SHARING",
        parse=parse_sharing,
        doc="private, or group: shared by the users in the directory's group, who trust each other",
    )
    block_bytes: int = setting(
        DEFAULT_BLOCK_BYTES,
        env="DATAPLANE_BLOCK_BYTES",
        parse=parse_bytes,
        doc="unit of download and eviction, a multiple of 4096",
    )
    part_block_bytes: int = setting(
        DEFAULT_PART_BLOCK_BYTES,
        env="DATAPLANE_PART_BLOCK_BYTES",
        parse=parse_bytes,
        doc="that unit for a dataset which reads parts of its arrays; block_bytes if that is less",
    )
    fetch_threads: int = setting(
        8, env="DATAPLANE_FETCH_THREADS", parse=int, doc="downloads under way at once"
    )
    request_bytes: int = setting(
        16 << 20,
        env="DATAPLANE_REQUEST_BYTES",
        parse=parse_bytes,
        doc="most that one download asks for, but a block at least; blocks in a row come together",
    )
    host_requests: int = setting(
        64,
        env="DATAPLANE_HOST_REQUESTS",
        parse=int,
        doc="of all processes together, to one store; 0 for no limit",
    )
    prefetch_window_bytes: int = setting(
        512 << 20,
        env="DATAPLANE_PREFETCH_WINDOW",
        parse=parse_bytes,
        doc="how far ahead of its reader a plan is fetched",
    )
    prefetch_memory_bytes: int = setting(
        256 << 20,
        env="DATAPLANE_PREFETCH_MEMORY",
        parse=parse_bytes,
        doc="of that, how much is handed to its reader from memory",
    )
    next_epoch_bytes: int = setting(
        128 << 20,
        env="DATAPLANE_NEXT_EPOCH",
        parse=parse_bytes,
        doc="how much of the next epoch is fetched while one ends; 0 for none",
    )
    encrypt: bool = setting(
        False,
        env="DATAPLANE_CACHE_ENCRYPT",
        parse=parse_flag,
        doc="seal blocks (AES-256-GCM) with DATAPLANE_CACHE_KEY, key_file or a key of this boot",
    )
    key_file: Path | None = setting(
        None,
        env="DATAPLANE_CACHE_KEY_FILE",
        parse=absolute_path,
        is_path=True,
        doc="file with the key of an encrypted cache",
    )
    direct_io: bool = setting(
        True,
        env="DATAPLANE_CACHE_DIRECT_IO",
        parse=parse_flag,
        doc="write blocks past the page cache where the file system can",
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", absolute_path(self.dir))
        if self.key_file is not None:
            object.__setattr__(self, "key_file", absolute_path(self.key_file))
        for name in _SIZES:
            if isinstance(value := getattr(self, name), str):  # as the file has it: "200GiB"
                object.__setattr__(self, name, parse_bytes(value))
        parse_sharing(self.sharing)
        for name in ("block_bytes", "part_block_bytes"):
            block_bytes = getattr(self, name)
            if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes % 4096:
                raise ConfigError(
                    f"cache.{name} must be a multiple of 4096 from {MIN_BLOCK_BYTES} to "
                    f"{MAX_BLOCK_BYTES}, got {block_bytes}"
                )
        if self.encrypt and self.block_bytes == MAX_BLOCK_BYTES:
            raise ConfigError(
                f"an encrypted cache needs cache.block_bytes below {MAX_BLOCK_BYTES}: blocks grow"
            )
        if self.size_bytes is not None and self.size_bytes < self.block_bytes:
            raise ConfigError(
                f"cache.size_bytes ({self.size_bytes}) is smaller than one block "
                f"({self.block_bytes})"
            )
        if not 1 <= self.fetch_threads <= MAX_FETCH_THREADS:
            raise ConfigError(
                f"cache.fetch_threads must be 1 to {MAX_FETCH_THREADS}, got {self.fetch_threads}"
            )
        if not 0 <= self.host_requests <= MAX_HOST_REQUESTS:
            raise ConfigError(
                f"cache.host_requests must be 0 to {MAX_HOST_REQUESTS}, got {self.host_requests}"
            )
        if self.prefetch_window_bytes < self.block_bytes:
            raise ConfigError("cache.prefetch_window_bytes must hold at least one block")
        if self.prefetch_memory_bytes < 0:
            raise ConfigError("cache.prefetch_memory_bytes must not be negative")
        if self.next_epoch_bytes < 0:
            raise ConfigError("cache.next_epoch_bytes must not be negative")

    def for_parts(self) -> CacheConfig:
        """Return what a dataset that reads parts of its arrays uses: many small requests."""
        return replace(
            self,
            block_bytes=min(self.block_bytes, self.part_block_bytes),
            fetch_threads=min(_PART_THREADS * self.fetch_threads, MAX_FETCH_THREADS),
        )
