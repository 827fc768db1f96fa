"""How many native threads decode a batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import dataplane as dp
from dataplane.loader import stages
from dataplane.loader.stages import MAX_DECODE_THREADS, decode_threads
from tests.datasets.packed import Packed


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
def test_without_workers_a_batch_is_decoded_by_as_many_as_torch_computes_with():
    large = 1 << 30
    for count in (1, 3):
        torch.set_num_threads(count)
        assert decode_threads(0) == decode_threads(0, large) == count
    torch.set_num_threads(3)
    assert [decode_threads(0, nbytes) for nbytes in (0, 100, 512 << 10, 1 << 20)] == [1, 1, 2, 3]
    torch.set_num_threads(40)
    assert decode_threads(0, large) == 8


def test_with_workers_it_is_their_number_however_small_the_batch_is():
    assert [decode_threads(count, 1) for count in (1, 2, 100)] == [1, 2, 100]
    assert decode_threads(10**6) == MAX_DECODE_THREADS


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("batch_size", [2, None])
def test_batches_are_the_same_with_any_number_of_threads(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, batch_size: int | None
):
    monkeypatch.setattr(stages, "_INLINE_THREAD_BYTES", 1)
    name = "fields/velocity"
    seen = []
    for count in (1, 4):
        torch.set_num_threads(count)
        loader = dp.DataLoader(dp.Dataset(packed.url, [name], cache=False), batch_size=batch_size)
        seen.append([batch[name].clone() for batch in loader])
    assert len(seen[0]) == len(seen[1]) > 1
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
