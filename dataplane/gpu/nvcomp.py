"""nvCOMP's batched decompressors, through their C interface.

The library comes with DALI (package nvidia-libnvcomp) or with nvidia-nvcomp. What is called here
is described by its headers `nvcomp/lz4.h`, `nvcomp/zstd.h` and `nvcomp/shared_types.h`, version
5.x; a test compares the option structures with the headers of the installed package, and another
library version is refused.

One call decompresses all streams of one codec. It takes arrays of addresses and lengths in memory
of the device; zstd needs scratch memory there, 3.1 bytes per decoded byte, so its streams go in
calls of at most `SCRATCH_PART_BYTES` decoded bytes. Decompressors of the CUDA kind are asked for,
not the hardware engine, which does not notice damaged streams.

`load` once per process; an inflater belongs to one thread at a time.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.codecs import Codec
from dataplane.errors import ConfigError, DataplaneError, LoaderError
from dataplane.extras import missing_package
from dataplane.gpu.inflate import Inflation, laid_out, raise_for_stream
from dataplane.gpu.ring import Slot

__all__ = ["DecompressOptions", "NvcompInflater", "load"]

MAJOR: Final = 5
SCRATCH_PART_BYTES: Final = 256 << 20
_SUCCESS: Final = 0
_CUDA_BACKEND: Final = 2
_LIBRARY: Final = f"libnvcomp.so.{MAJOR}"
_PACKAGES: Final = ("nvidia.libnvcomp", "nvidia.nvcomp")
_FOLDERS: Final = ("lib64", "lib", "bin", ".")
_NAMES: Final = {Codec.LZ4: "LZ4", Codec.ZSTD: "Zstd"}


class DecompressOptions(ctypes.Structure):
    """Options of a batched decompressor: 64 bytes, passed by value.

    Those of LZ4 have `sort`, `data_type` and `bitshuffle` where those of zstd have reserved bytes;
    zero means the default of each.

    Source: nvcompBatchedLZ4DecompressOpts_t, nvcompBatchedZstdDecompressOpts_t.
    """

    _fields_ = (
        ("backend", ctypes.c_int),
        ("sort", ctypes.c_int),
        ("data_type", ctypes.c_int),
        ("bitshuffle", ctypes.c_int),
        ("reserved", ctypes.c_char * 48),
    )


class _Properties(ctypes.Structure):
    """Source: nvcompProperties_t."""

    _fields_ = (("version", ctypes.c_uint32), ("cudart_version", ctypes.c_uint32))


class _Alignments(ctypes.Structure):
    """Source: nvcompAlignmentRequirements_t."""

    _fields_ = (
        ("input", ctypes.c_size_t),
        ("output", ctypes.c_size_t),
        ("temp", ctypes.c_size_t),
    )


class Library:
    """The loaded library.

    Args:
        path: file of it.

    Attributes:
        path: as given.
        version: its version, such as 5300 for 5.3.0.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as err:
            raise ConfigError(f"nvCOMP does not load: {err}") from err
        properties = _Properties()
        self._check("nvcompGetProperties", self._library.nvcompGetProperties(
            ctypes.byref(properties)))  # fmt: skip
        self.version = int(properties.version)
        if self.version // 1000 != MAJOR:
            raise ConfigError(
                f"{path} is nvCOMP {self.version / 1000:g}, expected {MAJOR}.x",
                hint="nvidia-nvcomp 6 and DALI cannot be installed together; remove nvidia-nvcomp",
            )
        self._status_text = self._library.nvcompGetStatusString
        self._status_text.argtypes = [ctypes.c_int]
        self._status_text.restype = ctypes.c_char_p
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        for name in _NAMES.values():
            alignments = self._function(name, "GetRequiredAlignments")
            alignments.argtypes = [DecompressOptions, pointer]
            scratch = self._function(name, "GetTempSizeAsync")
            scratch.argtypes = [size, size, DecompressOptions, pointer, size]
            run = self._function(name, "Async")
            run.argtypes = [
                *(pointer, pointer, pointer, pointer),
                *(size, pointer, size, pointer),
                *(DecompressOptions, pointer, pointer),
            ]

    def alignments(self, codec: Codec) -> tuple[int, int, int]:
        """Return what input, output and scratch memory must be multiples of."""
        found = _Alignments()
        call = self._function(_NAMES[codec], "GetRequiredAlignments")
        self._check(call.__name__, call(_options(), ctypes.addressof(found)))
        return int(found.input), int(found.output), int(found.temp)

    def scratch_bytes(self, codec: Codec, count: int, largest: int, total: int) -> int:
        """Return how much scratch memory a call needs.

        Args:
            codec: codec of the streams.
            count: number of them.
            largest: decoded bytes of the largest.
            total: decoded bytes of all.
        """
        found = ctypes.c_size_t()
        call = self._function(_NAMES[codec], "GetTempSizeAsync")
        status = call(count, largest, _options(), ctypes.addressof(found), total)
        self._check(call.__name__, status)
        return int(found.value)

    def decompress(self, codec: Codec, call: Call, stream: int) -> None:
        """Queue the decompression of many streams on a CUDA stream.

        Raises:
            LoaderError: nvCOMP refuses the call.
        """
        run = self._function(_NAMES[codec], "Async")
        status = run(
            call.source_addresses,
            call.source_bytes,
            call.target_bytes,
            call.written_bytes,
            call.count,
            call.scratch,
            call.scratch_bytes,
            call.target_addresses,
            _options(),
            call.statuses,
            stream,
        )
        self._check(run.__name__, status)

    def status_text(self, status: int) -> str:
        """Return what nvCOMP calls a status."""
        text: bytes | None = self._status_text(status)
        return text.decode(errors="replace") if text else f"status {status}"

    def _function(self, name: str, what: str) -> Any:
        return getattr(self._library, f"nvcompBatched{name}Decompress{what}")

    def _check(self, what: str, status: int) -> None:
        if status != _SUCCESS:
            raise LoaderError(f"{what} of {self.path.name} failed with status {status}")


