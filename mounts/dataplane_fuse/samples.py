"""The samples of a packed dataset, shown as files beside its objects.

Where a directory holds our `index.parquet`, every sample KEY also appears as

- `KEY.zarr.zip`: the byte range of the shard that is the sample's archive, and
- `KEY/…`: the stored entries of that archive as files, so that a Zarr reader opens the folder.

A key with folders (`run7/case3`) appears in those folders. What really exists in the store wins
over what is made up here; a name that loses is hidden with a warning and a count (`names`).

Nothing is copied or unpacked: every file here is a byte range of a shard, read through the same
cache blocks as the shard itself. The index is loaded when a name is first looked for that no object
has; the directory of an archive is read when something below `KEY/` is first looked at, and the
most recently used ones are kept, `MAX_MEMBERS` entries in all. Thread-safe.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Protocol

from dataplane.errors import FormatError, NotFound
from dataplane.stores.base import Buffer, ObjectInfo
from dataplane_fuse.names import why_not_a_name
from dataplane_fuse.nodes import Directory, FileNode, Node, join
from dataplane_fuse.single_flight import SingleFlight

__all__ = ["ARCHIVE_SUFFIX", "INDEX_NAME", "MAX_MEMBERS", "DatasetView", "Index", "Member"]

INDEX_NAME = "index.parquet"
ARCHIVE_SUFFIX = ".zarr.zip"
MAX_MEMBERS = 500_000
"""Archive entries remembered over all samples of a dataset, about 300 bytes each."""

_MAX_PATH_CHARACTERS = 1024


class Index(Protocol):
    """Index of a dataset, as far as it is needed here; `datasets.SampleRanges` makes it cheaply."""

    @property
    def keys(self) -> Sequence[str]:
        """The samples' keys."""
        ...

    def archive_range(self, number: int) -> tuple[str, int, int]:
        """Return the shard that holds a sample's archive, its first byte and one past the last."""
        ...


