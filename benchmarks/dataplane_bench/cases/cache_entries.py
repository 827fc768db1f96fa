"""Costs of a cache with many entries: attach, open, evict, list, and their growth.

One directory is filled with entries of one small block each, and measured at every size on the way.
Operations that look at all entries are measured without the catalog, as before there was one and
after it was thrown away, and with it. Times are those of the calls themselves, in a process that
has everything imported; directory entries and inodes are in memory.

Fresh files get times of an hour ago: the catalog looks again into files written just now.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from dataplane.cache.disk.entry_identity import EntrySpec
from dataplane.cache.disk.session import Session
from dataplane.cache.eviction.budget import Budget
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cli.cache import cache as cache_command
from dataplane.telemetry import Counters
from dataplane_bench.model import Figure, figure

__all__ = ["entry_costs"]

_BLOCK_BYTES = 4096
_QUANTITY = "time of an operation"
_AGE_S = 3600
_OPENED = 200  # entries opened one after the other, per round
_EVICTED = 20  # blocks, likewise
_MOST_LOOKS = 2  # rounds of operations that open every entry: seconds each
_Times = dict[str, list[float]]


def entry_costs(
    folder: Path,
    *,
    counts: Sequence[int],
    rounds: int,
    seed: int,
    progress: Callable[[str], None],
) -> list[Figure]:
    """Measure a directory at each number of entries.

    Args:
        folder: folder to make it in.
        counts: numbers of entries.
        rounds: measurements of each operation; of one that opens every entry at most two.
        seed: seed of the choice of entries to open, among those that nothing was evicted from yet.
        progress: function that is called with messages of progress.
    """
    table = ("cache", "entries of one block of 4 KiB", _QUANTITY, "entries")
    figures: list[Figure] = []
    directory = Path(tempfile.mkdtemp(dir=folder, prefix="entries-"))
    try:
        made = 0
        for count in sorted(set(counts)):
            progress(f"making {count:,} entries")
            fresh = range(made, count)
            _make(directory, fresh)
            made = count
            times: _Times = {}
            progress(f"attaching to {count:,} entries")
            _attach(directory, times, rounds)
            progress(f"opening some of {count:,} entries")
            _open(directory, times, rounds, random.Random(seed), fresh)
            progress(f"listing {count:,} entries")
            _list(directory, times, min(rounds, _MOST_LOOKS))
            progress(f"evicting from {count:,} entries")
            _evict(directory, times, min(rounds, _MOST_LOOKS))
            figures += [figure(table, name, count, "s", values) for name, values in times.items()]
    finally:
        shutil.rmtree(directory)
    return figures


def _spec(number: int) -> EntrySpec:
    return EntrySpec("s3://bench", f"runs/{number:08d}.bin", "v1", _BLOCK_BYTES, _BLOCK_BYTES)


def _make(directory: Path, numbers: range) -> None:
    """Make entries as a fill does, but without a store."""
    content = os.urandom(_BLOCK_BYTES)
    past = time.time() - _AGE_S
    with closing(Session(directory)) as session:
        for number in numbers:
            spec = _spec(number)
            entry, grown, _ = session.files.open(spec, session.verify_tag)
            entry.commit(0, content)
            session.usage.add_used(grown + _BLOCK_BYTES)
            del entry
            name = spec.digest().hex()
            for file in (f"{name}.map", f"{name}.data"):
                os.utime(directory / "entries" / name[:2] / file, (past, past))


@contextlib.contextmanager
def _timed(times: _Times, name: str, *, each: int = 1) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times.setdefault(name, []).append((time.perf_counter() - began) / each)


def _attach(directory: Path, times: _Times, rounds: int) -> None:
    for _ in range(rounds):
        with _timed(times, "attach, left in order"):
            session = Session(directory)
        session.close()
    for _ in range(min(rounds, _MOST_LOOKS)):
        session.usage.dirty = True  # as a killed process leaves it
        with _timed(times, "attach after an unclean stop"):
            session = Session(directory)
        with _timed(times, "count them all, as is done after it"):
            assert session.reconcile()
        session.close()


def _open(directory: Path, times: _Times, rounds: int, dice: random.Random, numbers: range) -> None:
    memory = bytearray(_BLOCK_BYTES)
    with closing(Session(directory)) as session:
        for _ in range(rounds):
            specs = [_spec(dice.choice(numbers)) for _ in range(_OPENED)]
            with _timed(times, "open an entry and read it", each=_OPENED):
                for spec in specs:
                    entry, _, _ = session.files.open(spec, session.verify_tag)
                    assert entry.read(0, _BLOCK_BYTES, memory) is None


def _list(directory: Path, times: _Times, rounds: int) -> None:
    with closing(Session(directory)) as session:
        for _ in range(rounds):
            Catalog(session.directory).remove()
            with _timed(times, "`cache info`, no catalog"):
                _command("info", directory)
            with _timed(times, "`cache info`"):
                _command("info", directory)
            with _timed(times, "`cache ls --limit 100`"):
                _command("ls", directory, "--limit", "100")


def _command(name: str, directory: Path, *arguments: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        cache_command.main([name, "--cache-dir", str(directory), *arguments], standalone_mode=False)


def _evict(directory: Path, times: _Times, rounds: int) -> None:
    with closing(Session(directory)) as session:
        catalogs = {"no catalog": None, "by the catalog": Catalog(session.directory)}
        for _ in range(rounds):
            for name, catalog in catalogs.items():
                budget = Budget(session, None, Counters(), catalog=catalog)
                with _timed(times, f"first eviction of a process, {name}"):
                    assert budget.free(_BLOCK_BYTES)
                with _timed(times, "each further eviction", each=_EVICTED):
                    for _ in range(_EVICTED):
                        assert budget.free(_BLOCK_BYTES)
