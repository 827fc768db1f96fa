"""Jobs that a worker took together, and what becomes of those that it does not begin."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dataplane.cache import Cache
from dataplane.errors import CacheError, StoreError
from tests.cache.fakes import BLOCK, stopping_store, streaming_store, wait_until
from tests.cache.inside import (
    entry_of,
    is_idle,
    queued_count,
    scheduler_of,
    session_of,
)


def submitted(cache, blob, blocks) -> list:
    entry = entry_of(cache, blob)
    return scheduler_of(cache).submit(entry, blob.store, blob.info, blocks)


def test_one_that_others_have_leaves_those_behind_it_to_other_threads(one_thread, store):
    """They do not wait for the download of what is before it."""
    content = os.urandom(8 * BLOCK)
    streaming, at, gate = stopping_store(store, 0)
    with Cache(replace(one_thread, fetch_threads=4)) as cache:
        blob = cache.open(streaming, store.put("a", content))
        entry_of(cache, blob)
        session = session_of(cache)
        other = session.files.inspect(blob.name, session.verify_tag)
        assert other.try_claim(3)
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(blob.read, 0, 8 * BLOCK)
            assert at.wait(10)
            # The gate is shut for all: the second request has begun, too.
            wait_until(lambda: len(store.requests()) == 2)
            gate.set()
            other.commit(3, content[3 * BLOCK : 4 * BLOCK])
            other.release(3)
            assert bytes(read.result(10)) == content
        assert sorted(store.requests()) == [(0, 3 * BLOCK), (4 * BLOCK, 8 * BLOCK)]
        assert is_idle(cache)


def test_those_that_are_there_already_are_passed_over(one_thread, store):
    content = os.urandom(8 * BLOCK)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        entry_of(cache, blob)
        session = session_of(cache)
        other = session.files.inspect(blob.name, session.verify_tag)
        jobs = submitted(cache, blob, range(8))
        assert len(jobs) == 8
        for block in (0, 1, 4):
            assert other.try_claim(block)
            other.commit(block, content[block * BLOCK : (block + 1) * BLOCK])
            other.release(block)
        blob.read(7 * BLOCK, 8 * BLOCK)  # starts threads
        wait_until(lambda: is_idle(cache))
        assert all(job.future.done() for job in jobs)
        assert blob.is_complete()
        assert sorted(store.requests()) == [(2 * BLOCK, 4 * BLOCK), (5 * BLOCK, 8 * BLOCK)]


@pytest.mark.parametrize("ends", ["an error", "close"])
def test_none_is_forgotten(one_thread, store, ends):
    content = os.urandom(8 * BLOCK)
    with Cache(one_thread) as cache:
        blob = cache.open(streaming_store(store), store.put("a", content))
        scheduler = scheduler_of(cache)
        jobs = submitted(cache, blob, range(8))
        (request,) = itertools.islice(scheduler.requests(), 1)
        assert request.waiting() == jobs
        request.begin(2)
        assert request.waiting() == jobs[2:]
        assert queued_count(cache) == 0
        if ends == "close":
            scheduler.close()
            assert request.waiting() == []
            request.end()
            errors = [job.future.exception(1) for job in jobs]
            assert all(isinstance(error, CacheError) for error in errors)
        else:
            request.end(StoreError("gone"))
            assert [type(job.future.exception(1)) for job in jobs[:2]] == [StoreError] * 2
            assert queued_count(cache) == 6
            assert bytes(blob.read(0, 8 * BLOCK)) == content
            assert all(job.future.done() for job in jobs)
        assert is_idle(cache)
