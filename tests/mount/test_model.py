"""The filesystem beside a real directory tree: the same questions, the same answers."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane_fuse.filesystem import Filesystem, FilesystemOptions
from tests.mount.fakes import FakeBlocks, FakeStore

NAMES = st.sampled_from(["a", "b", "c d", "é", "x,y", "z.vtu"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
TREES = st.dictionaries(PATHS, st.binary(max_size=9000), max_size=12)
QUESTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("stat"), PATHS),
        st.tuples(st.just("list"), PATHS | st.just("")),
        st.tuples(st.just("read"), PATHS, st.integers(0, 10_000), st.integers(1, 9000)),
        st.tuples(st.just("add"), PATHS, st.binary(max_size=100)),
    ),
    max_size=30,
)


class Real:
    """A directory tree on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, path: str, content: bytes) -> bool:
        target = self.root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except OSError:
            return False  # a file in the way of a directory, or the reverse: no such object
        return True

    def stat(self, path: str) -> object:
        status = (self.root / path).stat()
        is_directory = (self.root / path).is_dir()
        return is_directory, 0 if is_directory else status.st_size

    def list(self, path: str) -> object:
        return sorted(os.listdir(self.root / path))

    def read(self, path: str, offset: int, size: int) -> object:
        with open(self.root / path, "rb") as file:
            return os.pread(file.fileno(), size, offset)


class Mounted:
    """The same questions to the filesystem."""

    def __init__(self, fs: Filesystem) -> None:
        self.fs = fs

    def stat(self, path: str) -> object:
        attributes = self.fs.getattr(path)
        return attributes.is_directory, attributes.size_bytes

    def list(self, path: str) -> object:
        return sorted(name for name, _ in self.fs.readdir(path))

    def read(self, path: str, offset: int, size: int) -> object:
        handle = self.fs.open(path)
        try:
            buffer = bytearray(size)
            return bytes(buffer[: self.fs.read_into(handle, offset, memoryview(buffer))])
        finally:
            self.fs.release(handle)


def answer(system: Real | Mounted, question: tuple[object, ...]) -> object:
    operation, *arguments = question
    try:
        return getattr(system, str(operation))(*arguments)
    except OSError as err:
        # Both say that it is not there; a real kernel says ENOTDIR for `file/below` because it
        # walks the path itself, and it will do so above a mount as well.
        return errno.ENOENT if err.errno == errno.ENOTDIR and operation != "list" else err.errno


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES, questions=QUESTIONS)
def test_answers_equal_those_of_a_real_directory(
    tree: dict[str, bytes], questions: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        real, store = Real(Path(folder)), FakeStore()
        for path, content in tree.items():
            if real.add(path, content):
                store.objects[path] = content
        fs = Filesystem(store, FakeBlocks(store), options=FilesystemOptions(list_ttl_s=0))
        mounted = Mounted(fs)
        for question in questions:
            if question[0] == "add":
                _, path, content = question
                if real.add(str(path), bytes(content)):  # type: ignore[arg-type]
                    store.objects[str(path)] = bytes(content)  # type: ignore[arg-type]
                continue
            expected, got = answer(real, question), answer(mounted, question)
            if question[0] == "list" and expected == errno.ENOTDIR and got == errno.ENOENT:
                continue  # `file/below`: see `answer`
            assert got == expected, question
        assert fs.open_files == 0
