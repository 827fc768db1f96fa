"""Options and summary of a pack. Pure values, checked when made."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from dataplane.errors import ConfigError
from dataplane.shards.nonfinite import NonFinite

__all__ = ["CodecName", "PackSummary", "WriteOptions"]

CodecName: TypeAlias = Literal["lz4", "zstd", "none"]
DEFAULT_LEVELS = {"lz4": 5, "zstd": 1, "none": 0}
_MAX_LEVEL = 9
_MIN_CHUNK_BYTES = 1 << 10
_MAX_CHUNK_BYTES = 1 << 30
"""Blosc frames hold less than 2 GiB; beyond 1 GiB a chunk is no unit for partial reads anyway."""
_MIN_SHARD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Options of the writer of a dataset.

    Attributes:
        codec: codec: `lz4` (fastest to decode, the GPU can), `zstd` (smaller), or `none`.
        level: effort of the codec, 1 to 9; its default when None.
        chunk_bytes: target of an inner chunk's decoded size.
        shard_bytes: most bytes of a shard, which is closed before; one sample is never split.
        permute_seed: seed to reorder points and cells by, so that any contiguous run is a uniform
            sample; None keeps the order.
        float32: whether to store 64-bit floats with 32 bits.
        round_bits: explicit mantissa bits to keep of the floats of every array that `round_arrays`
            does not name; None keeps all.
        round_arrays: pairs of a pattern of array names (`*` and `?` as in a shell, `*` also over
            `/`) and the mantissa bits to keep, None for all; the last that matches holds. Arrays
            of one element, those below `global_data/` and integers are never rounded.
        fail_on_nan: whether to refuse samples with values that are NaN or infinite.
        workers: number of threads that encode.
        overwrite: whether to replace a dataset that is already there.
        temp_dir: folder of shards before their upload; the system's default when None.

    Raises:
        ConfigError: a value is out of its range.
    """

    codec: CodecName = "lz4"
    level: int | None = None
    chunk_bytes: int = 256 << 10
    shard_bytes: int = 1 << 30
    permute_seed: int | None = None
    float32: bool = False
    round_bits: int | None = None
    round_arrays: tuple[tuple[str, int | None], ...] = ()
    fail_on_nan: bool = False
    workers: int = 0
    overwrite: bool = False
    temp_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.codec not in DEFAULT_LEVELS:
            raise ConfigError(
                f"no codec {self.codec!r}", hint=f"choose from {', '.join(DEFAULT_LEVELS)}"
            )
        if self.level is not None and not 1 <= self.level <= _MAX_LEVEL:
            raise ConfigError(f"the level must be 1 to {_MAX_LEVEL}, got {self.level}")
        if self.level is not None and self.codec == "none":
            raise ConfigError(
                f'the level {self.level} does nothing with codec "none"',
                hint="leave it out, or choose lz4 or zstd",
            )
        if not _MIN_CHUNK_BYTES <= self.chunk_bytes <= _MAX_CHUNK_BYTES:
            raise ConfigError(f"chunk bytes must be 1 KiB to 1 GiB, got {self.chunk_bytes}")
        if self.shard_bytes < _MIN_SHARD_BYTES:
            raise ConfigError(f"shard bytes must be at least 64 KiB, got {self.shard_bytes}")
        if self.permute_seed is not None and not 0 <= self.permute_seed < 2**63:
            raise ConfigError(f"the permutation seed must be 0 to 2^63-1, got {self.permute_seed}")
        for bits in (self.round_bits, *(bits for _, bits in self.round_arrays)):
            if bits is not None and not 1 <= bits <= 52:
                raise ConfigError(f"mantissa bits must be 1 to 52, got {bits}")
        if self.workers < 0:
            raise ConfigError(f"workers cannot be negative, got {self.workers}")

    @property
    def effective_level(self) -> int:
        """Level asked for, or the codec's default."""
        return DEFAULT_LEVELS[self.codec] if self.level is None else self.level

    def rounding_of(self, name: str) -> tuple[str | None, int | None]:
        """Return the pattern of `round_arrays` that holds for an array, and the bits to keep.

        Example:
            >>> options = WriteOptions(round_bits=8, round_arrays=(("points", None),))
            >>> options.rounding_of("points"), options.rounding_of("fields/p")
            (('points', None), (None, 8))
        """
        for pattern, bits in reversed(self.round_arrays):
            if fnmatch.fnmatchcase(name, pattern):
                return pattern, bits
        return None, self.round_bits

    @property
    def effective_workers(self) -> int:
        """Threads to use; 0 means one per CPU that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class PackSummary:
    """Summary of a pack.

    Attributes:
        samples: samples written.
        arrays: distinct names of arrays.
        source_bytes: size of the arrays as they came.
        decoded_bytes: size of the arrays as they are stored, decoded; less with `float32`.
        stored_bytes: size of the shards, without the index.
        shards: shard objects written.
        skipped: sources that could not be read, with the reason.
        left_out: parts of sources that the written samples lack: the source, the names of the
            parts, and the reason.
        notes: sources of which nothing is lost, with their outcome.
        nonfinite: arrays with values that are NaN or infinite.
        unused_patterns: patterns of `round_arrays` that held for no array.
    """

    samples: int = 0
    arrays: int = 0
    source_bytes: int = 0
    decoded_bytes: int = 0
    stored_bytes: int = 0
    shards: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    nonfinite: tuple[NonFinite, ...] = ()
    unused_patterns: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Compression ratio: decoded bytes per stored byte."""
        return self.decoded_bytes / self.stored_bytes if self.stored_bytes else 0.0
