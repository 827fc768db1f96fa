"""What only a GPU can show: the compiled kernel, both decompressors, streams and events."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataplane.codecs import ChunkTable
from dataplane.gpu.placement import place
from dataplane.gpu.ring import PinnedRing
from tests.codecs.cases import BIG, BYTES, CHAINS, Stored, blosc, values
from tests.gpu.inside import inflate, inflated, staged

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"]


@pytest.mark.parametrize("endian", [BYTES, BIG])
@pytest.mark.parametrize("shuffle", ["noshuffle", "shuffle", "bitshuffle"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_compiled_kernel_places_every_element_type(
    dtype: str, shuffle: str, endian: dict
) -> None:
    chain = [endian, blosc("lz4", shuffle, blocksize=4096)]
    stored = Stored(values((70, 33), dtype), (16, 20), chain, missing=(1,), fill_value=1)
    box = [(3, 70), (1, 31)]
    table = stored.table(box)
    buffer, streams = staged(table, [stored.source])
    starts, memory = inflated(streams, buffer)
    wanted = np.ascontiguousarray(stored.wanted(box))
    out = torch.zeros(wanted.shape, dtype=torch.from_numpy(wanted[:0]).dtype, device="cuda")
    place(table.rows, streams, starts, memory.cuda(), [out])
    assert out.cpu().numpy().tobytes() == wanted.tobytes()


@pytest.mark.parametrize("by", ["nvcomp", "dali"])
def test_streams_inflate_on_the_device_as_on_the_cpu(by: str) -> None:
    from dataplane.gpu.device import CudaDevice
    from dataplane.gpu.inflate_dali import DaliInflater
    from dataplane.gpu.nvcomp import NvcompInflater

    chains = ["blosc-lz4-shuffle", "lz4", "raw"]
    chains += ["zstd", "blosc-zstd-bitshuffle-crc32c"] if by == "nvcomp" else []
    parts = [Stored(values((300, 133), "f4"), (64, 100), CHAINS[name]) for name in chains]
    table = ChunkTable.concatenate(
        [part.table(source=i, destination=i) for i, part in enumerate(parts)]
    )
    buffer, streams = staged(table, [part.source for part in parts])
    device = CudaDevice(torch.cuda.current_device())
    slot = PinnedRing(device).acquire()
    with device.side():
        inflater = NvcompInflater() if by == "nvcomp" else DaliInflater(device.torch_device.index)
        result = inflater.inflate(slot.upload(buffer), streams, slot, str)
        event = device.mark()
    event.wait()
    result.check()
    memory = result.memory.cpu().numpy()
    for start, stream in zip(result.starts, streams, strict=True):
        size = int(stream["decoded_bytes"])
        assert memory[int(start) : int(start) + size].tobytes() == inflate(stream, buffer)


def test_a_slot_is_lent_again_only_when_its_copy_is_done() -> None:
    from dataplane.gpu.device import CudaDevice

    device = CudaDevice(torch.cuda.current_device())
    ring = PinnedRing(device, slots=2)
    sent = []
    for value in range(12):
        slot = ring.acquire()
        tensor, array = slot.allocate((8 << 20,), np.dtype("i4"))
        array[...] = value
        with device.side():
            target = slot.upload(tensor)
            event = device.mark()
        ring.release(slot, event)
        device.hand_over([target], event)
        sent.append(target)
    assert [int(one.min()) for one in sent] == [int(one.max()) for one in sent] == list(range(12))


def test_every_part_of_the_benchmark_runs() -> None:
    from dataplane_bench.cases import gpu

    rows, figures = gpu.run(
        gpu.GpuOptions(chunk_bytes=(64 << 10,), ratios=(2.0,), rounds=1, sizes=gpu.Sizes.small()),
        lambda _: None,
    )
    names = {row.system for row in rows}
    assert {"dataplane", "kernel alone", "DALI", "decode=cpu", "decode=gpu"} <= names
    assert {"ceiling:plain copies", "ceiling:memcpy there", "ceiling:link"} <= names
    assert "beside a 3D U-Net step" in names
    assert {one.subject for one in figures} == {"dataplane", "decode=cpu", "decode=gpu"}
