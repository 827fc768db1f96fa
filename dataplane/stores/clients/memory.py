"""`MemoryStore`: objects in this process's memory, `memory://name/prefix`, for tests and examples.

All stores opened on one name see the same objects; the names last as long as the process. A child
made by fork starts from a copy. Reads return views of the stored bytes, which never change: a
replaced object is a new one. Etags are unique across processes, so that a cache on disk can never
take one process's objects for another's.

Thread-safe: one lock per name, never held during a copy.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dataplane.errors import NotFound, ObjectChanged, StoreError
from dataplane.stores.base import Buffer, Listing, ObjectInfo
from dataplane.stores.clients.piecewise import PiecewiseStore
from dataplane.stores.keys import (
    check_key,
    check_level,
    check_prefix,
    check_range,
    check_source,
    join_key,
    level_of,
)

__all__ = ["MemoryStore"]


class _Namespace:
    """The objects of one name."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, ObjectInfo]] = {}
        self._token = secrets.token_hex(8)
        self._counter = itertools.count()

    def next_etag(self) -> str:
        # The process is part of the tag: after a fork both sides would count on from one number.
        return f'"{self._token}-{os.getpid():x}-{next(self._counter):x}"'


_namespaces: dict[str, _Namespace] = {}
_namespaces_lock = threading.Lock()


def _namespace(name: str) -> _Namespace:
    with _namespaces_lock:
        return _namespaces.setdefault(name, _Namespace())


def _reset_locks() -> None:
    global _namespaces_lock  # noqa: PLW0603 - a lock held at the fork would stay held in the child
    _namespaces_lock = threading.Lock()
    for namespace in _namespaces.values():
        namespace.lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_locks)


class MemoryStore(PiecewiseStore):
    """A store whose objects live in this process. See the module's text."""

    def __init__(self, name: str, prefix: str = "") -> None:
        self._name = name
        self._prefix = prefix.strip("/")

    @property
    def url(self) -> str:
        return f"memory://{join_key(self._name, self._prefix)}".rstrip("/")

    @property
    def identity(self) -> str:
        return f"memory://{self._name}"

    def full_key(self, key: str) -> str:
        return join_key(self._prefix, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        namespace = _namespace(self._name)
        wanted = join_key(self._prefix, check_prefix(prefix))
        with namespace.lock:
            found = [info for key, (_, info) in namespace.objects.items() if key.startswith(wanted)]
        found.sort(key=lambda info: info.key)
        for info in found:
            yield self._relative(info)

    def list_level(self, prefix: str = "") -> Listing:
        return level_of(self.list(check_level(prefix)), prefix)

    def head(self, key: str) -> ObjectInfo:
        return self._relative(self._find(key)[1])

    def get_range(self, key: str, start: int, stop: int, *, if_match: str | None = None) -> Buffer:
        check_range(key, start, stop)
        if start == stop:
            return b""
        content, info = self._find(key)
        if if_match is not None and info.etag != if_match:
            raise ObjectChanged(
                f"{self.url}/{key} was replaced: expected etag {if_match}, it is now {info.etag}"
            )
        if stop > len(content):
            raise StoreError(
                f"{self.url}/{key}: bytes [{start}, {stop}) asked for, "
                f"the object ends at {len(content)}"
            )
        return memoryview(content)[start:stop]

    def put(self, key: str, data: Buffer | os.PathLike[str]) -> ObjectInfo:
        source = check_source(data)
        content = source.read_bytes() if isinstance(source, Path) else bytes(source)
        namespace = _namespace(self._name)
        full = self.full_key(check_key(key))
        info = ObjectInfo(full, len(content), namespace.next_etag(), time.time())
        with namespace.lock:
            namespace.objects[full] = (content, info)
        return self._relative(info)

    def delete(self, key: str) -> None:
        namespace = _namespace(self._name)
        with namespace.lock:
            namespace.objects.pop(self.full_key(check_key(key)), None)

    def close(self) -> None:
        """Nothing to drop: the objects belong to the process."""

    def _find(self, key: str) -> tuple[bytes, ObjectInfo]:
        namespace = _namespace(self._name)
        with namespace.lock:
            found = namespace.objects.get(self.full_key(check_key(key)))
        if found is None:
            raise NotFound(f"no object {self.url}/{key}")
        return found

    def _relative(self, info: ObjectInfo) -> ObjectInfo:
        if not self._prefix:
            return info
        key = info.key[len(self._prefix) + 1 :]
        return ObjectInfo(key, info.size_bytes, info.etag, info.modified_s)
