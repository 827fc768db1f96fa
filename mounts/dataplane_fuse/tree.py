"""Tree of the mount: the store's directories and the samples of packed datasets, found by path.

A path is walked from the root. Directories on the way may be known from an old listing (an object
store has no directories that could be replaced); the last name is looked up in a fresh one. A
directory that was never listed is probed for the first `PROBES` names (is it an object?), so that a
program that opens one file of a directory with a million does not wait for a million names; after
that, or when the name is not that of an object, it is listed. A directory known to be larger than
`LARGE` names is always probed once its listing is too old; what is then no object is what it was.

Thread-safe. Requests are made without a lock held.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Protocol

from dataplane.errors import FormatError, NotFound, ObjectChanged
from dataplane.stores.base import ObjectInfo, Store
from dataplane.stores.versions import as_answered
from dataplane.telemetry import Counters, logger
from dataplane_fuse.cached_listing import DEFAULT_MAX_ENTRIES, CachedListing, ListingCache
from dataplane_fuse.names import why_not_a_name
from dataplane_fuse.nodes import FileNode, Node, join
from dataplane_fuse.samples import INDEX_NAME, DatasetView, Index, Member, ReadObject, ReadRange
from dataplane_fuse.single_flight import SingleFlight

__all__ = ["LARGE", "PROBES", "DatasetFormat", "StoreDirectory", "Tree"]

PROBES = 4
"""Names looked up one by one before a directory is listed. A listing of up to 1000 names costs the
same as one probe, so the count only has to be small."""

LARGE = 20_000
"""Names from which listing again costs more (20 requests and up) than looking one name up."""

_MAX_VIEWS = 8
_MAX_PROBED = 10_000


class DatasetFormat(Protocol):
    """Format of packed datasets, as the tree needs it; `dataplane.shards` provides it."""

    def load_index(self, store: Store, prefix: str, read_object: ReadObject) -> Index:
        """Load the index below `prefix` with `read_object`; FormatError when it is not ours."""
        ...

    def list_archive(self, read: ReadRange, size_bytes: int) -> Sequence[Member]:
        """Read the directory of an archive of stored entries."""
        ...


class Tree:
    """Everything below the mount point. See the module's text.

    Args:
        store: store of the objects.
        read_object: function that reads a byte range of an object through the cache.
        samples: reader of packed datasets, or None to show objects only.
        ttl_s: time for which a listing is believed.
        max_entries: most names remembered at once.
        counters: counters of listings, probes and hidden keys.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        read_object: ReadObject,
        *,
        samples: DatasetFormat | None,
        ttl_s: float,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._read_object = read_object
        self._samples = samples
        self._counters = counters
        self.levels = ListingCache(
            store, ttl_s=ttl_s, max_entries=max_entries, counters=counters, clock=clock
        )
        self._lock = Lock()
        self._probed: dict[str, int] = {}
        self._views: OrderedDict[tuple[str, str], DatasetView | None] = OrderedDict()
        self._views_in_flight: SingleFlight[tuple[str, str], DatasetView | None] = SingleFlight()

    def resolve(self, path: str) -> Node | None:
        """Return what is at `path`, or None when nothing is."""
        node: Node = StoreDirectory(self, "")
        if not path:
            return node
        *folders, last = path.split("/")
        for name in folders:
            found = self._step(node, name)
            if found is None or isinstance(found, FileNode):
                return None
            node = found
        return None if isinstance(node, FileNode) else node.find(last)

    def as_answered(self, listed: ObjectInfo) -> ObjectInfo:
        """Return the version of an object to read, from what the listing says of it.

        Raises:
            ObjectChanged: it was replaced by one of another length since it was listed.
            StoreError: the store failed, or the object is gone.
        """
        info = as_answered(self._store, listed)
        if info.size_bytes != listed.size_bytes:
            self.forget(info.key)
            raise ObjectChanged(
                f"{info.key} was replaced: {listed.size_bytes} bytes listed, it now has "
                f"{info.size_bytes}"
            )
        return info

    def forget(self, path: str) -> None:
        """Drop the listing that `path` came from, because the object there has changed."""
        self.levels.forget(_prefix(path.rpartition("/")[0]))

    def find_child(self, path: str, name: str) -> Node | None:
        """Return the child `name` of the store's directory at `path`."""
        if why_not_a_name(name) is not None:
            return None
        prefix = _prefix(path)
        level = self.levels.fresh(prefix)
        if level is None:
            old = self.levels.known(prefix)
            if self._should_probe(prefix, old):
                node = self._probe(path, name)
                if node is not None:
                    return node
            if old is not None and len(old) > LARGE and name not in old.files:
                level = old
            else:
                level = self.levels.get(prefix)
        if name in level.directories:
            return StoreDirectory(self, join(path, name))
        if name in level.files:
            return _whole(join(path, name), level.files[name])
        return self._find_sample(path, level, name)

    def children(self, path: str) -> Iterator[tuple[str, Node | None]]:
        """Yield the content of the store's directory at `path`, samples included."""
        level = self.levels.get(_prefix(path))
        for name in level.directories:
            yield name, None
        for name, info in level.files.items():
            yield name, _whole(join(path, name), info)
        view = self._view(path, level)
        if view is None:
            return
        for name, node in view.root().children():
            if name in level.files or name in level.directories:
                self.levels.report_hidden(path, name, "an object has the name of this sample")
            else:
                yield name, node

    def _step(self, node: Node, name: str) -> Node | None:
        if isinstance(node, StoreDirectory):
            level = self.levels.known(_prefix(node.path))
            if level is not None and name in level.directories:
                return StoreDirectory(self, join(node.path, name))
        return None if isinstance(node, FileNode) else node.find(name)

    def _should_probe(self, prefix: str, old: CachedListing | None) -> bool:
        if old is not None:
            return len(old) > LARGE
        with self._lock:
            if len(self._probed) > _MAX_PROBED:
                self._probed.clear()
            count = self._probed[prefix] = self._probed.get(prefix, 0) + 1
        return count <= PROBES

    def _probe(self, path: str, name: str) -> Node | None:
        """Return the file `name` without a listing; None means: list to find out."""
        self._counters.add("mount_probes")
        key = join(path, name)
        try:
            info = self._store.head(key)
        except NotFound:
            return None
        # As in a listing, a directory of the same name wins.
        if next(self._store.list(f"{key}/"), None) is not None:
            return StoreDirectory(self, key)
        return _whole(key, info)

    def _find_sample(self, path: str, level: CachedListing, name: str) -> Node | None:
        view = self._view(path, level)
        return None if view is None else view.find("", name)

    def _view(self, path: str, level: CachedListing) -> DatasetView | None:
        index = level.files.get(INDEX_NAME)
        samples = self._samples
        if samples is None or index is None:
            return None
        ident = (level.prefix, self.as_answered(index).etag)
        with self._lock:
            if ident in self._views:
                self._views.move_to_end(ident)
                return self._views[ident]
        return self._views_in_flight.run(ident, lambda: self._load_view(path, ident, samples))

    def _load_view(
        self, path: str, ident: tuple[str, str], samples: DatasetFormat
    ) -> DatasetView | None:
        view: DatasetView | None = None
        try:
            index = samples.load_index(self._store, ident[0], self._read_object)
        except FormatError as err:
            # Any Parquet file may be called index.parquet. Not ours is not an error.
            logger.warning("%s is not shown as a packed dataset: %s", path or "/", err)
        else:
            view = DatasetView(
                path,
                index,
                find_shard=lambda shard: self._find_object(ident[0], shard),
                read_object=self._read_object,
                list_archive=samples.list_archive,
                report_hidden=self.levels.report_hidden,
            )
        with self._lock:
            self._views[ident] = view
            while len(self._views) > _MAX_VIEWS:
                self._views.popitem(last=False)
        return view

    def _find_object(self, prefix: str, below: str) -> ObjectInfo:
        folder, slash, name = (prefix + below).rpartition("/")
        level = self.levels.known(folder + slash)
        info = level.files.get(name) if level is not None else None
        return self._store.head(prefix + below) if info is None else self.as_answered(info)


class StoreDirectory:
    """A directory of the store: a prefix that ends in `/`, or the root."""

    __slots__ = ("_path", "_tree")

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree = tree
        self._path = path

    @property
    def path(self) -> str:
        """Path in the mount; also its prefix in the store, less the slash."""
        return self._path

    def find(self, name: str) -> Node | None:
        """Return the child called `name`, or None."""
        return self._tree.find_child(self._path, name)

    def children(self) -> Iterator[tuple[str, Node | None]]:
        """Yield the name of every child, with its node when it is a file, else None."""
        return self._tree.children(self._path)


def _prefix(path: str) -> str:
    return f"{path}/" if path else ""


def _whole(path: str, info: ObjectInfo) -> FileNode:
    return FileNode(path, info, 0, info.size_bytes)
