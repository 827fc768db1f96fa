"""Stages keep order, bounds and errors; nothing is left behind however they end."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import time

import pytest

from dataplane.errors import LoaderError
from dataplane.loader.channel import Cancelled, Channel, ChannelTimeout, EndOfStream
from dataplane.loader.pipeline import Pipeline, Stage
from tests.loader.inside import end_as_at_exit


def drain(pipeline: Pipeline) -> list[object]:
    items = []
    while True:
        try:
            number, item = pipeline.get(30)
        except EndOfStream:
            return items
        assert number == len(items)
        items.append(item)


def engine_threads() -> list[str]:
    """Threads of the stages below; fetch threads of a cache live as long as their process."""
    names = (f"dp-{name}-" for name in ("a", "b", "double", "text", "work", "pass", "fast", "slow"))
    stages = tuple(names)
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(stages)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_items_come_out_in_order_whatever_the_number_of_threads(threads: int, count: int) -> None:
    def jitter(number: int, item: int) -> int:
        time.sleep(random.Random(number).random() * 0.002)
        return item * 10

    stages = [
        Stage("double", jitter, threads=threads, capacity=3),
        Stage("text", lambda number, item: (number, str(item)), threads=threads),
    ]
    with Pipeline(iter(range(count)), stages) as pipeline:
        assert drain(pipeline) == [(i, str(i * 10)) for i in range(count)]
    assert engine_threads() == []


def test_a_source_is_never_run_further_ahead_than_the_channels_hold() -> None:
    taken = []

    def source():
        for i in itertools.count():
            taken.append(i)
            yield i

    stages = [Stage("a", lambda n, x: x, capacity=2), Stage("b", lambda n, x: x, capacity=3)]
    with Pipeline(source(), stages) as pipeline:
        assert pipeline.get(30) == (0, 0)
        previous = -1
        while len(taken) != previous:  # until nothing moves any more
            previous = len(taken)
            threading.Event().wait(0.05)
        # 1 consumed, 3 and 2 waiting, one in the hands of each stage.
        assert len(taken) <= 1 + 3 + 1 + 2 + 1


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("bad", [0, 1, 7])
def test_an_error_arrives_after_all_items_before_it(bad: int, threads: int) -> None:
    def work(number: int, item: int) -> int:
        if item == bad:
            raise KeyError(item)
        time.sleep(0.001)
        return item

    stages = [Stage("work", work, threads=threads), Stage("pass", lambda n, x: x, threads=threads)]
    with Pipeline(iter(range(1000)), stages) as pipeline:
        got = [pipeline.get(30)[1] for _ in range(bad)]
        with pytest.raises(KeyError):
            pipeline.get(30)
    assert got == list(range(bad))
    assert engine_threads() == []


def test_an_error_of_the_source_arrives_in_its_place() -> None:
    def source():
        yield 1
        raise OSError("broken sampler")

    with Pipeline(source(), [Stage("pass", lambda n, x: x, threads=3)]) as pipeline:
        assert pipeline.get(30) == (0, 1)
        with pytest.raises(OSError, match="broken sampler"):
            pipeline.get(30)


@pytest.mark.parametrize("threads", [1, 3])
def test_items_after_an_error_come_in_their_places(threads: int) -> None:
    def work(number: int, item: int) -> int:
        if item % 3 == 0:
            raise ValueError(item)
        return item

    stages = [Stage("work", work, threads=threads), Stage("pass", lambda n, x: x, threads=threads)]
    got: list[object] = []
    with Pipeline(iter(range(10)), stages) as pipeline:
        for _ in range(10):
            try:
                got.append(pipeline.get(30)[1])
            except ValueError as err:
                got.append(str(err))
        with pytest.raises(EndOfStream):
            pipeline.get(30)
    assert got == ["0", 1, 2, "3", 4, 5, "6", 7, 8, "9"]


@pytest.mark.parametrize("before", [[], [Stage("a", lambda n, x: x, threads=2, capacity=3)]])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_a_thread_gets_the_items_of_its_number(
    before: list[Stage], threads: int, count: int
) -> None:
    def work(thread: int, number: int, item: int) -> tuple[int, int]:
        time.sleep(random.Random(number).random() * 0.002)
        return thread, item

    stage = Stage("work", work, threads=threads, capacity=threads, to_thread="by number")
    with Pipeline(iter(range(count)), [*before, stage]) as pipeline:
        assert drain(pipeline) == [(number % threads, number) for number in range(count)]


def test_out_of_order_what_is_done_comes_though_an_item_before_it_is_not() -> None:
    event = threading.Event()

    def work(thread: int, number: int, item: int) -> int:
        if item == 0:
            event.wait()
        return item

    stage = Stage("work", work, threads=2, capacity=2, to_thread="any", in_order=False)
    with Pipeline(iter(range(30)), [stage]) as pipeline:
        assert sorted(pipeline.get(30)[1] for _ in range(29)) == list(range(1, 30))
        event.set()
        assert pipeline.get(30) == (0, 0)
        with pytest.raises(EndOfStream):
            pipeline.get(30)


def test_dropping_the_pipeline_stops_its_threads() -> None:
    pipeline = Pipeline(itertools.count(), [Stage("work", lambda n, x: x, threads=3)])
    pipeline.get(30)
    assert len(engine_threads()) == 3
    del pipeline
    gc.collect()
    until_s = time.monotonic() + 10  # the cleanup thread tells them to end
    while engine_threads() and time.monotonic() < until_s:
        time.sleep(0.001)
    assert engine_threads() == []


def test_closing_wakes_a_source_that_waits_outside_and_a_second_close_does_nothing() -> None:
    event = threading.Event()
    closed = []

    def source():
        event.wait()
        yield 1

    def on_close() -> None:
        closed.append(True)
        event.set()

    pipeline = Pipeline(source(), [Stage("work", lambda n, x: x)], on_close=on_close)
    pipeline.close()
    pipeline.close()
    end_as_at_exit(pipeline)
    assert closed == [True]
    assert engine_threads() == []
    with pytest.raises(LoaderError, match="closed"):
        pipeline.get(30)


def test_a_timeout_says_so_and_leaves_the_pipeline_usable() -> None:
    event = threading.Event()

    def work(number: int, item: int) -> int:
        event.wait()
        return item

    with Pipeline(iter([5]), [Stage("work", work)]) as pipeline:
        with pytest.raises(ChannelTimeout):
            pipeline.get(0.01)
        event.set()
        assert pipeline.get(30) == (0, 5)


def test_waits_are_counted_where_they_happen() -> None:
    def slow(number: int, item: int) -> int:
        time.sleep(0.01)
        return item

    stages = [
        Stage("fast", lambda n, x: x, capacity=1),
        Stage("slow", slow, capacity=1),
        Stage("after", lambda n, x: x, capacity=1),
    ]
    with Pipeline(iter(range(20)), stages) as pipeline:
        drain(pipeline)
        fast, slow_stats, after = pipeline.stats
    assert [stats.items for stats in pipeline.stats] == [20, 20, 20]
    assert slow_stats.busy_s > 0.15
    assert fast.put_wait_s > 0.05 > fast.busy_s
    assert after.get_wait_s > 0.1
    assert slow_stats.get_wait_s + slow_stats.put_wait_s < slow_stats.busy_s


def test_a_channel_refuses_what_is_past_its_end_and_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="capacity 0"):
        Channel(0)
    channel = Channel(4)
    channel.end_at(2)
    channel.end_at(5)  # a later, larger end does not undo the first
    channel.put(1, "b")
    with pytest.raises(Cancelled):
        channel.put(2, "c")
    channel.put(0, "a")
    assert [channel.get(), channel.get()] == [(0, "a"), (1, "b")]
    with pytest.raises(EndOfStream):
        channel.get()
