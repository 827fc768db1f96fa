"""The reader: a fork of `worker` that converts VTK files into memory files, one by one.

Each request is a pair of memory files, one to read and one for the outcome, and is answered with
one byte: `SOUND` when there was no complaint and the reader can take another file, `LAST` when
there was none but it should not, `COMPLAINT` when the outcome is an error or came with a warning
of VTK. A request for several files ends at the first complaint, without an outcome. A reader that
ends without an answer crashed over the file (a signal), or left a traceback on stderr (exit code
1).

A limit on its address space keeps each file from taking more memory than it could decode to.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dataplane.child_process import end_with_parent
from dataplane.errors import ConfigError, FormatError
from dataplane.pack.source import SourceFile, Unreadable
from dataplane.pack.vtk.convert import VTK_CONVERTERS
from dataplane.pack.vtk.read import MAX_COMPRESSION
from dataplane.pack.vtk.shared_memory import read_request, write_outcome
from dataplane.shards import SourceSample

__all__ = ["COMPLAINT", "LAST", "READS_PER_READER", "SOUND", "serve"]

SOUND, LAST, COMPLAINT = b"s", b"l", b"c"
READS_PER_READER = 256
"""A fork costs about ten reads of a small file: shared by so many it no longer counts."""
_BASE_BYTES = 1 << 30
_COPIES = 4
"""Most copies of the decoded data that a reader may hold; merging pieces takes two."""
_MAX_GROWTH_BYTES = 256 << 20
_MAX_LOG_RECORDS = 100
_MAX_LOG_CHARS = 10_000


def serve(channel: socket.socket, worker: int) -> NoReturn:
    """Serve requests until the other end closes or the worker ends, and exit; never returns.

    Args:
        channel: socket of the requests.
        worker: process of the worker that this one is a fork of.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        end_with_parent(worker)  # in the middle of a read as well
        with suppress(OSError):  # the first to go when memory is short
            Path("/proc/self/oom_score_adj").write_text("1000")
        _, most_bytes = resource.getrlimit(resource.RLIMIT_AS)
        first_bytes = _address_space_bytes()
        reads = 0
        while True:
            message, handles, _, _ = socket.recv_fds(channel, 1, 2, socket.MSG_CMSG_CLOEXEC)
            if not message:
                os._exit(0)
            request, result = handles
            sources = read_request(request)
            reads += len(sources)
            is_sound = _convert(sources, result, most_bytes)
            is_worn = (
                reads >= READS_PER_READER
                or _address_space_bytes() - first_bytes > _MAX_GROWTH_BYTES
            )
            channel.sendall(COMPLAINT if not is_sound else LAST if is_worn else SOUND)
            os.close(request)
            os.close(result)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _address_space_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _limit(source_bytes: int, most_bytes: int) -> None:
    """Let a file take no more memory than its bytes could decode to.

    VTK allocates and fills the memory that a header asks for: without a limit, one changed bit of a
    small file is enough to fill the machine.
    """
    limit = _address_space_bytes() + _BASE_BYTES + _COPIES * MAX_COMPRESSION * source_bytes
    if limit >= (most_bytes if most_bytes != resource.RLIM_INFINITY else sys.maxsize):
        limit = most_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, most_bytes))


def _convert(sources: Sequence[SourceFile], result: int, most_bytes: int) -> bool:
    """Convert files; return whether there was no complaint."""
    log = _Gathered()
    document: dict[str, Any] = {"log": log.records}
    root = logging.getLogger("dataplane")
    root.handlers[:] = [log]
    root.setLevel(logging.DEBUG)
    root.propagate = False
    try:
        write_outcome(result, _each(sources, most_bytes, log), document)
    except Exception as err:
        if len(sources) > 1:
            return False
        if isinstance(err, ConfigError):
            failed = {"kind": err.kind, "message": err.message, "hint": err.hint}
        else:
            error = Unreadable.from_exception(sources[0].label, err).error()
            failed = {"kind": error.kind, "message": error.message, "hint": error.hint}
        write_outcome(result, (), {**document, "failed": failed})
        return False
    return not log.records


def _each(
    sources: Sequence[SourceFile], most_bytes: int, log: _Gathered
) -> Iterator[Iterator[SourceSample]]:
    for source in sources:
        if log.records:
            raise FormatError("a file before this one came with a warning")
        _limit(source.size_bytes(), most_bytes)
        yield VTK_CONVERTERS[source.format](source)


class _Gathered(logging.Handler):
    """A log handler that keeps records for the process that asked, up to a limit."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        if len(self.records) < _MAX_LOG_RECORDS:
            self.records.append((record.levelno, self.format(record)[:_MAX_LOG_CHARS]))
