"""Which device a loader's argument means."""

from __future__ import annotations

import pytest
import torch

from dataplane.errors import ConfigError
from dataplane.gpu.device import CpuDevice, CudaDevice, _CudaEvent, checked_device, resolve


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cpu", torch.device("cuda:3"), None])
def test_devices_are_taken_as_torch_names_them(device: object) -> None:
    assert checked_device(device) == (None if device is None else torch.device(device))


@pytest.mark.parametrize("device", ["gpu", "mps", "meta", "cuda:x", 0, True, torch.device("meta")])
def test_what_is_no_device_for_batches_is_refused(device: object) -> None:
    with pytest.raises(ConfigError, match='like "cuda", "cuda:1" or "cpu"'):
        checked_device(device)


def test_a_gpu_that_is_not_there_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no CUDA device here") as caught:
        resolve(torch.device("cuda"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("device", "rank", "count", "index"),
    [
        ("cuda", "2", 4, 2),
        ("cuda", "", 4, 1),  # no launcher: torch's current device
        ("cuda", "2", 1, 1),  # a launcher that shows each process its own GPU
        ("cuda:3", "2", 4, 3),
    ],
)
def test_cuda_is_the_gpu_of_this_process(
    monkeypatch: pytest.MonkeyPatch, device: str, rank: str, count: int, index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: max(count, 2))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", rank)
    made = []
    monkeypatch.setattr(CudaDevice, "__init__", lambda self, index: made.append(index))
    if count == 1:
        from dataplane.gpu.device import _own_index

        assert _own_index(1) == index
        return
    resolve(torch.device(device))
    assert made == [index]


def test_a_rank_without_a_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "5")
    with pytest.raises(ConfigError, match="asks for GPU 5, and there are 2"):
        resolve(torch.device("cuda"))


def test_the_cpu_is_a_device_of_its_own() -> None:
    device = resolve(torch.device("cpu"))
    assert isinstance(device, CpuDevice)
    target = torch.zeros(3)
    device.copy(torch.ones(3), target)
    device.mark().wait()
    assert target.tolist() == [1, 1, 1]


def test_a_batch_is_handed_over_behind_its_event_and_to_the_allocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []

    class Stream:
        def wait_event(self, event: object) -> None:
            happened.append(f"the loop's stream waits for {event}")

    class Tensor:
        layout = torch.strided
        is_quantized = is_nested = False

        def record_stream(self, stream: object) -> None:
            assert isinstance(stream, Stream)
            happened.append("the allocator knows")

    monkeypatch.setattr("dataplane.gpu.device._side_stream", lambda index: object())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    device = CudaDevice(0)
    device.hand_over([Tensor(), Tensor()], _CudaEvent("the copies", torch.device("cuda", 0)))
    assert happened == [
        "the loop's stream waits for the copies",
        "the allocator knows",
        "the allocator knows",
    ]


def test_what_the_allocator_cannot_be_told_of_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[str] = []

    class Event:
        def wait(self) -> None:
            waits.append("on the host")

    monkeypatch.setattr("dataplane.gpu.device._side_stream", lambda index: object())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: object())
    CudaDevice(0).hand_over([torch.eye(3).to_sparse()], Event())
    assert waits == ["on the host"]


def test_memory_that_cannot_be_pinned_is_used_as_it_is_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []
    empty = torch.empty

    def refuse(*arguments: object, **options: object) -> torch.Tensor:
        if options.pop("pin_memory", False):
            asked.append(arguments)
            raise RuntimeError("CUDA error: out of memory\nmore lines")
        return empty(*arguments, **options)

    monkeypatch.setattr("dataplane.gpu.device._side_stream", lambda index: object())
    monkeypatch.setattr(torch, "empty", refuse)
    device = CudaDevice(0)
    assert device.pinned(100).numel() == device.pinned(200).numel() - 100 == 100
    assert len(asked) == len(caplog.records) == 1
    assert "CUDA error: out of memory); see `ulimit -l`" in caplog.text
