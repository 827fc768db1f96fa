"""Messages between a loader and a worker process: packets on a socket, arrays in shared memory.

A message is an object and a kind. What pickling leaves beside the pickled bytes, and those bytes
themselves if they are many, go through a segment (`segments`), each array on pages of its own; all
else is in one packet of the socket, which keeps packets apart:

    head            kind, number and size of the segment, places, lengths of what follows
    numbers         segments that the sender released, retired and has forgotten
    tail            places of the arrays in the segment, and the pickled bytes; if these are many,
                    they are in the segment as well

The handle of a new segment travels with the packet (SCM_RIGHTS). A message is made (`pack`) and
taken apart (`Received.load`) apart from its way, so that an object that cannot be pickled disturbs
nothing. The two ends take turns: there is never more than one message under way.

Not thread-safe; `wake` may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.loader.pickling import Dialect, Pickled
from dataplane.loader.segments import PAGE_BYTES, Segment, SegmentPool, SegmentTable

__all__ = ["Connection", "Packed", "Received", "pair"]

_INLINE_BYTES = 48 << 10
"""Pickled bytes up to here go through the socket: copying them twice costs less than a page."""
_PACKET_BYTES = 128 << 10
_MAX_NUMBERS = 1000
_HEAD = struct.Struct("<BxHHHIQQQ")
"""Kind, counts of the three lists, segment, its size, start of the tail in it, length of the tail.

