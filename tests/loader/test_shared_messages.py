"""Arrays and tensors cross between processes as they are, and no memory in use is written again."""

from __future__ import annotations

import gc
import os
import pickle
import random
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from dataplane.loader import segments
from dataplane.loader.pickling import OUT_OF_BAND_BYTES
from dataplane.loader.segments import MAX_FREE, MAX_LENT
from dataplane.loader.shared_messages import Connection, pair
from tests.loader.inside import segments_free, segments_lent, segments_made, segments_mapped
from tests.loader.workers import descriptors, worker_of

LARGE = OUT_OF_BAND_BYTES
COUNTS = [0, 1, 100, LARGE]


class Link:
    """Both ends of a connection, in one process."""

    def __init__(self) -> None:
        ours, theirs = pair()
        self.ours, self.theirs = Connection(ours), Connection(theirs)

    def there(self, content: object) -> Any:
        self.ours.send(self.ours.pack(1, content))
        received = self.theirs.receive()
        assert received is not None
        return received.load()

    def back(self, content: object = None) -> Any:
        self.theirs.send(self.theirs.pack(1, content))
        received = self.ours.receive()
        assert received is not None
        return received.load()

    def turn(self, content: object) -> Any:
        found = self.there(content)
        self.back()
        return found

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def link() -> Iterator[Link]:
    link = Link()
    yield link
    link.close()


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def made(link: Link) -> int:
    """Number of segments that were made for messages `there`."""
    return segments_made(link.ours)


TYPES = ["?", "i1", "<u2", ">i4", "f2", "f4", "f8", "c16", "g", "S7", "U3", "V5", "M8[us]", "m8[s]"]
TORCH_TYPES = [
    *("bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "bfloat16", "float32"),
    *("float64", "float8_e4m3fn", "complex64", "complex128"),
]
STRUCTURE = np.dtype([("a", "<i2"), ("b", ">f8", (2,)), ("c", "S3")])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    "dtype",
    [*TYPES, STRUCTURE],
    ids=str,
)
def test_arrays_of_any_type_and_size(link: Link, dtype: Any, count: int) -> None:
    dtype = np.dtype(dtype)
    bytes_ = np.random.default_rng(1).integers(0, 2, count * dtype.itemsize, dtype=np.uint8)
    array = bytes_.view(dtype) if count else np.zeros(0, dtype)
    found = link.there({"array": array})["array"]
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable


@pytest.mark.parametrize("side", [4, 50])
@pytest.mark.parametrize(
    "layout",
    [
        lambda cube: cube,
        np.asfortranarray,
        lambda cube: cube.transpose(1, 2, 0),
        lambda cube: cube[::-1],
        lambda cube: cube[:, ::-2, 1:],
        lambda cube: cube[0, :, :1],
        lambda cube: np.broadcast_to(cube[0], (3, *cube.shape)),
        lambda cube: cube[:, :, 0].T,
        lambda cube: cube[1, 1, 1:2].reshape(()),
    ],
)
@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_of_any_layout(link: Link, side: int, layout: Any, writeable: bool) -> None:
    array = layout(np.arange(float(side**3)).reshape(side, side, side)).view()
    if not writeable:
        array.flags.writeable = False
    found = link.there([array])[0]
    assert np.array_equal(found, array)
    assert found.shape == array.shape
    assert found.flags.writeable
    if array.flags.c_contiguous or array.flags.f_contiguous:
        assert found.strides == array.strides
    found[...] = -1
    assert not np.array_equal(found, array)


@pytest.mark.parametrize("side", [0, 3, 40])
@pytest.mark.parametrize(
    "dtype",
    TORCH_TYPES,
)
def test_tensors_of_any_type(link: Link, dtype: str, side: int) -> None:
    tensor = torch.arange(side**3).reshape(side, side, side).to(getattr(torch, dtype))
    for sent in (tensor, tensor.permute(2, 0, 1), tensor[:, 1::2]):
        found = link.there((sent,))[0]
        assert type(found) is torch.Tensor
        assert (found.dtype, found.shape) == (sent.dtype, sent.shape)
        assert torch.equal(
            found.contiguous().view(torch.uint8), sent.contiguous().view(torch.uint8)
        )


def test_tensors_of_odd_kinds(link: Link) -> None:
    plain = torch.randn(2, 3, 40, 50)
    image = plain.to(memory_format=torch.channels_last)
    assert link.there(image).is_contiguous(memory_format=torch.channels_last)
    complex_ = torch.randn(5000, dtype=torch.complex64)
    assert torch.equal(link.there(complex_.conj()), complex_.conj())
    assert torch.equal(link.there(complex_.conj().imag), complex_.conj().imag)
    assert torch.equal(link.there(plain[0, 0, 0, 0]), plain[0, 0, 0, 0])
    assert torch.equal(link.there(plain[:1, 0].expand(9, 40, 50)), plain[:1, 0].expand(9, 40, 50))
    sparse = torch.eye(200).to_sparse()
    assert torch.equal(link.there(sparse).to_dense(), torch.eye(200))
    assert link.there(torch.empty(3, device="meta")).device.type == "meta"
    plain.label = "inlet"  # type: ignore[attr-defined]
    assert link.there(plain).label == "inlet"


