"""Simulated runs come to what can be counted by hand, or by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from dataplane.planning.network import NetworkSettings
from dataplane.planning.reads import EpochReads
from tests.planning.runs import BLOCK, Steps, reads, setup, shuffled, simulator


def downloads(epochs: list[Steps], *, limit: int, window: int, next_epoch: int) -> list[int]:
    """Blocks downloaded in each epoch if the network takes no time, by brute force.

    Whenever the reader lets go of a step, the plan goes on as far as the window has room. What the
    window has is in memory; the disk keeps what comes first.
    """
    uses = [
        (epoch, epoch * len(epochs[0]) + number, block)
        for epoch, steps in enumerate(epochs)
        for number, step in enumerate(steps)
        for block in step
    ]
    disk: set[int] = set()
    last: dict[int, int] = {}
    of_next: set[int] = set()
    counts = [0] * len(epochs)
    place = 0

    def pump(epoch: int, step: int) -> None:
        nonlocal place
        while place < len(uses):
            of, at, block = uses[place]
            if at >= step:
                limit_next = min(next_epoch, window // 2)
                if of > epoch + 1 or (of > epoch and len(of_next | {block}) > limit_next):
                    return
                if block not in last:
                    if len(last) + 1 > window and last:
                        return
                    if block not in disk:
                        counts[of] += 1
                        if len(disk) < limit:
                            disk.add(block)
                if of > epoch:
                    of_next.add(block)
                last[block] = at
            place += 1

    step = 0
    for epoch, steps in enumerate(epochs):
        of_next.clear()
        pump(epoch, step)
        for _ in steps:
            step += 1
            for block in [block for block, at in last.items() if at < step]:
                del last[block]
            pump(epoch, step)
    return counts


def test_a_dataset_that_fits_is_downloaded_once():
    done = simulator(setup(), shuffled(40, 4), blocks=40, epochs=3).run()
    assert [one.fetched_bytes // BLOCK for one in done] == [40, 0, 0]
    assert [one.hit_rate for one in done] == [0.0, 1.0, 1.0]
    assert [one.needed_bytes // BLOCK for one in done] == [40, 40, 40]


def test_of_a_dataset_that_does_not_fit_the_share_that_fits_is_hit():
    given = setup(limit_blocks=10, window_blocks=8, memory_blocks=8)
    done = simulator(given, shuffled(40, 2), blocks=40, epochs=4).run()
    assert [one.hit_rate for one in done] == [0.0, 0.25, 0.25, 0.25]
    assert done[0].again_bytes == 0
    assert [one.again_bytes for one in done[1:]] == [one.fetched_bytes for one in done[1:]]


@pytest.mark.parametrize("seed", range(6))
def test_downloads_are_those_of_brute_force(seed: int):
    rng = np.random.default_rng(seed)
    blocks, steps, epochs = 30, 12, 3
    limit, window = int(rng.integers(3, 25)), int(rng.integers(18, 26))
    next_epoch = int(rng.integers(0, 8))
    # Blocks come several times in an epoch, as where samples are smaller than blocks.
    order = [[rng.integers(0, blocks, 3).tolist() for _ in range(steps)] for _ in range(epochs + 1)]
    expected = downloads(order, limit=limit, window=window, next_epoch=next_epoch)
    given = setup(
        limit_blocks=limit,
        window_blocks=window,
        memory_blocks=window,
        next_epoch_blocks=next_epoch,
        threads=64,
    )
    one = simulator(given, lambda _, epoch: reads(order[epoch]), blocks=blocks, epochs=epochs)
    done = one.run()
    # What is fetched ahead of the epoch after the last is not of these.
    total = sum(figures.fetched_bytes for figures in done) // BLOCK
    ahead = expected[-1] if next_epoch else 0
    assert sum(expected[:-1]) <= total <= sum(expected[:-1]) + ahead
    assert done[0].missed_bytes == len({b for step in order[0] for b in step}) * BLOCK


def test_what_a_rank_fetches_ahead_is_missed_by_the_running_epoch_if_another_rank_needs_it_there():
    few = [[number] for number in range(10)]
    many = [list(range(first, first + 4)) for first in range(10, 50, 4)]
    late_first = [many[-1], *many[:-1]]

    def of(rank: int, epoch: int) -> EpochReads:
        return reads(((few, many), (late_first, few))[epoch % 2][rank])

    given = setup(window_blocks=10, next_epoch_blocks=4)
    first, second = simulator(given, of, blocks=50, epochs=2, ranks=2).run()
    assert first.fetched_bytes == first.needed_bytes == 50 * BLOCK
    assert first.hit_rate == 0.0
    assert second.hit_rate == 1.0


def test_a_block_that_is_read_no_more_in_an_epoch_is_missed_by_the_next_one():
    order = [[[number] for number in range(10)]] * 3
    given = setup(limit_blocks=0, window_blocks=4, next_epoch_blocks=2)
    done = simulator(given, lambda _, epoch: reads(order[epoch]), blocks=10, epochs=2).run()
    assert [one.hit_rate for one in done] == [0.0, 0.0]


def test_the_window_and_what_is_fetched_of_the_next_epoch_are_limited():
    order = shuffled(60, 2)
    one = simulator(setup(window_blocks=10, next_epoch_blocks=3), order, blocks=60, epochs=1)
    seen = []
    window = one.windows[0]
    plain = window.pump
    window.pump = lambda now_s: (plain(now_s), seen.append(window.ahead_bytes))[0]  # type: ignore[method-assign]
    (done,) = one.run()
    assert max(seen) == 10 * BLOCK
    assert done.fetched_bytes == 60 * BLOCK
    assert window.ahead_bytes == 3 * BLOCK


def test_the_time_of_a_run_is_that_of_its_bandwidth_where_that_is_short():
    network = NetworkSettings(0.0, bandwidth_bytes_per_s=BLOCK * 10.0)
    done = simulator(
        setup(network=network, step_s=0.01), shuffled(50, 1), blocks=50, epochs=2
    ).run()
    assert done[0].elapsed_s == pytest.approx(5.01, rel=0.01)
    assert done[1].elapsed_s == pytest.approx(0.5)
    assert {wait.cause for wait in done[0].waits} == {"start", "bandwidth"}
    assert sum(wait.wait_s for wait in done[0].waits) == pytest.approx(done[0].wait_s)
    assert done[1].wait_s == pytest.approx(0.0)


def test_first_bytes_hold_up_small_requests():
    network = NetworkSettings(0.1)
    given = setup(network=network, step_s=0.001, threads=2, request_blocks=1)
    (done,) = simulator(given, shuffled(40, 1), blocks=40, epochs=1).run()
    assert done.elapsed_s == pytest.approx(40 / 2 * 0.1 + 0.001, rel=0.02)
    assert done.requests == 40
    assert {wait.cause for wait in done.waits} == {"start", "first byte"}


def test_a_connection_s_own_limit_is_named():
    network = NetworkSettings(0.0, None, BLOCK * 5.0)
    given = setup(network=network, step_s=0.001, threads=2, request_blocks=1)
    (done,) = simulator(given, shuffled(20, 1), blocks=20, epochs=1).run()
    assert done.elapsed_s == pytest.approx(20 / 10, rel=0.02)
    assert done.waits[5].cause == "connection"


def test_a_cache_that_is_too_small_is_named():
    network = NetworkSettings(0.0, bandwidth_bytes_per_s=BLOCK * 10.0)
    given = setup(network=network, step_s=0.01, limit_blocks=5, window_blocks=6, memory_blocks=6)
    done = simulator(given, shuffled(50, 1), blocks=50, epochs=2).run()
    assert done[1].elapsed_s == pytest.approx(4.5, rel=0.05)
    causes = {(wait.cause, wait.limit) for wait in done[1].waits[1:]}
    assert causes == {("cache", "bandwidth")}


@pytest.mark.parametrize("inline", [False, True])
def test_decoding_that_is_slower_than_the_step_is_named(inline: bool):
    order = shuffled(30, 1)

    def of(rank: int, epoch: int):
        of_epoch = order(rank, epoch)
        steps = [of_epoch.blocks[at : at + 1] for at in range(30)]
        return reads(steps, decoded=1000)

    given = setup(step_s=0.04, decode_bytes_per_s=10_000, inline=inline)
    (done,) = simulator(given, of, blocks=30, epochs=1).run()
    # Beside training, decoding alone counts; in the training thread both.
    expected = 30 * 0.14 if inline else 30 * 0.1 + 0.04
    assert done.elapsed_s == pytest.approx(expected, rel=0.01)
    assert {wait.cause for wait in done.waits} == {"start", "decode"}


def test_ranks_of_a_host_download_each_block_once_and_step_together():
    same = reads([[block] for block in range(20)])
    network = NetworkSettings(0.05, BLOCK * 100.0)
    done = simulator(
        setup(network=network, step_s=0.01), lambda *_: same, blocks=20, epochs=1, ranks=3
    ).run()
    assert done[0].fetched_bytes == 20 * BLOCK
    assert done[0].needed_bytes == 20 * BLOCK


def test_what_another_rank_did_not_keep_is_downloaded_again():
    same = reads([[block] for block in range(20)])
    given = setup(limit_blocks=0, network=NetworkSettings(0.05, BLOCK * 100.0), step_s=0.01)
    done = simulator(given, lambda *_: same, blocks=20, epochs=1, ranks=2).run()
    assert done[0].fetched_bytes == 40 * BLOCK
    assert done[0].hit_rate == 0.0


def test_a_batch_that_is_larger_than_the_window_is_read_nevertheless():
    given = setup(window_blocks=2, limit_blocks=3, memory_blocks=2)
    done = simulator(given, shuffled(24, 8), blocks=24, epochs=2).run()
    assert [one.steps for one in done] == [3, 3]
    assert done[0].fetched_bytes >= 24 * BLOCK


def test_neighbours_come_together_while_there_is_work_for_all_threads():
    steps = reads([[*range(64)]])
    network = NetworkSettings(1.0)
    given = setup(network=network, threads=2, request_blocks=8)
    (done,) = simulator(given, lambda *_: steps, blocks=64, epochs=1).run()
    # The last ones are shorter, so that both threads have work.
    assert 64 / 8 <= done.requests <= 64 / 8 + 4
