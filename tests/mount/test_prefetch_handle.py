"""Sequential readers get a growing window; others get nothing that they did not ask for."""

from __future__ import annotations

import random

import pytest

from dataplane_fuse.prefetch_handle import NEAR_BYTES, START_BYTES, SequentialPrefetch
from tests.mount.fakes import FakeAhead

MIB = 1 << 20
BLOCK = 4 * MIB


class Watched:
    def __init__(self, size_bytes: int, *, start: int = 0, window_bytes: int = 64 * MIB) -> None:
        self.aheads: list[FakeAhead] = []
        self.guess = SequentialPrefetch(
            start,
            start + size_bytes,
            block_bytes=BLOCK,
            max_window_bytes=window_bytes,
            start_fetching=self._start,
        )

    def _start(self, start: int, window_bytes: int) -> FakeAhead:
        self.aheads.append(FakeAhead(start, window_bytes))
        return self.aheads[-1]

    def read(self, start: int, count: int = 1, step: int = MIB) -> None:
        for i in range(count):
            self.guess.note(start + i * step, start + (i + 1) * step)

    @property
    def live(self) -> list[FakeAhead]:
        return [ahead for ahead in self.aheads if not ahead.closed]


def test_a_sequential_reader_gets_a_window_that_doubles_to_its_limit() -> None:
    watched = Watched(1 << 30)
    watched.read(0, 200)
    windows = [ahead.window_bytes // MIB for ahead in watched.aheads]
    assert windows == [4, 8, 16, 32, 64]
    assert len(watched.live) == 1


def test_fetching_starts_where_the_reader_is_and_follows_it() -> None:
    watched = Watched(1 << 30)
    watched.read(0, 40)
    assert watched.live[0].start == 32 * MIB
    assert watched.live[0].step == 39 * MIB // BLOCK


def test_small_sequential_reads_count_as_well() -> None:
    watched = Watched(1 << 30)
    watched.read(0, START_BYTES // 8192 - 1, step=8192)
    assert watched.aheads == []
    watched.read(START_BYTES - 8192, 1, step=8192)
    assert len(watched.aheads) == 1


def test_random_reads_start_nothing() -> None:
    watched = Watched(1 << 30)
    rng = random.Random(1)
    for _ in range(500):
        watched.read(rng.randrange(0, (1 << 30) - 65536), step=65536)
    assert watched.aheads == []


def test_a_jump_cancels_what_was_being_fetched() -> None:
    watched = Watched(1 << 30)
    watched.read(0, 20)
    watched.read(500 * MIB, step=4096)
    assert watched.live == []
    assert watched.guess.window_bytes == 0
    watched.read(500 * MIB + 4096, 3)
    assert len(watched.live) == 1
    assert watched.live[0].window_bytes == BLOCK


def test_requests_that_overtake_each_other_are_one_stream() -> None:
    watched = Watched(1 << 30)
    for pair in range(0, 64, 2):
        watched.read((pair + 1) * MIB)
        watched.read(pair * MIB)
    assert watched.guess.window_bytes >= 32 * MIB
    assert NEAR_BYTES >= 2 * MIB


def test_nothing_is_fetched_past_the_end() -> None:
    watched = Watched(BLOCK)
    watched.read(0, 4)
    assert watched.aheads == []


def test_a_file_in_the_middle_of_an_object_stays_within_it() -> None:
    watched = Watched(20 * MIB, start=100 * MIB)
    watched.read(100 * MIB, 20)
    assert watched.aheads
    assert all(100 * MIB <= ahead.start < 120 * MIB for ahead in watched.aheads)


def test_a_window_of_zero_switches_it_off() -> None:
    watched = Watched(1 << 30, window_bytes=0)
    watched.read(0, 100)
    assert watched.aheads == []


def test_closing_cancels_and_later_reads_start_nothing() -> None:
    watched = Watched(1 << 30)
    watched.read(0, 10)
    watched.guess.close()
    watched.guess.close()
    watched.read(10 * MIB, 50)
    assert watched.live == []


@pytest.mark.parametrize("seed", range(5))
def test_at_most_one_fetch_is_under_way(seed: int) -> None:
    watched = Watched(1 << 30)
    rng = random.Random(seed)
    for _ in range(50):
        watched.read(rng.randrange(900) * MIB, rng.randrange(1, 60))
        assert len(watched.live) <= 1
