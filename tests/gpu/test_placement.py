"""Placing inflated streams: the kernel and its twin against NumPy, for all that is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.codecs import ChunkTable, decode
from dataplane.codecs.table import Convert
from dataplane.errors import ConfigError, DecodeError
from dataplane.gpu.elements import Normalise
from dataplane.gpu.placement import place, prepare
from tests.codecs.cases import BIG, BYTES, CHAINS, Stored, blosc, values
from tests.gpu.inside import inflated, place_stored, staged

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"]


def empty(shape: tuple[int, ...], dtype: object) -> torch.Tensor:
    """A tensor whose content is wrong wherever nothing is placed."""
    return torch.from_numpy(np.full(shape, 77, dtype))


def same(got: torch.Tensor, wanted: np.ndarray) -> bool:
    return got.numpy().tobytes() == np.ascontiguousarray(wanted).tobytes()


@pytest.mark.parametrize("name", CHAINS)
def test_every_chain_of_codecs_is_placed(kernel: str, name: str) -> None:
    stored = Stored(values((40, 33), "f4"), (16, 33), CHAINS[name], missing=(1,), fill_value=3.5)
    out = empty((40, 33), "f4")
    place_stored([stored], [None], [out], backwards=True)
    assert same(out, stored.array)


@pytest.mark.parametrize("chain", ["bytes", "bits", "none", "big"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type_comes_out_as_it_was_stored(kernel: str, dtype: str, chain: str) -> None:
    endian = BIG if chain == "big" else BYTES
    shuffle = {"bytes": "shuffle", "big": "shuffle", "bits": "bitshuffle", "none": "noshuffle"}
    codecs = [endian, blosc("zstd" if chain == "none" else "lz4", shuffle[chain], blocksize=256)]
    array = values((9, 50), dtype, seed=3)
    stored = Stored(array, (4, 37), codecs, missing=(3,), fill_value=1)
    out = empty(array.shape, dtype)
    place_stored([stored], [None], [out])
    assert same(out, stored.array)


def test_crops_of_edge_chunks_go_to_strided_places(kernel: str) -> None:
    stored = Stored(values((10, 11, 12), "i2"), (4, 5, 7), CHAINS["blosc-lz4-shuffle"])
    box = [(3, 10), (2, 11), (6, 12)]
    memory = empty((20, 9, 18), "i2")
    before = memory.clone()
    out = memory[4:18:2, :, ::3]
    place_stored([stored], [box], [out])
    wanted = before.numpy().copy()
    wanted[4:18:2, :, ::3] = stored.wanted(box)
    assert same(memory, wanted)


def test_a_transposed_destination_is_filled(kernel: str) -> None:
    stored = Stored(values((8, 6), "f8"), (3, 4), CHAINS["blosc-zstd-bitshuffle-crc32c"])
    memory = empty((6, 8), "f8")
    place_stored([stored], [None], [memory.T])
    assert same(memory.T.contiguous(), stored.array)


def test_several_arrays_are_placed_together(kernel: str) -> None:
    parts = [
        Stored(values((50, 3), "f4"), (16, 3), CHAINS["blosc-lz4-shuffle"], missing=(0,)),
        Stored(values((7,), "i8"), (7,), CHAINS["raw"]),
        Stored(values((5, 5, 5), "u1"), (2, 3, 4), CHAINS["blosc-zstd-shuffle"]),
        Stored(np.array(2.5, "f8"), (), CHAINS["zstd"]),
        Stored(values((4, 4), "c16"), (3, 3), CHAINS["lz4"], missing=(2,), fill_value=1 + 2j),
    ]
    outs = [empty(part.array.shape, part.array.dtype) for part in parts]
    place_stored(parts, [None] * len(parts), outs, backwards=True)
    for out, part in zip(outs, parts, strict=True):
        assert same(out, part.array)


def test_a_run_of_points_that_wraps_goes_to_one_place(kernel: str) -> None:
    stored = Stored(values((100, 3), "f4"), (32, 3), CHAINS["blosc-lz4-shuffle"])
    table = ChunkTable.concatenate(
        [
            stored.table([(90, 100), (0, 3)], destination_start=(5, 0)),
            stored.table([(0, 17), (0, 3)], destination_start=(15, 0)),
        ]
    )
    buffer, streams = staged(table, [stored.source])
    starts, memory = inflated(streams, buffer)
    out = empty((40, 3), "f4")
    place(table.rows, streams, starts, memory, [out])
    wanted = np.full((40, 3), 77, "f4")
    wanted[5:15], wanted[15:32] = stored.array[90:], stored.array[:17]
    assert same(out, wanted)


def test_what_is_prepared_places_nothing_until_it_is_launched_and_then_each_time(
    kernel: str,
) -> None:
    parts = [
        Stored(values((50, 3), "f4"), (16, 3), CHAINS["blosc-lz4-shuffle"], missing=(0,)),
        Stored(values((7,), "i8"), (7,), CHAINS["raw"]),
    ]
    table = ChunkTable.concatenate(
        part.table(None, source=number, destination=number) for number, part in enumerate(parts)
    )
    buffer, streams = staged(table, [part.source for part in parts])
    starts, memory = inflated(streams, buffer)
    outs = [empty(part.array.shape, part.array.dtype) for part in parts]
    launches = prepare(table.rows, streams, starts, memory, outs)
    assert all((out == 77).all() for out in outs)
    for _ in range(2):
        for out in outs:
            out.fill_(77)
        for launch in launches:
            launch()
        for out, part in zip(outs, parts, strict=True):
            assert same(out, part.array)


def test_nothing_is_placed_of_empty_arrays(kernel: str) -> None:
    stored = Stored(np.empty((0, 4), "f8"), (3, 4), CHAINS["raw"])
    out = empty((0, 4), "f8")
    place_stored([stored], [None], [out])
    assert out.numel() == 0
    untouched = empty((3, 4), "f8")
    full = Stored(values((3, 4), "f8"), (3, 4), CHAINS["raw"])
    place_stored([full], [[(1, 1), (0, 4)]], [untouched])
    assert (untouched == 77).all()


@pytest.mark.parametrize("convert", [Convert.F64_TO_F32, Convert.F16_TO_F32, Convert.BF16_TO_F32])
def test_conversions_of_the_table_are_those_of_the_decoder(kernel: str, convert: Convert) -> None:
    kind = {Convert.F64_TO_F32: "f8", Convert.F16_TO_F32: "f2", Convert.BF16_TO_F32: "u2"}[convert]
    array = values((30, 20), "f4" if kind == "u2" else kind)
    if kind == "u2":
        array = (array.view("u4") >> 16).astype("u2")
    array[0, 0] = np.finfo("f8").max if kind == "f8" else array[0, 0]
    stored = Stored(array, (16, 16), [BIG, blosc()], missing=(2,), fill_value=3)
    table = stored.table(convert=convert)
    wanted, out = np.empty((30, 20), "f4"), empty((30, 20), "f4")
    decode(table, [stored.source], [wanted])
    buffer, streams = staged(table, [stored.source])
    starts, memory = inflated(streams, buffer)
    with np.errstate(over="ignore"):  # of the interpreter, which is NumPy
        place(table.rows, streams, starts, memory, [out])
    assert same(out, wanted)


@pytest.mark.parametrize("placed", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["u1", "i2", "u8", "f2", "f4", "f8"])
def test_elements_are_cast_and_scaled_on_the_way(
    kernel: str, kind: str, placed: torch.dtype
) -> None:
    stored = Stored(values((33, 7), kind), (8, 7), [BYTES, blosc()], missing=(1,), fill_value=9)
    out = torch.full((33, 7), 77, dtype=placed)
    asked = Normalise(np.dtype(kind), scale=0.25, shift=-1.5)
    place_stored([stored], [None], [out], normalise=[asked])
    wide = "f8" if kind == "f8" or placed is torch.float64 else "f4"
    wanted = stored.array.astype(wide) * np.dtype(wide).type(0.25) - np.dtype(wide).type(1.5)
    assert torch.equal(out, torch.from_numpy(wanted).to(placed))


def test_a_cast_without_a_scale_rounds_to_nearest(kernel: str) -> None:
    stored = Stored(values((500,), "f8"), (128,), [BYTES, blosc()])
    out = torch.empty(500, dtype=torch.float32)
    place_stored([stored], [None], [out], normalise=[Normalise(np.dtype("f8"))])
    assert same(out, stored.array.astype("f4"))


@pytest.mark.parametrize("kernel", ["interpreted"], indirect=True)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_box_of_any_array_is_what_the_decoder_gives(kernel: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=4).map(tuple))
    chunk = tuple(data.draw(st.integers(1, 9)) for _ in shape)
    dtype = data.draw(st.sampled_from(DTYPES))
    chain = [
        data.draw(st.sampled_from([BYTES, BIG])),
        blosc(
            data.draw(st.sampled_from(["lz4", "zstd"])),
            data.draw(st.sampled_from(["noshuffle", "shuffle", "bitshuffle"])),
            clevel=data.draw(st.integers(0, 3)),
            blocksize=data.draw(st.sampled_from([0, 128, 512])),
            typesize=data.draw(st.sampled_from([np.dtype(dtype).itemsize, 3, 8])),
        ),
    ]
    grid = int(np.prod([-(-n // c) for n, c in zip(shape, chunk, strict=True)]))
    missing = tuple(data.draw(st.sets(st.integers(0, grid - 1), max_size=2)))
    stored = Stored(values(shape, dtype, seed=1), chunk, chain, missing=missing, fill_value=1)
    box = []
    for size in shape:
        lo = data.draw(st.integers(0, size))
        box.append((lo, data.draw(st.integers(lo, size))))
    out = empty(tuple(hi - lo for lo, hi in box), dtype)
    place_stored([stored], [box], [out], backwards=data.draw(st.booleans()))
    assert same(out, stored.wanted(box))


@pytest.mark.parametrize("kernel", ["interpreted"], indirect=True)
def test_boxes_of_more_than_one_tile_are_placed_whole(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.gpu.placement._INTERPRETED_TILE", 64)
    stored = Stored(values((31, 17), "f4"), (31, 17), CHAINS["blosc-small-blocks"])
    out = empty((29, 17), "f4")
    place_stored([stored], [[(1, 30), (0, 17)]], [out])
    assert same(out, stored.array[1:30])


def test_what_does_not_fit_is_refused_before_anything_is_placed() -> None:
    stored = Stored(values((8, 8), "f4"), (4, 4), CHAINS["blosc-lz4-shuffle"])
    table = stored.table()
    buffer, streams = staged(table, [stored.source])
    starts, memory = inflated(streams, buffer)

    def refuse(message: str, *, kind: type[Exception] = ConfigError, **change: object) -> None:
        call = {"rows": table.rows, "streams": streams, "starts": starts, "inflated": memory}
        call |= {"destinations": [torch.zeros(8, 8)], **change}
        with pytest.raises(kind, match=message):
            place(**call)

    refuse("leaves its destination", destinations=[torch.zeros(8, 7)])
    refuse("2 dimensions, its destination has 1", destinations=[torch.zeros(64)])
    refuse("elements of 4 bytes", destinations=[torch.zeros(8, 8, dtype=torch.float64)])
    refuse("destination 0 of 0", destinations=[])
    refuse("a stream leaves", starts=starts + 40)
    refuse("a stream leaves", starts=starts - 40)
    refuse("contiguous bytes", inflated=memory[::2])
    refuse("not those of the rows", kind=DecodeError, streams=streams[:-1], starts=starts[:-1])
    wrong = streams.copy()
    wrong["decoded_start"][1] += 1
    refuse("do not add up", kind=DecodeError, streams=wrong)
    refuse(
        "cannot be placed as i4",
        destinations=[torch.zeros(8, 8, dtype=torch.int32)],
        normalise=[Normalise(np.dtype("f4"))],
    )
    refuse(
        "cannot be placed as c8",
        destinations=[torch.zeros(8, 8, dtype=torch.complex64)],
        normalise=[Normalise(np.dtype("f4"))],
    )
    refuse("2 normalisations", normalise=[Normalise(), Normalise()])
