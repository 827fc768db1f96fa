"""What tests look at inside of a pack: the one place that knows how it is built."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest

from dataplane.pack import convert
from dataplane.pack.meter import Meter
from dataplane.pack.source import Converter, SourceFile
from dataplane.pack.vtk import reader, subprocess_reader, worker
from dataplane.pack.vtk.shared_memory import Crossed

MAX_GROWTH_BYTES = reader._MAX_GROWTH_BYTES
"""Memory by which a reader of VTK files may grow before it is replaced."""

WorkerProcess: TypeAlias = subprocess_reader._Worker
"""A worker, as the process that asks it to read sees it."""
WorkerHere: TypeAlias = worker._Worker
"""What runs in a worker."""
Request: TypeAlias = Callable[[Sequence[SourceFile], Meter], Crossed]
"""A function that has files read by a worker."""


def idle_workers() -> list[WorkerProcess]:
    """The workers that wait for the next file."""
    return [*subprocess_reader._idle]


def end_idle_workers() -> None:
    """An end of the workers that wait, as when this process ends."""
    subprocess_reader._close_idle()


def borrowed_worker() -> WorkerProcess:
    """A worker that the caller has for itself, and closes."""
    return subprocess_reader._borrow()


def channel_of(asked: WorkerProcess) -> socket.socket:
    """The socket that a worker takes requests from."""
    return asked._channel


def call_before_reads(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[WorkerProcess, Sequence[SourceFile]], None]
) -> None:
    """A call, with the worker and the files, before any is asked to read some."""
    read = subprocess_reader._Worker.read

    def later(asked: WorkerProcess, sources: Sequence[SourceFile], meter: Meter) -> tuple[int, int]:
        act(asked, sources)
        return read(asked, sources, meter)

    monkeypatch.setattr(subprocess_reader._Worker, "read", later)


def wrap_requests(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Request], Request]) -> None:
    """Requests to workers that are made through what `wrap` returns."""
    monkeypatch.setattr(subprocess_reader, "_read", wrap(subprocess_reader._read))


def worker_here(channel: socket.socket) -> WorkerHere:
    """What runs in a worker, in this process."""
    return worker._Worker(channel)


def keeps_reader(serving: WorkerHere) -> bool:
    """Whether its reader is kept for the next file."""
    return serving._reader is not None


def wrap_converter(
    monkeypatch: pytest.MonkeyPatch, kind: str, wrap: Callable[[Converter], Converter]
) -> None:
    """Files of a format that are converted by what `wrap` returns."""
    monkeypatch.setitem(convert._CONVERTERS, kind, wrap(convert._CONVERTERS[kind]))
