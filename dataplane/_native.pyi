"""The native module, as Python sees it. See native/ for the code behind it."""

from collections.abc import Callable, Mapping, Sequence

from typing_extensions import Buffer

build_type: str
sanitizers: str
simd: str
zstd_version: str
lz4_version: str
max_chunk_bytes: int
chunk_row_bytes: int
chunk_row_layout: Mapping[str, tuple[int, int]]
codec_numbers: Mapping[str, int]
conversion_numbers: Mapping[str, int]
status_codes: Mapping[str, int]
stage_align: int
staged_stream_layout: Mapping[str, tuple[int, int]]

def let_interrupt(signal_number: int) -> None: ...
def outlast_interpreter() -> None: ...
def process_ends() -> None: ...
def crc32c(bytes: Buffer, seed: int = 0) -> int: ...  # noqa: A002
def copy_ranges(
    ranges: Buffer,
    buffer: Buffer,
    memory: Mapping[int, Buffer],
    *,
    block_bytes: int,
    size_bytes: int,
) -> IncompleteRead | None: ...
def decode(
    table: Buffer,
    sources: Sequence[Buffer],
    destinations: Sequence[object],
    threads: int = 1,
    cancel: CancelFlag | None = None,
) -> None: ...
def encode(
    chunks: Sequence[Buffer],
    *,
    codec: int,
    inner: int = 0,
    level: int = 5,
    shuffle: int = 0,
    typesize: int = 1,
    block_bytes: int = 0,
    zstd_level: int = 3,
    zstd_checksum: bool = False,
    crc32c: bool = False,
    threads: int = 1,
) -> list[bytes]: ...
def inflate_only(table: Buffer, sources: Sequence[Buffer], threads: int = 1) -> None: ...
def receive(fd: int, buffer: Buffer, *, pause_s: float) -> int: ...
def round_mantissa(values: Buffer, out: Buffer, *, width: int, bits: int) -> None: ...
def stage(
    table: Buffer, sources: Sequence[Buffer], buffer: Buffer | None, threads: int = 1
) -> tuple[int, bytes]: ...

class DecodeFailure(Exception):
    """A row could not be decoded.

    Attributes:
        code: one of `status_codes`.
        row: its number in the table.
        offset: where in the row's encoded bytes, or 0.
        expected: a number that was expected.
        got: the number that was there.
        what: what was checked.
        failures: how many rows of the call failed; this is the first.
    """

    code: int
    row: int
    offset: int
    expected: int
    got: int
    what: str
    failures: int

class IncompleteRead:
    """What a read did not find.

    Attributes:
        missing: pieces as rows of u64: start, stop, place; each within one block.
        ranges: how many ranges they belong to.
        nbytes: bytes of those ranges.
        corrupt_blocks: blocks that were found corrupt, and are empty now.
        unreadable_blocks: blocks that the disk did not give.
        dropped_bytes: disk space of those blocks.
    """

    missing: bytes
    ranges: int
    nbytes: int
    corrupt_blocks: int
    unreadable_blocks: int
    dropped_bytes: int

    def __init__(
        self,
        missing: bytes,
        *,
        ranges: int,
        nbytes: int,
        corrupt_blocks: int,
        unreadable_blocks: int,
        dropped_bytes: int,
    ) -> None: ...

class CancelFlag:
    """Stops calls of `decode` that were given it. Thread-safe."""

    def __init__(self) -> None: ...
    def set(self) -> None: ...
    def is_set(self) -> bool: ...

