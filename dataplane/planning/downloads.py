"""Downloads of the processes of a host in simulated time: who asks for what, in which requests.

The policy is that of `cache.fetch`: a block that is missing is downloaded once per host; a process
has as many requests under way as it has download threads, and a host as many as it may have; what a
reader waits for goes before what is planned; blocks that follow each other and wait together come
in one request, unless there is work left for the other threads.

Between asking for blocks and the beginning of their requests a thread has to wake up; here, all
that is asked for at one moment is asked for before the first request begins. In a real run some
begin before that, so that it has a few requests more.

A block that another process is downloading is put off until that is over, and downloaded after all
where it was not kept. Not thread-safe; belongs to one simulation.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from dataplane.planning.blocks import BlockTable
from dataplane.planning.host_disk import HostDisk
from dataplane.planning.network import Network, Transfer

__all__ = ["DownloadPolicy", "Downloads", "HostDownloads", "Tally"]


@dataclass(frozen=True, slots=True)
class DownloadPolicy:
    """How a process downloads.

    Attributes:
        threads: requests of a process at once.
        host_requests: requests of a host at once; 0 for no limit.
        request_blocks: most blocks of a request.
        shared_blocks: blocks that are not worth sharing between threads.
    """

    threads: int
    host_requests: int
    request_blocks: int
    shared_blocks: int


@dataclass(slots=True)
class Tally:
    """What a host has downloaded so far.

    Attributes:
        requests: requests sent.
        blocks: blocks that came.
        nbytes: bytes of those.
        again_bytes: bytes of blocks that had been downloaded before.
        missed_bytes: by epoch, bytes of the blocks that had to be downloaded for it, each once.
    """

    requests: int = 0
    blocks: int = 0
    nbytes: int = 0
    again_bytes: int = 0
    missed_bytes: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def copy(self) -> Tally:
        """Return the figures of now."""
        return Tally(self.requests, self.blocks, self.nbytes, self.again_bytes, self.missed_bytes)


class _State(Enum):
    WAITING = 0
    RUNNING = 1
    PUT_OFF = 2


@dataclass(slots=True)
class _Job:
    epoch: int
    is_demanded: bool = False
    state: _State = _State.WAITING


class Reader(Protocol):
    """The process that a block is downloaded for."""

    def is_planned(self, block: int) -> bool:
        """Whether its plan is about to read the block."""
        ...

    def needs(self, block: int, epoch: int) -> bool:
        """Whether an epoch is the running one, and the block has still to be read in it."""
        ...

    def take(self, block: int, now_s: float) -> None:
        """Have the block: in memory, or from the disk."""
        ...


class HostDownloads:
    """What the processes of a host share: disk, network, and the blocks under way."""

    def __init__(self, table: BlockTable, disk: HostDisk, network: Network) -> None:
        self.table = table
        self.disk = disk
        self.network = network
        self.tally = Tally()
        self.ranks: list[Downloads] = []
        self.under_way: set[int] = set()
        self._waiting: dict[int, list[int]] = {}
        self._seen: set[int] = set()
        self._missed: set[tuple[int, int]] = set()  # blocks, and epochs that they were missed by

    def note_miss(self, block: int, epoch: int) -> None:
        """Count a block that must be downloaded for an epoch, once for each.

        One that is fetched ahead for the next epoch is missed by the running one, if another rank
        has still to read it there.
        """
        before = (block, epoch - 1)
        if before not in self._missed and any(one.reader.needs(*before) for one in self.ranks):
            epoch -= 1
        if (block, epoch) not in self._missed:
            self._missed.add((block, epoch))
            self.tally.missed_bytes[epoch] += self.table.lengths[block]

    def put_off(self, block: int, rank: int) -> None:
        """Have a rank wait for a block that another downloads."""
        self._waiting.setdefault(block, []).append(rank)

    def on_block(self, transfer: Transfer, now_s: float) -> None:
        """Hand on a block that has come, and begin what can begin now."""
        place = transfer.done - 1
        block, length, kept = (
            transfer.blocks[place],
            transfer.lengths[place],
            transfer.kept[place],
        )
        self.under_way.discard(block)
        tally = self.tally
        tally.blocks += 1
        tally.nbytes += length
        if block in self._seen:
            tally.again_bytes += length
        self._seen.add(block)
        if kept:
            self.disk.commit(block, now_s)
        owner = self.ranks[transfer.rank]
        if transfer.done == len(transfer.blocks):
            owner.running -= 1
        owner.finish(block, now_s)
        for rank in self._waiting.pop(block, ()):
            self.ranks[rank].retry(block, now_s)
        for downloads in self.ranks:
            downloads.dispatch(now_s)


class Downloads:
    """The downloads of one process.

    Args:
        rank: its rank on the host.
        policy: how it downloads.
        host: what the processes share.
        reader: the process.
        on_done: function called when a block that was asked for is there.
    """

    def __init__(
        self,
        rank: int,
        policy: DownloadPolicy,
        host: HostDownloads,
        reader: Reader,
        on_done: Callable[[int, float], None],
    ) -> None:
        self._rank = rank
        self._policy = policy
        self._host = host
        self.reader = reader
        self._on_done = on_done
        self._jobs: dict[int, _Job] = {}
        self._urgent: deque[int] = deque()
        self._planned: deque[int] = deque()
        self._waiting = 0
        self.running = 0
        host.ranks.append(self)

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, block: int, epoch: int, *, is_demanded: bool) -> None:
        """Ask for a block, for a plan or for a reader that waits; `dispatch` then begins it."""
        job = self._jobs.get(block)
        if job is not None:
            if is_demanded and not job.is_demanded:
                job.is_demanded = True
                if job.state is _State.WAITING:
                    self._urgent.append(block)
            return
        self._jobs[block] = _Job(epoch, is_demanded)
        (self._urgent if is_demanded else self._planned).append(block)
        self._waiting += 1

    def dispatch(self, now_s: float) -> None:
        """Begin as many requests as may be under way."""
        policy, network = self._policy, self._host.network
        while self.running < policy.threads and (
            not policy.host_requests or network.active < policy.host_requests
        ):
            block = self._front()
            if block is None:
                return
            self.running += 1
            transfer = self._take(block, now_s)
            if transfer is None:
                self.running -= 1
            else:
                self._host.tally.requests += 1
                network.begin(transfer, now_s)

    def finish(self, block: int, now_s: float) -> None:
        """Hand a block to its reader."""
        job = self._jobs.pop(block, None)
        if job is not None and job.state is _State.WAITING:
            self._waiting -= 1
        self.reader.take(block, now_s)
        self._on_done(block, now_s)

    def retry(self, block: int, now_s: float) -> None:
        """Go on with a block that another process has downloaded."""
        job = self._jobs.get(block)
        if job is None or job.state is not _State.PUT_OFF:
            return
        if block in self._host.disk:
            self.finish(block, now_s)
            return
        job.state = _State.WAITING
        self._waiting += 1
        (self._urgent if job.is_demanded else self._planned).appendleft(block)

    def _front(self) -> int | None:
        """Return the block whose turn is next; it stays where it is."""
        for waiting in (self._urgent, self._planned):
            while waiting:
                job = self._jobs.get(waiting[0])
                if job is not None and job.state is _State.WAITING:
                    if job.is_demanded or self.reader.is_planned(waiting[0]):
                        return waiting[0]
                    self._waiting -= 1  # nobody wants it any more
                    del self._jobs[waiting[0]]
                waiting.popleft()
        return None

    def _take(self, block: int, now_s: float) -> Transfer | None:
        """Make a request of a block and those behind it; None where there is nothing to request."""
        host, lengths = self._host, self._host.table.lengths
        transfer = Transfer(self._rank, [], [], [])
        following: int | None = block
        while following is not None:
            if following in host.disk:
                self.finish(following, now_s)
                break
            job = self._jobs[following]
            self._waiting -= 1
            if following in host.under_way:
                job.state = _State.PUT_OFF
                host.put_off(following, self._rank)
                break
            job.state = _State.RUNNING
            host.under_way.add(following)
            host.note_miss(following, job.epoch)
            transfer.blocks.append(following)
            transfer.lengths.append(lengths[following])
            transfer.kept.append(host.disk.reserve(following, now_s, self._rank))
            following = self._next(transfer)
        return transfer if transfer.blocks else None

    def _next(self, transfer: Transfer) -> int | None:
        """Return the block behind those of a request, if its turn is next and it may join them."""
        policy, taken = self._policy, len(transfer.blocks)
        share = max(-(-(taken + self._waiting) // policy.threads), policy.shared_blocks)
        if taken >= min(share, policy.request_blocks):
            return None
        following = self._front()
        return following if following == transfer.blocks[-1] + 1 else None