def test_tensors_that_require_grad(link: Link) -> None:
    leaf = torch.ones(LARGE, requires_grad=True)
    found = link.there(leaf)
    assert found.requires_grad
    assert found.is_leaf
    found.sum().backward()
    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    parameter = link.there(weight)
    assert type(parameter) is torch.nn.Parameter
    assert not parameter.requires_grad
    with pytest.raises(TypeError, match=r"send tensor\.detach"):
        link.there({"loss": leaf * 2})
    assert link.turn(3) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_tensor_on_a_gpu_is_refused(link: Link) -> None:
    with pytest.raises(TypeError, match=r"on cuda:0 cannot .* tensor\.cpu"):
        link.there(torch.ones(3, device="cuda"))


def test_one_object_twice_is_one_and_tensors_on_one_storage_are_copied(link: Link) -> None:
    tensor, array = torch.arange(2 * LARGE), np.arange(2 * LARGE)
    halves = tensor[:LARGE], tensor[LARGE // 2 :]
    found = link.there([tensor, tensor, *halves, array, array, array[::2]])
    assert found[0] is found[1]
    assert found[4] is found[5]
    found[0].zero_()
    found[4][:] = 0
    assert torch.equal(found[2], halves[0])
    assert torch.equal(found[3], halves[1])
    assert np.array_equal(found[6], array[::2])


@dataclass
class Batch:
    values: Any
    mask: Any
    more: dict[str, Any] = field(default_factory=dict)


Pair = namedtuple("Pair", "first second")  # noqa: PYI024


def test_arrays_inside_of_anything(link: Link) -> None:
    array, tensor = np.arange(LARGE), torch.arange(LARGE)
    found = link.there([Batch(array, [tensor], {"x": (array[1:], None)}), Pair(tensor, {1, 2})])
    assert np.array_equal(found[0].values, array)
    assert torch.equal(found[0].mask[0], tensor)
    assert np.array_equal(found[0].more["x"][0], array[1:])
    assert torch.equal(found[1].first, tensor)
    objects = np.array([array, tensor, "text", None], dtype=object)
    found = link.there(objects)
    assert np.array_equal(found[0], array)
    assert torch.equal(found[1], tensor)
    masked = np.ma.masked_array(np.arange(LARGE), np.arange(LARGE) % 2 == 0)
    assert np.ma.allequal(link.there(masked), masked)
    assert (link.there(masked).mask == masked.mask).all()
    buffer = pickle.PickleBuffer(bytearray(range(256)) * 100)
    assert bytes(link.there(buffer)) == bytes(range(256)) * 100


@pytest.mark.parametrize("count", [0, 1, 1000, 47_000, 50_000, 200_000, 3_000_000])
def test_pickled_bytes_of_any_length(link: Link, count: int) -> None:
    content = os.urandom(count)
    for _ in range(2):
        assert link.turn(content) == content
        assert link.turn([content, np.arange(LARGE)])[0] == content
    many = [np.full(LARGE, n % 256, "u1") for n in range(count // 100 % 4000)]
    assert [found[-1] for found in link.turn(many)] == [n % 256 for n in range(len(many))]


def test_arrays_are_views_on_pages_of_their_own_and_memory_is_used_again(link: Link) -> None:
    contents = [np.full(100_000, n) for n in range(2)]
    found = link.turn(contents)
    places = [address(one) for one in found]
    assert all(place % segments.PAGE_BYTES == 0 for place in places)
    assert len(set(places)) == 2
    for number in range(10):
        del found
        link.back()
        found = link.there([np.full(100_000, number), torch.full((90_000,), number)])
        assert [address(found[0]), found[1].data_ptr()] == places
    assert made(link) == 1


def test_nothing_waits_for_a_garbage_collection(link: Link) -> None:
    class Local:
        def __init__(self, array: Any) -> None:
            self.array = array

    gc.disable()
    try:
        for number in range(10):
            objects = np.array([np.full(100_000, number), None], dtype=object)
            tensor = torch.full((90_000,), number)
            link.back(link.there([objects, tensor, Local(objects)]))
            link.there(0)
            link.back()
    finally:
        gc.enable()
    assert made(link) == segments_made(link.theirs) == 1


def test_the_memory_of_a_slice_is_kept_as_long_as_it(link: Link) -> None:
    kept = link.turn(np.arange(100_000))[5:7]
    tensor = torch.from_numpy(link.turn(np.arange(100_000)))[5:7]
    view = memoryview(link.turn(np.arange(100_000)))[5:7]
    for _ in range(5):
        link.turn(np.zeros(100_000, int))
    assert kept.tolist() == tensor.tolist() == view.tolist() == [5, 6]
    link.close()
    assert kept.tolist() == tensor.tolist() == view.tolist() == [5, 6]


def test_what_is_kept_for_ever_is_never_written_again_and_takes_no_descriptor(link: Link) -> None:
    link.turn(np.zeros(LARGE, int))
    before = descriptors()
    kept = [link.turn(np.full(LARGE + n, n)) for n in range(5 * MAX_LENT)]
    assert descriptors() == before
    assert segments_lent(link.ours) <= MAX_LENT
    link.there(0)
    assert segments_mapped(link.theirs) <= MAX_LENT + 1
    assert all((array == n).all() for n, array in enumerate(kept))
    del kept
    link.back()
    assert segments_free(link.ours) <= MAX_FREE
    for n in range(3):
        assert (link.turn(np.full(LARGE, n)) == n).all()


def test_memory_of_varying_sizes_is_used_again(link: Link) -> None:
    chance = random.Random(1)
    for number in range(200):
        count = chance.randrange(400_000, 600_000)
        assert (link.turn(np.full(count, number)) == number).all()
    assert made(link) < 6


def test_a_small_message_does_not_occupy_the_memory_of_a_large_one(link: Link) -> None:
    link.turn(np.zeros(4 << 20))
    link.back()
    small = link.turn(np.zeros(LARGE))
    again = link.turn(np.zeros(4 << 20))
    assert made(link) == 2
    del small, again


def test_what_was_lent_before_a_fork_is_never_written_again(link: Link) -> None:
    lent = link.turn(np.full(100_000, 7))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    del lent
    link.back()
    assert made(link) == 1
    assert segments_lent(link.ours) == segments_free(link.ours) == 0
    assert segments_mapped(link.theirs) == 0
    assert (link.turn(np.full(100_000, 8)) == 8).all()
    assert made(link) == 2


def test_a_fork_reads_what_it_was_forked_with_whatever_its_parent_does(link: Link) -> None:
    lent = link.turn(np.full(100_000, 7))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0 if (lent == 7).all() else 1)
    del lent
    for _ in range(5):
        link.turn(np.full(100_000, 8))
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reading)
    os.close(writing)


def test_a_message_that_cannot_be_made_changes_nothing(link: Link) -> None:
    for _ in range(5):
        with pytest.raises(TypeError):
            link.there([np.zeros(LARGE), (n for n in range(3))])
    assert made(link) == 0
    assert link.turn([np.zeros(LARGE)])[0].sum() == 0


def test_a_process_without_descriptors_says_so(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", refuse)
        with pytest.raises(OSError, match="Too many open files"):
            link.there(np.zeros(LARGE))
    assert link.turn(np.ones(LARGE)).all()


def test_an_end_that_is_gone_is_no_message(link: Link) -> None:
    link.ours.send(link.ours.pack(1, "last words"))
    link.ours.close()
    received = link.theirs.receive()
    assert received is not None
    assert received.load() == "last words"
    assert link.theirs.receive() is None
    with pytest.raises(ConnectionError):
        link.theirs.send(link.theirs.pack(1, "nobody there"))


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_that_keeps_some_results_finds_all_of_them_right(seed: int) -> None:
    """Through two processes; results also go back as arguments, and are written to."""
    chance = random.Random(seed)
    kept: list[tuple[int, Any]] = []

    def transform(argument: Any) -> Any:
        number, size, given = argument
        made = [
            np.full(size, number),
            torch.full((size // 2,), number),
            "small",
            np.full(3, number),
        ]
        return made, None if given is None else given + 1

    with worker_of(transform) as worker:
        for number in range(400):
            size = chance.choice([10, 3000, 30_000, chance.randrange(400_000)])
            given = chance.choice(kept)[1] if kept and number % 2 else None
            (array, tensor, text, small), raised = worker.call((number, size, given))
            assert (array.shape, tensor.shape, text) == ((size,), (size // 2,), "small")
            if given is not None:
                assert (raised == given + 1).all()
            if chance.random() < 0.3:
                choice = chance.randrange(4)
                kept.append((number, [array, tensor.numpy(), array[::3], small][choice]))
            elif size:
                array[:] = -1  # it is ours alone
            if len(kept) > 40 and chance.random() < 0.5:
                kept.pop(chance.randrange(len(kept)))
            del array, tensor, small, raised
    for number, array in kept:
        assert (array == number).all(), number


@pytest.mark.slow
def test_a_gigabyte_goes_and_comes() -> None:
    array = np.zeros(1 << 30, np.uint8)
    array[[0, -1]] = 1, 2
    with worker_of(lambda array: array[::-1]) as worker:
        found = worker.call(array)
    assert found.nbytes == 1 << 30
    assert found[0] == 2
    assert found[-1] == 1