class BlockMap:
    """The block map of one cache entry. See native/core/cache/blockmap.hpp.

    Owns both descriptors from the call of its constructor on, also when that fails.
    """

    def __init__(self, map_fd: int, data_fd: int, verify_tag: int) -> None: ...
    @staticmethod
    def create(
        fd: int, *, block_bytes: int, size_bytes: int, key: bytes, identity: bytes
    ) -> None: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def identity(self) -> bytes: ...
    def read(
        self, start: int, stop: int, buffer: Buffer, memory: Mapping[int, Buffer] = ...
    ) -> IncompleteRead | None:
        """Copy a range. Returns what `read_ranges` does."""
    def read_ranges(
        self, ranges: Buffer, buffer: Buffer, memory: Mapping[int, Buffer]
    ) -> IncompleteRead | None:
        """Copy ranges out of blocks in memory and of the disk.

        Args:
            ranges: rows of u64: start, stop, place in the buffer.
            buffer: what is copied to.
            memory: whole blocks by number; others are read from the disk.

        Returns:
            None when every byte was there.
        """
    def expect(self, start: int, stop: int) -> bool:
        """Read a range from the disk and check it, where still to be done, for a lease to come.

        Returns:
            Whether it can be leased as things are; then it counts as used.
        """
    def is_leased(self, block: int) -> bool:
        """Whether a block is leased by anyone, which keeps it from being claimed."""
    def is_ready(self, block: int) -> bool: ...
    def missing(self, start: int, stop: int) -> list[int]: ...
    def resident_bytes(self) -> int: ...
    def is_complete(self) -> bool: ...
    def ready_blocks(self) -> bytes:
        """Pairs of u64: block, tick of its last use (nanoseconds since the epoch)."""
    def try_claim(self, block: int, count: int = 1) -> int:
        """Claim blocks that follow each other; return how many of them, from the first on."""
    def release(self, block: int, count: int = 1) -> None: ...
    def claimed_bytes(self) -> int: ...
    def commit(self, block: int, bytes: Buffer, *, direct: bool = False) -> None:  # noqa: A002
        """Fill the claimed blocks that the bytes are of, from `block` on: all of them, or none."""
    def evict(self, block: int, used_tick: int) -> int: ...
    def punch_empty(self) -> None: ...
    def data_disk_bytes(self) -> int: ...
    def lock_open(self, *, exclusive: bool) -> bool: ...
    def abandon(self) -> None: ...

class MappedRange(Buffer):
    """A range of a cache file as a read-only buffer, leased while it is used.

    See native/bindings/mapped_range.cpp. Without a lease the buffer is that of what `copy` returns,
    which is called whenever that is so; what it raises, the user of the buffer sees.
    """

    def __init__(
        self,
        map: BlockMap,  # noqa: A002
        start: int,
        stop: int,
        copy: Callable[[], Buffer],
    ) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class UsageFile:
    """The numbers shared by the processes of a cache directory. See native/core/cache/usage.hpp."""

    used: int
    dirty: bool
    uncounted: bool
    @property
    def allocated(self) -> int: ...
    @property
    def freed(self) -> int: ...
    def __init__(self, fd: int) -> None: ...
    @staticmethod
    def create(fd: int) -> None: ...
    def add_used(self, amount: int) -> int: ...
    @property
    def epoch(self) -> int: ...
    def bump_epoch(self) -> None: ...

class TlsFailure(Exception):
    """TLS failed, or refused the server's certificate; the text says why."""

class TlsContext:
    """What connections to one server have in common. See native/core/net/tls_context.hpp.

    Args:
        host: the server's DNS name or address.
        roots: certificates to trust besides the system's, as PEM; may be empty.

    Raises:
        TlsFailure: a certificate is damaged, or the host cannot be checked.
    """

    def __init__(self, host: str, roots: Buffer) -> None: ...

class TlsConnection:
    """A TLS connection over a connected socket. See native/core/net/tls_connection.hpp.

    Owns the descriptor from the call of its constructor on, also when that fails. Calls raise
    OSError (TimeoutError when nothing came for `pause_s`), TlsFailure, and ValueError while another
    thread is in one.
    """

    def __init__(self, context: TlsContext, fd: int) -> None: ...
    def handshake(self, *, timeout_s: float) -> None: ...
    def send(self, bytes: Buffer, *, pause_s: float) -> None: ...  # noqa: A002
    def receive(self, buffer: Buffer, *, pause_s: float, whole: bool = True) -> int:
        """Fill a buffer, or some of it; return how many bytes came before the declared end."""
    def is_quiet(self) -> bool:
        """Whether the connection is there and nothing came unasked."""
    def close(self) -> None:
        """Say the end, unless this is a forked child, and let go. Idempotent."""
    @property
    def is_resumed(self) -> bool: ...
    @property
    def version(self) -> str: ...
    @property
    def cipher(self) -> str: ...
    @property
    def is_kernel_tls(self) -> bool: ...
