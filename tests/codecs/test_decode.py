"""The native decoder against the reference and against the arrays that were encoded."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.codecs import CancelFlag, ChunkTable, codec_alone, decode, reference
from dataplane.errors import (
    ChecksumMismatch,
    ConfigError,
    DataplaneError,
    DecodeError,
    TooLarge,
    Truncated,
)
from tests.codecs.cases import BYTES, CHAINS, CRC, Stored, blosc, values

DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"]


def decoded(stored: Stored, box: Any = None, **more: Any) -> np.ndarray:
    out = np.empty(stored.wanted(box).shape, stored.array.dtype)
    decode(stored.table(box), [stored.source], [out], **more)
    return out


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_codec_and_type_comes_back_as_it_was(chain: Any, dtype: str) -> None:
    array = values((23, 40, 9), dtype)
    stored = Stored(array, (10, 16, 9), chain)
    assert decoded(stored).tobytes() == array.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(threads: int) -> None:
    stored = Stored(values((64, 64, 64), "f4"), (16, 16, 16), CHAINS["blosc-lz4-shuffle-crc32c"])
    assert np.array_equal(decoded(stored, threads=threads), stored.array)


@st.composite
def stored_boxes(draw: st.DrawFn) -> tuple[Stored, Any]:
    ndim = draw(st.integers(0, 4))
    limit = (64, 64, 24, 12, 7)[ndim]
    shape = tuple(draw(st.integers(0, limit)) for _ in range(ndim))
    chunks = tuple(draw(st.integers(1, max(n, 1) + 2)) for n in shape)
    box = []
    for n in shape:
        lo = draw(st.integers(0, n))
        box.append((lo, draw(st.integers(lo, n))))
    dtype = draw(st.sampled_from(DTYPES))
    chain = CHAINS[draw(st.sampled_from(sorted(CHAINS)))]
    missing = tuple(draw(st.sets(st.integers(0, 5), max_size=3)))
    fill = draw(st.sampled_from([0, 1]))
    stored = Stored(
        values(shape, dtype, seed=draw(st.integers(0, 9))), chunks, chain, missing, fill
    )
    return stored, draw(st.sampled_from([None, box]))


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=stored_boxes(), layout=st.sampled_from(["C", "F", "strided", "reversed"]))
def test_any_box_equals_the_reference_and_the_array(case: Any, layout: str) -> None:
    stored, box = case
    wanted = stored.wanted(box)
    start = [1] * wanted.ndim
    shape = [n + 2 for n in wanted.shape]
    big = np.full([n * 2 for n in shape], 77, wanted.dtype, order="F" if layout == "F" else "C")
    step = {"strided": 2, "reversed": -1}.get(layout, 1)
    expected = big.copy(order="K")

    def window(array: np.ndarray) -> np.ndarray:
        return array[(..., *(slice(None, None, step) for _ in shape))]

    table = stored.table(box, destination_start=start)
    decode(table, [stored.source], [window(big)], threads=2)
    reference.decode(table, [stored.source], [window(expected)])
    assert big.tobytes() == expected.tobytes()
    inner = window(big)[tuple(slice(1, 1 + n) for n in wanted.shape)]
    assert inner.tobytes() == wanted.tobytes()


def test_a_scalar_and_an_empty_array_decode() -> None:
    scalar = Stored(np.array(2.5, "f8"), (), CHAINS["blosc-zstd-shuffle"])
    assert decoded(scalar) == 2.5
    empty = Stored(np.empty((0, 3), "f4"), (4, 3), CHAINS["zstd"])
    assert len(empty.table()) == 0
    assert decoded(empty).shape == (0, 3)


def test_eight_dimensions_decode() -> None:
    array = values((3, 2, 3, 2, 3, 2, 3, 2), "f4")
    stored = Stored(array, (2, 2, 2, 1, 2, 2, 2, 2), CHAINS["blosc-lz4-shuffle"])
    assert np.array_equal(decoded(stored), array)
    box = [(1, 3), (0, 2), (0, 3), (1, 2), (1, 2), (0, 1), (2, 3), (0, 2)]
    assert np.array_equal(decoded(stored, box), stored.wanted(box))


def test_several_arrays_and_sources_decode_in_one_call() -> None:
    first = Stored(values((30, 3), "f8"), (8, 3), CHAINS["blosc-zstd-shuffle"], missing=(1,))
    second = Stored(values((100,), "i4", 1), (33,), CHAINS["lz4"])
    table = ChunkTable.concatenate(
        [first.table(), second.table([(10, 90)], source=1, destination=1)]
    )
    outs = [np.empty((30, 3)), torch.empty(80, dtype=torch.int32)]
    decode(table, [first.source, memoryview(second.source)], outs, threads=3)
    assert np.array_equal(outs[0], first.array)
    assert np.array_equal(outs[1].numpy(), second.array[10:90])


def test_offsets_count_from_the_start_of_the_source() -> None:
    stored = Stored(values((10,), "f4"), (5,), CHAINS["zstd"])
    stored.offsets += np.uint64(10_000)
    out = np.empty(10, "f4")
    decode(stored.table(source_start=10_000), [stored.source], [out])
    assert np.array_equal(out, stored.array)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t,
        lambda t: t.numpy(),
        lambda t: memoryview(t.numpy()),
        lambda t: t.T.contiguous().T,
        lambda t: torch.empty(20, 12, 2)[:, :, 1],
    ],
    ids=["torch", "numpy", "memoryview", "transposed", "interleaved"],
)
def test_destinations_of_every_kind_are_written_in_place(view: Any) -> None:
    stored = Stored(values((20, 12), "f4"), (7, 5), CHAINS["blosc-lz4-shuffle"])
    target = view(torch.zeros(20, 12))
    decode(stored.table(), [stored.source], [target])
    assert np.array_equal(np.asarray(target), stored.array)


def test_half_precision_types_without_a_numpy_name_decode() -> None:
    stored = Stored(values((64,), "u2"), (16,), CHAINS["blosc-lz4-shuffle"])
    out = torch.empty(64, dtype=torch.bfloat16)
    decode(stored.table(), [stored.source], [out])
    assert np.array_equal(out.view(torch.uint16).numpy(), stored.array)


def read_only() -> np.ndarray:
    array = np.empty(10, "f4")
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (read_only(), "writable"),
        (np.empty(10, ">f4"), "byte order"),
        (b"0123456789", "writable"),
        ([0.0] * 10, "writable"),
        (np.empty(10, "f8"), "element size"),
        (np.empty((10, 1), "f4"), "dimensions"),
        (np.empty(9, "f4"), "leaves its destination"),
        (np.broadcast_to(np.empty(1, "f4"), 10), "writable"),
        (np.lib.stride_tricks.as_strided(np.empty(10, "f4"), (10,), (0,)), "overlap"),
    ],
)
def test_a_destination_that_does_not_fit_is_refused_untouched(target: Any, match: str) -> None:
    stored = Stored(values((10,), "f4"), (5,), CHAINS["raw"])
    before = bytes(target) if isinstance(target, np.ndarray) else None
    with pytest.raises(ConfigError, match=match):
        decode(stored.table(), [stored.source], [target])
    if before is not None:
        assert bytes(target) == before


def test_overlapping_rows_are_refused_before_anything_is_written() -> None:
    stored = Stored(values((10,), "f4"), (5,), CHAINS["raw"])
    out = np.full(10, 77, "f4")
    table = ChunkTable.concatenate([stored.table(), stored.table([(4, 6)])])
    with pytest.raises(ConfigError, match=r"row 2.*overlaps"):
        decode(table, [stored.source], [out])
    assert (out == 77).all()


def test_threads_are_limited() -> None:
    stored = Stored(values((10,), "f4"), (5,), CHAINS["raw"])
    for threads in (0, 257):
        with pytest.raises(ConfigError, match="threads"):
            decoded(stored, threads=threads)


def test_errors_say_what_and_where() -> None:
    stored = Stored(values((100,), "f4"), (10,), CHAINS["blosc-lz4-shuffle-crc32c"])
    damaged = bytearray(stored.source)
    damaged[int(stored.offsets[7])] ^= 1
    out = np.empty(100, "f4")
    with pytest.raises(ChecksumMismatch, match=r"row 7 \(chunk 7.*crc32c.*expected 0x.*got 0x"):
        decode(stored.table(), [damaged], [out], threads=2)
    with pytest.raises(ChecksumMismatch, match=r"car-7, pressure, chunk 7: checksum mismatch"):
        decode(
            stored.table(), [damaged], [out], describe=lambda row: f"car-7, pressure, chunk {row}"
        )
    assert np.array_equal(out[:70], stored.array[:70])


def test_a_source_that_ends_early_is_truncated() -> None:
    stored = Stored(values((100,), "f4"), (10,), CHAINS["raw"])
    with pytest.raises(Truncated, match="row 9"):
        decode(stored.table(), [stored.source[:-10]], [np.empty(100, "f4")])


@pytest.mark.parametrize("name", [n for n in CHAINS if "crc32c" not in n])
def test_every_prefix_of_a_chunk_is_refused(name: str) -> None:
    stored = Stored(values((120,), "f4"), (120,), CHAINS[name])
    length = int(stored.nbytes[0])
    table = stored.table()
    guarded = np.full(122, 77, "f4")
    for size in range(length):
        table.rows["source_nbytes"] = size
        with pytest.raises(DecodeError):
            decode(table, [stored.source[:size]], [guarded[1:-1]])
    assert guarded[0] == guarded[-1] == 77


@pytest.mark.parametrize("name", [n for n in CHAINS if "crc32c" not in n])
def test_a_flipped_byte_gives_an_error_or_what_the_reference_gives(name: str) -> None:
    stored = Stored(values((300,), "f4"), (300,), CHAINS[name])
    table = stored.table()
    outcomes = set()
    for at in range(int(stored.nbytes[0])):
        damaged = bytearray(stored.source)
        damaged[at] ^= 1 << (at % 8)
        ours, theirs = np.zeros(302, "f4"), np.zeros(302, "f4")
        try:
            decode(table, [damaged], [ours[1:-1]])
        except DataplaneError:
            outcomes.add("refused")
            continue
        outcomes.add("decoded")
        try:
            reference.decode(table, [damaged], [theirs[1:-1]])
        except DecodeError:
            outcomes.add("only the reference refused")
        else:
            # Damage that zstd cannot see decodes to garbage that differs between its versions.
            assert "zstd" in str(CHAINS[name]) or ours.tobytes() == theirs.tobytes()
        assert ours[0] == ours[-1] == 0
    if name not in ("raw", "big-endian"):
        assert "refused" in outcomes


@pytest.mark.parametrize("name", [n for n in CHAINS if "crc32c" in n])
def test_every_flipped_byte_is_found_by_the_checksum(name: str) -> None:
    stored = Stored(values((80,), "f4"), (80,), CHAINS[name])
    table, out = stored.table(), np.empty(80, "f4")
    for at in range(int(stored.nbytes[0])):
        damaged = bytearray(stored.source)
        damaged[at] ^= 1 << (at % 8)
        with pytest.raises(ChecksumMismatch):
            decode(table, [damaged], [out])


@pytest.mark.parametrize("name", ["zstd", "lz4", "blosc-lz4-shuffle", "blosc-zstd-shuffle", "raw"])
def test_a_chunk_that_holds_more_than_its_place_is_refused(name: str) -> None:
    stored = Stored(values((120,), "f4"), (120,), CHAINS[name])
    table = stored.table()
    table.rows["chunk_shape"][:, 0] = table.rows["extent"][:, 0] = 100
    out = np.full(120, 77, "f4")
    with pytest.raises((TooLarge, DecodeError)):
        decode(table, [stored.source], [out])
    assert (out[100:] == 77).all()


def test_lying_lengths_in_a_frame_never_crash() -> None:
    stored = Stored(values((3000,), "f4"), (3000,), [BYTES, blosc("lz4", blocksize=1024)])
    rng = np.random.default_rng(0)
    table = stored.table()
    guarded = np.full(3002, 77, "f4")
    for _ in range(3000):
        damaged = np.frombuffer(stored.source, np.uint8).copy()
        words = damaged[: damaged.size // 4 * 4].view("<u4")
        words[rng.integers(0, 16)] = rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 4097, 65536])
        with contextlib.suppress(DataplaneError):
            decode(table, [damaged.data], [guarded[1:-1]])
        assert guarded[0] == guarded[-1] == 77


def test_the_codec_alone_can_be_measured() -> None:
    stored = Stored(values((100,), "f4"), (10,), CHAINS["blosc-lz4-shuffle-crc32c"])
    codec_alone(stored.table(), [stored.source], threads=2)
    with pytest.raises(DecodeError):
        codec_alone(stored.table(), [stored.source[:50]])


def test_calls_from_many_threads_share_the_decoder() -> None:
    stored = Stored(values((64, 64), "f4"), (16, 16), [BYTES, blosc("zstd", clevel=1), CRC])
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(30):
                assert np.array_equal(decoded(stored, threads=3), stored.array)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_its_own_threads() -> None:
    stored = Stored(values((64, 64), "f4"), (16, 16), CHAINS["blosc-zstd-shuffle"])
    decoded(stored, threads=3)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)
            same = np.array_equal(decoded(stored, threads=3), stored.array)
            os._exit(0 if same else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(decoded(stored, threads=3), stored.array)


def test_other_python_threads_run_while_it_decodes() -> None:
    stored = Stored(values((1 << 20,), "f8"), (1 << 17,), CHAINS["blosc-zstd-shuffle"])
    table, out = stored.table(), np.empty(1 << 20)
    ticks, done = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread that holds the GIL keeps it for longer than the test lasts
    thread = threading.Thread(target=tick)
    try:
        thread.start()
        before, deadline = ticks, time.monotonic() + 20
        while ticks == before and time.monotonic() < deadline:
            decode(table, [stored.source], [out])
        after = ticks
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    assert after > before


def long_work() -> tuple[ChunkTable, list[bytes], list[np.ndarray]]:
    """At least ten seconds of decoding: chunks of about 2 ms.

    The destinations are distinct, but happen to be one piece of memory: fine for this purpose.
    """
    stored = Stored(values((1 << 17,), "f8"), (1 << 17,), CHAINS["blosc-zstd-bitshuffle-crc32c"])
    rows = np.repeat(stored.table().rows, 20_000)
    rows["destination"] = np.arange(rows.size)
    return ChunkTable(rows), [stored.source], [np.empty(1 << 17)] * rows.size


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_stops_a_long_decode(threads: int) -> None:
    table, sources, destinations = long_work()
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.2, interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            decode(table, sources, destinations, threads=threads)
        returned = time.monotonic()
    finally:
        timer.cancel()
        timer.join()
    # It takes 20 to 30 ms here; the rest is for machines that do other things meanwhile.
    assert returned - sent[0] < 1


def test_a_cancel_flag_stops_a_decode_of_another_thread() -> None:
    table, sources, destinations = long_work()
    flag = CancelFlag()
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            decode(table, sources, destinations, threads=2, cancel=flag)
        except DecodeError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    flag.set()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert flag.is_set()
    assert str(outcome[0]).startswith("decoding was cancelled")


def test_a_bad_chunk_does_not_spoil_the_others() -> None:
    stored = Stored(values((1000,), "f4"), (10,), CHAINS["blosc-lz4-shuffle-crc32c"])
    damaged = bytearray(stored.source)
    for bad in (31, 7, 60):
        damaged[int(stored.offsets[bad])] ^= 1
    for threads in (1, 3):
        out = np.zeros(1000, "f4")
        with pytest.raises(ChecksumMismatch, match=r"row 7 .*; 3 chunks of this call are bad"):
            decode(stored.table(), [damaged], [out], threads=threads)
        good = np.repeat(~np.isin(np.arange(100), (7, 31, 60)), 10)
        assert np.array_equal(out[good], stored.array[good])


def test_buffers_are_released_after_success_and_failure() -> None:
    stored = Stored(values((10,), "f4"), (5,), CHAINS["raw-crc32c"])
    source = bytearray(stored.source)
    decode(stored.table(), [source], [np.empty(10, "f4")])
    source[0] ^= 1
    with pytest.raises(ChecksumMismatch):
        decode(stored.table(), [source], [np.empty(10, "f4")])
    gc.collect()
    source.clear()  # BufferError while an export is alive
