"""Batches on a device, by every route: the same as those of the native decoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import dataplane as dp
from dataplane.datasets.batch import assemble
from dataplane.datasets.samples import Keys
from dataplane.errors import DecodeError, LoaderError
from dataplane.gpu.device import CpuDevice
from dataplane.gpu.inflate import HostInflater, Inflation
from dataplane.gpu.moved import moved, tensors_in
from dataplane.gpu.transfer import Transfer
from tests.datasets.packed import SAMPLES, Packed, pack, source_sample
from tests.gpu.fakes import LateDevice


@pytest.fixture(scope="session", params=["lz4", "zstd"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp(f"packed-{request.param}")
    samples = (source_sample(number) for number in range(SAMPLES))
    return pack(folder, samples, codec=request.param)


def equal(got: Any, wanted: Any) -> bool:
    """Whether two batches are the same, bit for bit, in the same order."""
    if isinstance(wanted, torch.Tensor):
        return (
            got.dtype == wanted.dtype
            and got.shape == wanted.shape
            and got.contiguous().numpy().tobytes() == wanted.contiguous().numpy().tobytes()
        )
    if isinstance(wanted, dict):
        return list(got) == list(wanted) and all(equal(got[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(equal, got, wanted))
    return bool(got == wanted)


def batches(packed: Packed, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Batches that were read and not decoded, and the layouts of their arrays."""
    dataset = dp.Dataset(str(packed.folder), **options)
    reader = dataset.reader()
    for indices in ([0, 1, 2], [10, 4], [7]):
        yield reader.fetch_all(indices), dataset.layouts


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("route", ["decode_here", "decode_there"])
def test_batches_are_those_of_the_native_decoder(packed: Packed, route: str, cache: bool) -> None:
    transfer = Transfer(CpuDevice(), threads=2)
    for samples, layouts in batches(packed, **({} if cache else {"cache": False})):
        sent = getattr(transfer, route)(samples, layouts)
        sent.settle()
        assert equal(sent.hand_over(transfer.device), assemble(samples, layouts))


@dataclass(frozen=True)
class Crop:
    """The middle of an array: neither its first nor its last elements."""

    is_random = False

    def region(self, array: dp.ArrayForm, *, draw: int) -> Any:
        return tuple(((min(1, n), max(min(1, n), n - 2)),) for n in array.shape)


@dataclass(frozen=True)
class Cyclic:
    """A run of points that goes over the end of an array."""

    is_random = False

    def region(self, array: dp.ArrayForm, *, draw: int) -> Any:
        count, *rest = array.shape
        return (((count - 400, count), (0, 250)), *(((0, n),) for n in rest))


def test_crops_and_runs_of_points_come_as_selected(packed: Packed, kernel: str) -> None:
    arrays = {"points": Cyclic(), "point_data/pressure": Crop(), "fields/velocity": Crop()}
    transfer = Transfer(CpuDevice())
    for samples, layouts in batches(packed, arrays=arrays):
        sent = transfer.decode_there(samples, layouts)
        sent.settle()
        batch = sent.hand_over(transfer.device)
        assert equal(batch, assemble(samples, layouts))
        for slot, sample in enumerate(samples):
            points = packed.samples[int(sample.plan.key[-3:])].arrays["points"].values
            wanted = np.concatenate((points[-400:], points[:250]))
            assert equal(batch["points"][slot], torch.from_numpy(np.ascontiguousarray(wanted)))


def test_a_slot_is_not_decoded_into_before_its_copies_are_done(packed: Packed) -> None:
    device = LateDevice()
    transfer = Transfer(device)
    sent, wanted = [], []
    for _ in range(3):
        for samples, layouts in batches(packed):
            sent.append(transfer.decode_here(samples, layouts))
            wanted.append(assemble(samples, layouts))
    assert "wait" in " ".join(device.log)
    got = [one.hand_over(device) for one in sent]
    device.run_until(device.handed[-1][1])
    assert all(map(equal, got, wanted))
    # Every tensor was handed over, behind the event of its own batch.
    places = [place for _, place in device.handed]
    assert places == sorted(set(places))
    assert [count for count, _ in device.handed] == [len(list(tensors_in(one))) for one in wanted]


class Damaged:
    """Inflates, and finds at the end that a stream was damaged."""

    def __init__(self) -> None:
        self.checks = 0

    def inflate(self, *arguments: Any) -> Inflation:
        result = HostInflater().inflate(*arguments)

        def check() -> None:
            self.checks += 1
            raise DecodeError("a stream is damaged")

        return Inflation(result.memory, result.starts, check)


def test_a_damaged_stream_is_an_error_when_the_batch_is_settled(packed: Packed) -> None:
    inflater = Damaged()
    transfer = Transfer(CpuDevice(), inflater=inflater)
    samples, layouts = next(batches(packed))
    for _ in range(5):  # more than there are slots: each is given back
        sent = transfer.decode_there(samples, layouts)
        with pytest.raises(DecodeError, match="damaged"):
            sent.settle()
        sent.settle()
    assert inflater.checks == 5


def test_chunks_that_cannot_be_staged_give_the_slot_back(packed: Packed) -> None:
    transfer = Transfer(CpuDevice())
    samples, layouts = next(batches(packed, cache=False))
    for sample in samples:
        for source in sample.sources:
            np.frombuffer(source, np.uint8).setflags(write=True)
            memoryview(source)[: len(source)] = bytes(len(source))
    for route in (transfer.decode_there, transfer.decode_here) * 3:
        with pytest.raises(DecodeError, match="sample 'case-000', array"):
            route(samples, layouts)
    assert equal(transfer.move({"a": torch.ones(2)}).hand_over(CpuDevice()), {"a": torch.ones(2)})


def test_a_closed_transfer_makes_nothing(packed: Packed) -> None:
    transfer = Transfer(CpuDevice())
    transfer.close()
    samples, layouts = next(batches(packed))
    for route in (transfer.decode_there, transfer.decode_here):
        with pytest.raises(LoaderError, match="closed"):
            route(samples, layouts)


def test_what_users_code_made_is_moved_in_its_own_structure() -> None:
    class Pair(NamedTuple):
        left: Any
        right: Any

    shared = torch.arange(6).reshape(2, 3)
    content = {
        "x": shared,
        "again": shared,
        "view": shared.T,
        "deep": [Pair(torch.ones(2), "text"), (torch.zeros(0), 3, None)],
        "ordered": OrderedDict(a=torch.ones(1)),
        "sparse": torch.eye(3).to_sparse(),
        "scalar": torch.tensor(2.5),
        "__key__": Keys(["a", "b"]),
    }
    transfer = Transfer(CpuDevice())
    got = transfer.move(content).hand_over(transfer.device)
    assert got["x"] is got["again"]
    assert got["x"].data_ptr() != shared.data_ptr()
    assert torch.equal(got["view"], shared.T)
    assert type(got["deep"][0]) is Pair
    assert got["deep"][0].right == "text"
    assert isinstance(got["deep"][1], tuple)
    assert type(got["ordered"]) is OrderedDict
    assert got["sparse"].is_sparse
    assert got["scalar"].item() == 2.5
    assert type(got["__key__"]) is Keys


def test_only_tensors_of_the_cpu_are_moved() -> None:
    there = torch.empty(2, device="meta")
    assert moved([there, "a"], lambda tensor: tensor + 1)[0] is there