The tail is the places and the pickled bytes. It starts at `_IN_PACKET` where it is in the packet.
"""
_TAIL_HEAD = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")
_IN_PACKET = (1 << 64) - 1
_HANDLE_BYTES = 4
_EXTRA_BYTES = socket.CMSG_SPACE(_HANDLE_BYTES)
_RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC)  # as numbers: those of `enum` take longer
_CUT = int(socket.MSG_CTRUNC)

_Bytes: TypeAlias = npt.NDArray[np.uint8]


class Packed:
    """Message that is ready to be sent."""

    __slots__ = ("kind", "pickled", "segment", "tail", "tail_bytes", "tail_start")

    def __init__(self, kind: int, pickled: Pickled) -> None:
        self.kind = kind
        self.pickled = pickled
        self.segment: Segment | None = None
        self.tail: Sequence[bytes | memoryview] = ()
        self.tail_start = _IN_PACKET
        self.tail_bytes = 0


class Received:
    """Message that has arrived, still pickled. `load` may be called once."""

    __slots__ = ("_dialect", "_lease", "_tail", "kind")

    def __init__(
        self, kind: int, dialect: Dialect, lease: _Bytes | None, tail: bytes | memoryview
    ) -> None:
        self.kind = kind
        self._dialect = dialect
        self._lease = lease
        self._tail: bytes | memoryview = tail

    def load(self) -> Any:
        """Return the object, whose arrays are on shared memory that is now theirs alone.

        Raises:
            Exception: whatever unpickling it raises.
        """
        lease, tail = self._lease, memoryview(self._tail)
        self._lease, self._tail = None, b""
        (count,) = _TAIL_HEAD.unpack_from(tail)
        body = _TAIL_HEAD.size + count * _PLACE.size
        arrays: list[_Bytes] = []
        for start, length in _PLACE.iter_unpack(tail[_TAIL_HEAD.size : body]):
            assert lease is not None
            arrays.append(lease[start : start + length])
        del lease
        return self._dialect.loads(tail[body:], _handed_over(arrays))


class Connection:
    """One end of a socket that messages go over.

    Args:
        channel: socket of a connected pair (`pair`), which is this object's from now on.
    """

    def __init__(self, channel: socket.socket) -> None:
        self.dialect = Dialect()
        self._channel = channel
        self._pool = SegmentPool()
        self._table = SegmentTable()
        self._packet = bytearray(_PACKET_BYTES)

    def pack(self, kind: int, content: object) -> Packed:
        """Make a message of an object; its arrays may be changed afterwards.

        Raises:
            OSError: there is no memory for it.
            Exception: whatever pickling it raises.
        """
        pickled = self.dialect.dumps(content)
        packed = Packed(kind, pickled)
        blocks: list[tuple[int, npt.NDArray[Any]]] = []
        places = [_TAIL_HEAD.pack(len(pickled.arrays))]
        end = 0
        for array in pickled.arrays:
            blocks.append((end, array))
            places.append(_PLACE.pack(end, array.nbytes))
            end = _whole_pages(end + array.nbytes)
        pickled.arrays = []
        packed.tail = [*places, pickled.body]
        packed.tail_bytes = sum(len(part) for part in packed.tail)
        if packed.tail_bytes > _INLINE_BYTES:
            packed.tail_start = end
            for part in packed.tail:
                blocks.append((end, np.frombuffer(part, np.uint8)))
                end += len(part)
            packed.tail = ()
        if blocks:
            segment = self._pool.take(end)
            try:
                segment.write(blocks, end)
            except BaseException:
                self._pool.give_back([segment.number])
                raise
            packed.segment = segment
        return packed

    def send(self, packed: Packed) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone, or this one is closed.
        """
        released, retired = self._table.take_returned(_MAX_NUMBERS)
        forgotten = self._pool.take_forgotten(_MAX_NUMBERS)
        numbers = [*released, *retired, *forgotten]
        segment = packed.segment
        head = _HEAD.pack(
            packed.kind,
            len(released),
            len(retired),
            len(forgotten),
            0 if segment is None else segment.number,
            0 if segment is None else segment.mapping.size_bytes,
            packed.tail_start,
            packed.tail_bytes,
        )
        parts = [head, struct.pack(f"<{len(numbers)}I", *numbers), *packed.tail]
        if segment is None or segment.handle < 0:
            self._channel.sendmsg(parts)
            return
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", segment.handle))
        self._channel.sendmsg(parts, [rights])
        segment.close_handle()

    def receive(self) -> Received | None:
        """Wait for a message; None when the other end is gone, or `wake` was called.

        Raises:
            OSError: a segment of it cannot be mapped; the connection is of no more use.
        """
        try:
            length, extra, flags, _ = self._channel.recvmsg_into(
                [self._packet], _EXTRA_BYTES, _RECEIVE_FLAGS
            )
        except ConnectionError:
            return None
        if not length:
            return None
        handle = -1
        for level, kind, data in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                (handle,) = struct.unpack("i", data[:_HANDLE_BYTES])
        try:
            if flags & _CUT:  # no descriptor was free for the handle
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return self._taken_apart(memoryview(self._packet)[:length], handle)
        finally:
            if handle >= 0:
                os.close(handle)

    def wake(self) -> None:
        """Have both ends of the connection see its end, also one that waits. Idempotent."""
        with suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end. What has been received stays. Idempotent."""
        self._channel.close()
        self._pool.close()

    def close_channel(self) -> None:
        """Close the descriptor alone, in a fork that has no part in the connection. Idempotent."""
        self._channel.close()

    def _taken_apart(self, packet: memoryview, handle: int) -> Received:
        kind, released, retired, forgotten, segment, size_bytes, start, length = _HEAD.unpack_from(
            packet
        )
        place = _HEAD.size
        if released or retired or forgotten:
            numbers = struct.unpack_from(f"<{released + retired + forgotten}I", packet, place)
            place += 4 * len(numbers)
            self._pool.give_back(numbers[:released])
            self._pool.drop(numbers[released : released + retired])
            self._table.forget(numbers[released + retired :])
        lease = self._table.lend(segment, handle, size_bytes) if segment else None
        if start == _IN_PACKET:
            # A copy: `load` may come after the next message.
            return Received(kind, self.dialect, lease, bytes(packet[place:]))
        assert lease is not None
        return Received(kind, self.dialect, lease, lease[start : start + length].data)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new socket; neither is inherited by other programs.

    Raises:
        OSError: there are no descriptors.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _handed_over(arrays: list[_Bytes]) -> Iterable[_Bytes]:
    """Yield arrays, first to last, without keeping them."""
    arrays.reverse()
    while arrays:
        yield arrays.pop()


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
