"""Inflation of staged streams: on the CPU with the native decoder, and the calls for a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dataplane.codecs import ChunkTable, Codec
from dataplane.errors import ConfigError, DecodeError, LoaderError
from dataplane.gpu import nvcomp
from dataplane.gpu.device import CpuDevice
from dataplane.gpu.inflate import HostInflater, laid_out
from dataplane.gpu.inflate_dali import DaliInflater, described, groups_of_sizes
from dataplane.gpu.nvcomp import Call, DecompressOptions, NvcompInflater, parts_of, pointer_table
from dataplane.gpu.placement import place
from dataplane.gpu.ring import PinnedRing
from tests.codecs.cases import BYTES, CHAINS, Stored, blosc, values
from tests.gpu.inside import inflate, staged


def several() -> tuple[list[Stored], ChunkTable]:
    """Chunks of LZ4 and zstd, stored and compressed, of several sizes, one missing."""
    parts = [
        Stored(values((70, 33), "f4"), (16, 33), CHAINS["blosc-lz4-shuffle"], missing=(2,)),
        Stored(values((70, 33), "f8"), (16, 20), CHAINS["blosc-zstd-bitshuffle-crc32c"]),
        Stored(values((5000,), "u1"), (5000,), [BYTES, blosc("lz4", "noshuffle", clevel=0)]),
        Stored(values((40, 40), "i2"), (16, 16), CHAINS["zstd-crc32c"]),
        Stored(values((3, 3), "c16"), (2, 2), CHAINS["lz4"]),
    ]
    table = [part.table(source=i, destination=i) for i, part in enumerate(parts)]
    return parts, ChunkTable.concatenate(table)


def describe(row: int) -> str:
    return f"row {row}"


@pytest.mark.parametrize("threads", [1, 3])
def test_the_native_decoder_inflates_what_was_staged(threads: int) -> None:
    parts, table = several()
    buffer, streams = staged(table, [part.source for part in parts])
    slot = PinnedRing(CpuDevice()).acquire()
    result = HostInflater(threads=threads).inflate(
        torch.from_numpy(buffer), streams, slot, describe
    )
    for start, stream in zip(result.starts, streams, strict=True):
        got = result.memory.numpy()[start : start + int(stream["decoded_bytes"])]
        assert got.tobytes() == inflate(stream, buffer)
    result.check()
    outs = [torch.from_numpy(np.full(part.array.shape, 77, part.array.dtype)) for part in parts]
    place(table.rows, streams, result.starts, result.memory, outs)
    for out, part in zip(outs, parts, strict=True):
        assert out.numpy().tobytes() == part.array.tobytes()


def test_no_streams_inflate_to_nothing() -> None:
    slot = PinnedRing(CpuDevice()).acquire()
    nothing = torch.empty(0, dtype=torch.uint8)
    result = HostInflater().inflate(nothing, np.empty(0, several_dtype()), slot, describe)
    assert result.memory.numel() == 0
    assert len(result.starts) == 0


def several_dtype() -> np.dtype:
    from dataplane.codecs import STREAM_DTYPE

    return STREAM_DTYPE


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD])
def test_a_damaged_stream_is_named(codec: Codec) -> None:
    parts, table = several()
    buffer, streams = staged(table, [part.source for part in parts])
    bad = int(np.flatnonzero((streams["codec"] == codec) & (streams["nbytes"] > 20))[-1])
    buffer[int(streams["offset"][bad]) :][: int(streams["nbytes"][bad])] = 0xFF
    slot = PinnedRing(CpuDevice()).acquire()
    with pytest.raises(DecodeError, match=f"^row {int(streams['row'][bad])}"):
        HostInflater().inflate(torch.from_numpy(buffer), streams, slot, describe)


def test_streams_are_laid_out_at_multiples_of_sixteen() -> None:
    starts, total = laid_out(np.array([1, 16, 17, 0, 5]))
    assert starts.tolist() == [0, 16, 32, 64, 64]
    assert total == 80


def test_the_groups_for_dali_have_one_size_each_and_no_gaps() -> None:
    parts, table = several()
    _, streams = staged(table, [part.source for part in parts])
    streams = streams[streams["codec"] == Codec.LZ4]
    groups, starts, total = groups_of_sizes(streams)
    sizes = streams["decoded_bytes"].astype(np.int64)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(streams)))
    used = np.zeros(total, bool)
    for group in groups:
        assert len(np.unique(sizes[group])) == 1
        assert (np.diff(starts[group]) == sizes[group[0]]).all()
        assert starts[group[0]] % 16 == 0
        for number in group:
            assert not used[starts[number] : starts[number] + sizes[number]].any()
            used[starts[number] : starts[number] + sizes[number]] = True


def test_the_table_for_nvcomp_has_addresses_of_both_sides() -> None:
    parts, table = several()
    _, streams = staged(table, [part.source for part in parts])
    starts, _ = laid_out(streams["decoded_bytes"].astype(np.int64))
    pointers = pointer_table(streams, starts, 1 << 40, 1 << 41)
    assert pointers.dtype == np.int64
    assert (pointers[0] - (1 << 40) == streams["offset"].astype(np.int64)).all()
    assert (pointers[1] == streams["nbytes"].astype(np.int64)).all()
    assert (pointers[2] - (1 << 41) == starts).all()
    assert (pointers[3] == streams["decoded_bytes"].astype(np.int64)).all()


def test_calls_hold_one_codec_and_not_too_much_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, table = several()
    _, streams = staged(table, [part.source for part in parts])
    monkeypatch.setattr(nvcomp, "SCRATCH_PART_BYTES", 4096)
    found = list(parts_of(streams))
    assert sorted(np.concatenate([which for _, which in found])) == list(range(len(streams)))
    assert [codec for codec, _ in found].count(Codec.LZ4) == 1
    assert [codec for codec, _ in found].count(Codec.ZSTD) > 2
    for codec, which in found:
        assert (streams["codec"][which] == codec).all()
        if codec is Codec.ZSTD:
            sizes = streams["decoded_bytes"][which]
            assert sizes[:-1].sum() < 4096 + sizes.max()


class RecordedLibrary:
    """Stands where nvCOMP would be, and inflates on the CPU what it is asked to.

    It reads the very arrays that the calls point to, as the library would on a device.
    """

    def __init__(self, *, broken: int | None = None, status: int = 0) -> None:
        self.broken = broken
        self.status = status
        self.calls: list[tuple[Codec, int]] = []

    def scratch_bytes(self, codec: Codec, count: int, largest: int, total: int) -> int:
        assert largest <= total
        return 3 * total if codec is Codec.ZSTD else 0

    def status_text(self, status: int) -> str:
        return f"status {status}"

    def decompress(self, codec: Codec, call: Call, stream: int) -> None:
        def array(address: int, kind: object, count: int) -> np.ndarray:
            pointer = ctypes.cast(address, ctypes.POINTER(kind))
            return np.ctypeslib.as_array(pointer, (count,))

        self.calls.append((codec, call.count))
        n = call.count
        sources = array(call.source_addresses, ctypes.c_int64, n)
        source_bytes = array(call.source_bytes, ctypes.c_int64, n)
        targets = array(call.target_addresses, ctypes.c_int64, n)
        target_bytes = array(call.target_bytes, ctypes.c_int64, n)
        written = array(call.written_bytes, ctypes.c_int64, n)
        statuses = array(call.statuses, ctypes.c_int32, n)
        for i in range(n):
            record = np.zeros(1, several_dtype())[0]
            record["nbytes"], record["codec"] = source_bytes[i], codec
            record["decoded_bytes"] = target_bytes[i]
            got = inflate(record, array(int(sources[i]), ctypes.c_uint8, int(source_bytes[i])))
            ctypes.memmove(int(targets[i]), got, len(got))
            written[i] = len(got)
            statuses[i] = 0
        if self.broken is not None and codec is Codec.ZSTD:
            written[self.broken] -= 1
            statuses[self.broken] = self.status


@pytest.fixture
def stream_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        cuda_stream = 0

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())


def test_what_nvcomp_is_told_inflates_every_stream_to_its_place(stream_of_torch: None) -> None:
    parts, table = several()
    buffer, streams = staged(table, [part.source for part in parts])
    slot = PinnedRing(CpuDevice()).acquire()
    library = RecordedLibrary()
    result = NvcompInflater(library).inflate(torch.from_numpy(buffer), streams, slot, describe)
    result.check()
    assert [codec for codec, _ in library.calls] == [Codec.LZ4, Codec.ZSTD]
    for start, stream in zip(result.starts, streams, strict=True):
        got = result.memory.numpy()[start : start + int(stream["decoded_bytes"])]
        assert got.tobytes() == inflate(stream, buffer)


@pytest.mark.parametrize(
    ("status", "message"), [(0, "inflates to .* bytes, expected"), (12, "not inflate: status 12")]
)
def test_what_nvcomp_reports_is_raised_when_the_work_is_done(
    stream_of_torch: None, status: int, message: str
) -> None:
    parts, table = several()
    buffer, streams = staged(table, [part.source for part in parts])
    slot = PinnedRing(CpuDevice()).acquire()
    library = RecordedLibrary(broken=1, status=status)
    result = NvcompInflater(library).inflate(torch.from_numpy(buffer), streams, slot, describe)
    bad = np.flatnonzero(streams["codec"] == Codec.ZSTD)[1]
    with pytest.raises(DecodeError, match=f"row {int(streams['row'][bad])}: ZSTD.*{message}"):
        result.check()


def package() -> Path:
    if importlib.util.find_spec("nvidia") is None or not (
        spec := importlib.util.find_spec("nvidia.libnvcomp")
    ):
        pytest.skip("nvCOMP is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_options_are_laid_out_as_in_the_headers(name: str) -> None:
    text = (package() / "include" / "nvcomp" / f"{name}.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    body = re.search(r"typedef struct\s*\{([^}]*)\}\s*nvcompBatched\w+DecompressOpts_t;", text)
    assert body
    fields = re.findall(r"(\w+)\s+(\w+)(?:\[(\d+)\])?;", body[1])
    sizes = {"nvcompDecompressBackend_t": 4, "int": 4, "nvcompType_t": 4, "char": 1}
    sizes["nvcompBitshuffleMode_t"] = 4
    places, at = {}, 0
    for kind, field, count in fields:
        places[field] = at
        at += sizes[kind] * int(count or 1)
    assert at == ctypes.sizeof(DecompressOptions) == 64
    assert places["backend"] == DecompressOptions.backend.offset
    shared = (package() / "include" / "nvcomp" / "shared_types.h").read_text()
    assert re.search(r"NVCOMP_DECOMPRESS_BACKEND_CUDA = 2\b", shared)
    # The arguments of the call, in order.
    call = re.search(r"nvcompBatched\w+DecompressAsync\(([^)]*)\);", text)
    assert call
    names = [argument.split()[-1].lstrip("*") for argument in call[1].split(",")]
    assert [name.removeprefix("device_") for name in names] == [
        "compressed_chunk_ptrs",
        "compressed_chunk_bytes",
        "uncompressed_buffer_bytes",
        "uncompressed_chunk_bytes",
        "num_chunks",
        "temp_ptr",
        "temp_bytes",
        "uncompressed_chunk_ptrs",
        "decompress_opts",
        "statuses",
        "stream",
    ]


def test_the_library_answers_what_needs_no_device() -> None:
    package()
    library = nvcomp.load()
    assert library.version // 1000 == 5
    for codec in (Codec.LZ4, Codec.ZSTD):
        source, target, _ = library.alignments(codec)
        assert 16 % source == 0
        assert 16 % target == 0
    decoded = 1000 * 65536
    assert library.scratch_bytes(Codec.LZ4, 1000, 65536, decoded) < decoded
    assert decoded < library.scratch_bytes(Codec.ZSTD, 1000, 65536, decoded) < 4 * decoded
    nothing = torch.empty(0, dtype=torch.uint8)
    call = Call(torch.zeros(4, 1, dtype=torch.int64), nothing, nothing, nothing)
    call.source_addresses = None
    with pytest.raises(LoaderError, match=r"nvcompBatchedLZ4DecompressAsync.*status 10"):
        library.decompress(Codec.LZ4, call, 0)


def test_a_library_that_does_not_load_is_told_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "libnvcomp.so.5"
    broken.write_bytes(b"no library")
    with pytest.raises(ConfigError, match="nvCOMP does not load"):
        nvcomp.Library(broken)


class RecordedPipeline:
    """Stands where DALI's pipeline would be, takes what it takes, and inflates on the CPU."""

    def __init__(self) -> None:
        self.fed: dict[str, list] = {}
        self.runs: list[int] = []

    def feed_input(self, name: str, data: list, cuda_stream: int | None = None) -> None:
        assert (cuda_stream is not None) == (name == "staged")
        self.fed[name] = data

    def run(self, cuda_stream: int, /) -> tuple[list[np.ndarray]]:
        outputs = []
        samples = zip(*(self.fed[n] for n in ("staged", "offset", "nbytes", "shape")), strict=True)
        for staged_bytes, offsets, sizes, shape in samples:
            (decoded,) = shape
            record = np.zeros(1, several_dtype())[0]
            record["codec"], record["decoded_bytes"] = Codec.LZ4, decoded
            chunks = []
            for offset, size in zip(offsets, sizes, strict=True):
                record["offset"], record["nbytes"] = offset, size
                chunks.append(inflate(record, staged_bytes.numpy()))
            outputs.append(np.frombuffer(b"".join(chunks), np.uint8).reshape(-1, decoded).copy())
        self.runs.append(len(outputs))
        return (outputs,)