class Member(Protocol):
    """Stored entry of an archive, relative to it, as `dataplane.shards.ZipMember`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def start(self) -> int: ...  # noqa: D102
    @property
    def stop(self) -> int: ...  # noqa: D102


ReadRange = Callable[[int, int], Buffer]
ListArchive = Callable[[ReadRange, int], Sequence[Member]]
FindShard = Callable[[str], ObjectInfo]
ReadObject = Callable[[ObjectInfo, int, int], Buffer]
ReportHidden = Callable[[str, str, str], None]
Range = tuple[int, int]


class DatasetView:
    """The samples below one directory of the mount. See the module's text.

    Args:
        path: directory that holds the index.
        index: the dataset's index.
        find_shard: function from a shard's key, as the index writes it, to its object; raises
            NotFound.
        read_object: function that reads a byte range of an object through the cache.
        list_archive: function that reads the directory of a zip archive.
        report_hidden: function told of names that cannot be shown: directory, name, reason.
    """

    def __init__(
        self,
        path: str,
        index: Index,
        *,
        find_shard: FindShard,
        read_object: ReadObject,
        list_archive: ListArchive,
        report_hidden: ReportHidden,
    ) -> None:
        self.path = path
        self._index = index
        self._find_shard = find_shard
        self._read_object = read_object
        self._list_archive = list_archive
        self._report_hidden = report_hidden
        self._folders = self._group_keys(index.keys)
        self._lock = Lock()
        self._archives: OrderedDict[tuple[int, str], Archive] = OrderedDict()
        self._single_flight: SingleFlight[tuple[int, str], Archive] = SingleFlight()
        self._members = 0

    def root(self) -> Directory:
        """Return the directory of samples whose keys have no folder."""
        return _SampleFolder(self, "")

    def find(self, folder: str, name: str) -> Node | None:
        """Return what `name` is in a folder of keys, or None."""
        content = self._folders[folder]
        if name in content.folders:
            return _SampleFolder(self, join(folder, name))
        if name in content.samples:
            return _SampleDirectory(self, join(folder, name), content.samples[name], "")
        stem = name.removesuffix(ARCHIVE_SUFFIX)
        if stem != name and stem in content.samples:
            return self.archive_file(join(folder, name), content.samples[stem])
        return None

    def children(self, folder: str) -> Iterator[tuple[str, Node | None]]:
        """Yield the content of a folder of keys."""
        content = self._folders[folder]
        for name in content.folders:
            yield name, None
        for name, number in content.samples.items():
            if name not in content.folders:
                yield name, None
            archive = name + ARCHIVE_SUFFIX
            try:
                yield archive, self.archive_file(join(folder, archive), number)
            except (FormatError, NotFound) as err:
                self._report_hidden(join(self.path, folder), archive, err.message)

    def archive_file(self, below: str, number: int) -> FileNode:
        """Return the archive of a sample as a file at the path `below` the dataset.

        Raises:
            FormatError: the index places it outside its shard.
            NotFound: the shard is not there.
        """
        info, start, stop = self._archive_range(number)
        return FileNode(join(self.path, below), info, start, stop)

    def archive(self, number: int) -> tuple[ObjectInfo, int, Archive]:
        """Return where a sample's archive lies and what is in it.

        Raises:
            FormatError: it is not an archive of stored entries.
        """
        info, start, stop = self._archive_range(number)
        ident = (number, info.etag)
        with self._lock:
            known = self._archives.get(ident)
            if known is not None:
                self._archives.move_to_end(ident)
                return info, start, known
        archive = self._single_flight.run(
            ident, lambda: self._read_archive(ident, info, start, stop)
        )
        return info, start, archive

    def _read_archive(
        self, ident: tuple[int, str], info: ObjectInfo, start: int, stop: int
    ) -> Archive:
        def read(first: int, last: int) -> Buffer:
            if not 0 <= first <= last <= stop - start:
                raise FormatError(
                    f"{info.key}: an archive of {stop - start} bytes asks for [{first}, {last})"
                )
            return self._read_object(info, start + first, start + last)

        members = self._list_archive(read, stop - start)
        where = join(self.path, self._index.keys[ident[0]])
        archive = Archive(members, stop - start, where, self._report_hidden)
        with self._lock:
            self._archives[ident] = archive
            self._members += len(archive)
            while self._members > MAX_MEMBERS and len(self._archives) > 1:
                _, evicted = self._archives.popitem(last=False)
                self._members -= len(evicted)
        return archive

    def _archive_range(self, number: int) -> tuple[ObjectInfo, int, int]:
        shard, start, stop = self._index.archive_range(number)
        info = self._find_shard(shard)
        if not 0 <= start <= stop <= info.size_bytes:
            raise FormatError(
                f"the index places sample {self._index.keys[number]!r} at bytes "
                f"[{start}, {stop}) of {shard}, which has {info.size_bytes}"
            )
        return info, start, stop

    def _group_keys(self, keys: Sequence[str]) -> Mapping[str, _Content]:
        folders = {"": _Content()}
        for number, key in enumerate(keys):
            folder, _, name = key.rpartition("/")
            reason = _why_not_shown(key)
            if reason is None:
                _folder(folders, folder).samples[name] = number
            else:
                self._report_hidden(self.path, key, reason)
        for folder, content in folders.items():
            for name in content.folders.keys() & content.samples.keys():
                where = join(self.path, folder)
                self._report_hidden(where, name, "other samples' keys use it as a folder")
        return folders


class Archive:
    """The entries of one sample's archive as a tree. Immutable.

    Entries whose names cannot be paths, and a file where another entry needs a folder, are hidden.
    """

    __slots__ = ("_entries", "_folders")

    def __init__(
        self, members: Sequence[Member], size_bytes: int, where: str, report_hidden: ReportHidden
    ) -> None:
        self._folders: dict[str, dict[str, Range | None]] = {"": {}}
        self._entries = 0
        for member in members:
            name = member.name.removesuffix("/")
            reason = _why_not_a_path(name)
            if reason is None and not 0 <= member.start <= member.stop <= size_bytes:
                reason = f"it lies at [{member.start}, {member.stop}) of {size_bytes} bytes"
            if reason is None and not self._add(name, member):
                reason = "an entry of the same name is in its way"
            if reason is not None:
                report_hidden(where, member.name, reason)

    def __len__(self) -> int:
        return self._entries

    def folder(self, below: str) -> Mapping[str, Range | None] | None:
        """Return the content of a folder: byte ranges of files, None for folders below."""
        return self._folders.get(below)

    def _add(self, name: str, member: Member) -> bool:
        folder, _, last = name.rpartition("/")
        content = self._make_folder(folder)
        if content is None:
            return False
        if member.name.endswith("/"):
            return self._make_folder(name) is not None
        if last in content:
            return False
        content[last] = (member.start, member.stop)
        self._entries += 1
        return True

    def _make_folder(self, path: str) -> dict[str, Range | None] | None:
        content = self._folders.get(path)
        if content is None:
            parent, _, name = path.rpartition("/")
            around = self._make_folder(parent)
            if around is None or name in around:
                return None
            around[name] = None
            self._entries += 1
            content = self._folders[path] = {}
        return content


class _Content:
    """Content of one folder of keys, less what is deeper."""

    __slots__ = ("folders", "samples")

    def __init__(self) -> None:
        self.folders: dict[str, None] = {}
        self.samples: dict[str, int] = {}


class _SampleFolder:
    """A folder that keys of samples have in common."""

    __slots__ = ("_folder", "_view")

    def __init__(self, view: DatasetView, folder: str) -> None:
        self._view = view
        self._folder = folder

    @property
    def path(self) -> str:
        return join(self._view.path, self._folder) if self._folder else self._view.path

    def find(self, name: str) -> Node | None:
        return self._view.find(self._folder, name)

    def children(self) -> Iterator[tuple[str, Node | None]]:
        return self._view.children(self._folder)


class _SampleDirectory:
    """`KEY/` or a folder below it."""

    __slots__ = ("_below", "_key", "_number", "_view")

    def __init__(self, view: DatasetView, key: str, number: int, below: str) -> None:
        self._view = view
        self._key = key
        self._number = number
        self._below = below

    @property
    def path(self) -> str:
        key_path = join(self._view.path, self._key)
        return join(key_path, self._below) if self._below else key_path

    def find(self, name: str) -> Node | None:
        info, start, archive = self._view.archive(self._number)
        content = archive.folder(self._below)
        if content is None or name not in content:
            return None
        return self._node(name, content[name], info, start)

    def children(self) -> Iterator[tuple[str, Node | None]]:
        info, start, archive = self._view.archive(self._number)
        for name, member in (archive.folder(self._below) or {}).items():
            yield name, None if member is None else self._node(name, member, info, start)

    def _node(self, name: str, member: Range | None, info: ObjectInfo, start: int) -> Node:
        if member is None:
            return _SampleDirectory(self._view, self._key, self._number, join(self._below, name))
        return FileNode(join(self.path, name), info, start + member[0], start + member[1])


def _why_not_a_path(path: str) -> str | None:
    if len(path) > _MAX_PATH_CHARACTERS:
        return f"it is longer than {_MAX_PATH_CHARACTERS} characters"
    return next(filter(None, map(why_not_a_name, path.split("/"))), None)


def _why_not_shown(key: str) -> str | None:
    # `KEY.zarr.zip` is the longer of the two names, but an empty key hides in it.
    reason = _why_not_a_path(key) or _why_not_a_path(key + ARCHIVE_SUFFIX)
    return None if reason is None else f"{reason} (the key of a sample)"


def _folder(folders: dict[str, _Content], path: str) -> _Content:
    content = folders.get(path)
    if content is None:
        content = folders[path] = _Content()
        parent, _, name = path.rpartition("/")
        _folder(folders, parent).folders[name] = None
    return content