class Call:
    """The arguments of one call: addresses in memory of the device.

    Args:
        table: int64[4, n] on the device: addresses of streams, their bytes, addresses of what they
            inflate to, the bytes of that.
        written: int64[n] on the device, for how many bytes were written of each.
        statuses: int32[n] on the device.
        scratch: uint8[...] on the device.
    """

    def __init__(
        self,
        table: torch.Tensor,
        written: torch.Tensor,
        statuses: torch.Tensor,
        scratch: torch.Tensor,
    ) -> None:
        self.count = table.shape[1]
        self.source_addresses = table[0].data_ptr()
        self.source_bytes = table[1].data_ptr()
        self.target_addresses = table[2].data_ptr()
        self.target_bytes = table[3].data_ptr()
        self.written_bytes = written.data_ptr()
        self.statuses = statuses.data_ptr()
        self.scratch_bytes = scratch.numel()
        self.scratch = scratch.data_ptr() if scratch.numel() else None


def _options() -> DecompressOptions:
    return DecompressOptions(backend=_CUDA_BACKEND)


@functools.cache
def load() -> Library:
    """Return the library.

    Raises:
        MissingPackage: no package brings it.
        ConfigError: it does not load, or is of another version.
    """
    for package in _PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except ImportError:
            continue
        for root in [] if spec is None else list(spec.submodule_search_locations or []):
            for folder in _FOLDERS:
                path = Path(root) / folder / _LIBRARY
                if path.exists():
                    return Library(path)
    raise missing_package("decoding on a GPU", "nvidia-libnvcomp", extra="dali-cuda13")


class NvcompInflater:
    """Inflates LZ4 and zstd on a GPU.

    Args:
        library: the library; by default the installed one.
    """

    def __init__(self, library: Library | None = None) -> None:
        self._library = library or load()

    def inflate(
        self,
        staged: torch.Tensor,
        streams: npt.NDArray[Any],
        slot: Slot,
        describe: Callable[[int], str],
    ) -> Inflation:
        """As `Inflater.inflate`."""
        sizes = streams["decoded_bytes"].astype(np.int64)
        starts, total = laid_out(sizes)
        memory = torch.empty(total, dtype=torch.uint8, device=staged.device)
        table = pointer_table(streams, starts, staged.data_ptr(), memory.data_ptr())
        written = torch.full((len(streams),), -1, dtype=torch.int64, device=staged.device)
        statuses = torch.zeros(len(streams), dtype=torch.int32, device=staged.device)
        order = np.concatenate([which for _, which in parts_of(streams)] or [np.empty(0, np.intp)])
        device_table = slot.upload(np.ascontiguousarray(table[:, order]))
        queue = torch.cuda.current_stream(staged.device).cuda_stream
        first = 0
        for codec, which in parts_of(streams):
            part = slice(first, first + len(which))
            first += len(which)
            scratch_bytes = self._library.scratch_bytes(
                codec, len(which), int(sizes[which].max()), int(sizes[which].sum())
            )
            scratch = torch.empty(scratch_bytes, dtype=torch.uint8, device=staged.device)
            call = Call(device_table[:, part], written[part], statuses[part], scratch)
            self._library.decompress(codec, call, queue)
        # Read back behind the work; they are looked at when it is done.
        host_written = slot.download(written)
        host_statuses = slot.download(statuses)

        def check() -> None:
            got, status = host_written.numpy(), host_statuses.numpy()
            wrong = np.flatnonzero((status != _SUCCESS) | (got != sizes[order]))
            if not len(wrong):
                return
            at = int(wrong[np.argmin(order[wrong])])
            what = f"inflates to {int(got[at])} bytes, expected {int(sizes[order[at]])}"
            if status[at] != _SUCCESS:
                what = f"does not inflate: {self._library.status_text(int(status[at]))}"
            raise_for_stream(streams, int(order[at]), describe, what)

        return Inflation(memory, starts, check)


def pointer_table(
    streams: npt.NDArray[Any], starts: npt.NDArray[np.int64], source: int, target: int
) -> npt.NDArray[np.int64]:
    """Return the arrays that a call reads: int64[4, n], as `Call` has them.

    Args:
        streams: STREAM_DTYPE[n].
        starts: int64[n], where each is inflated to.
        source: address of the staged bytes.
        target: address of the memory for decoded bytes.
    """
    return np.stack(
        (
            streams["offset"].astype(np.int64) + source,
            streams["nbytes"].astype(np.int64),
            starts + target,
            streams["decoded_bytes"].astype(np.int64),
        )
    )


def parts_of(streams: npt.NDArray[Any]) -> Iterator[tuple[Codec, npt.NDArray[np.intp]]]:
    """Yield which streams go to one call: those of one codec, of zstd not too many at once."""
    for codec in _NAMES:
        which = np.flatnonzero(streams["codec"] == codec)
        if not len(which):
            continue
        if codec is Codec.LZ4:
            yield codec, which
            continue
        sizes = streams["decoded_bytes"][which].astype(np.int64)
        part = (np.cumsum(sizes) - sizes) // SCRATCH_PART_BYTES
        for number in np.unique(part):
            yield codec, which[part == number]


def why_not() -> str:
    """Return why streams cannot be inflated on a GPU here, or nothing."""
    try:
        load()
    except DataplaneError as err:
        return err.message
    return ""