@pytest.mark.parametrize("limit", [64, 2])
def test_what_dali_is_told_inflates_every_stream_to_its_place(
    stream_of_torch: None, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("dataplane.gpu.inflate_dali.MAX_SIZES", limit)
    parts, _ = several()
    parts = [parts[0], parts[2], parts[4]]
    table = ChunkTable.concatenate(
        [part.table(source=i, destination=i) for i, part in enumerate(parts)]
    )
    buffer, streams = staged(table, [part.source for part in parts])
    assert (streams["codec"] == Codec.LZ4).all()
    pipeline = RecordedPipeline()
    slot = PinnedRing(CpuDevice()).acquire()
    result = DaliInflater(0, pipeline).inflate(torch.from_numpy(buffer), streams, slot, describe)
    result.check()
    sizes = len(np.unique(streams["decoded_bytes"]))
    assert sizes > 2
    assert pipeline.runs == ([sizes] if limit == 64 else [2] * (sizes // 2) + [1] * (sizes % 2))
    for start, stream in zip(result.starts, streams, strict=True):
        got = result.memory.numpy()[start : start + int(stream["decoded_bytes"])]
        assert got.tobytes() == inflate(stream, buffer)


def test_dali_accepts_the_pipeline_as_it_is_described() -> None:
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    pipeline = described(0)
    assert isinstance(pipeline, dali.Pipeline)
    # The stream of a run is positional: as a keyword it would be the input of that name.
    stream = list(inspect.signature(dali.Pipeline.run).parameters.values())[1]
    assert (stream.name, stream.kind) == ("cuda_stream", inspect.Parameter.POSITIONAL_ONLY)
    assert "cuda_stream" in inspect.signature(dali.Pipeline.feed_input).parameters
