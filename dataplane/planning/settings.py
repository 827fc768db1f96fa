"""Settings of a predicted run: arguments of dataset and loader, the machine, prices. Values."""

from __future__ import annotations

from dataclasses import dataclass, field

from dataplane.cache import CacheConfig
from dataplane.datasets.keyed import check_seed
from dataplane.errors import ConfigError
from dataplane.loader.dataloader import DEFAULT_PREFETCH_FACTOR
from dataplane.loader.order_arguments import Assign, Shuffle
from dataplane.planning.network import NetworkSettings

__all__ = ["DEFAULT_MOST_USES", "Prices", "RunSettings"]

DEFAULT_MOST_USES = 500_000
"""Most uses of blocks that are simulated: they take some ten seconds."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What a store charges; None where that is not asked.

    Attributes:
        per_gb: for 10⁹ bytes that leave it.
        per_1000_requests: for 1,000 GETs.
    """

    per_gb: float | None = None
    per_1000_requests: float | None = None

    def of(self, nbytes: float, requests: float) -> float | None:
        """Return what bytes and requests cost; None without any price."""
        if self.per_gb is None and self.per_1000_requests is None:
            return None
        return nbytes / 1e9 * (self.per_gb or 0.0) + requests / 1e3 * (
            self.per_1000_requests or 0.0
        )


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How the run will be made: arguments of the dataset and the loader, and the machine.

    Attributes:
        network: what store and network give to one host.
        step_s: time of a training step, of one batch on each rank.
        cache: configuration of the cache.
        epochs: number of epochs.
        ranks: number of processes that train.
        hosts: number of hosts that they are on, equally many on each.
        assign: as of `DataLoader`; the ranks of a host are a node.
        batch_size: samples of a batch and rank.
        shuffle: as of `DataLoader`.
        shuffle_window: likewise.
        seed: likewise.
        drop_last: likewise.
        workers: likewise, `num_workers`.
        prefetch_factor: likewise.
        samples_per_read: as of `Dataset`.
        decode_bytes_per_s: decoded bytes per second with that many workers; None measures it.
        prices: what the store charges.
        most_uses: most uses of blocks that are simulated; of larger runs samples are left out.

    Raises:
        ConfigError: a number is out of range.
    """

    network: NetworkSettings
    step_s: float
    cache: CacheConfig
    epochs: int = 1
    ranks: int = 1
    hosts: int = 1
    assign: Assign = "turns"
    batch_size: int = 1
    shuffle: Shuffle = True
    shuffle_window: int | None = None
    seed: int = 0
    drop_last: bool = False
    workers: int = 4
    prefetch_factor: int = DEFAULT_PREFETCH_FACTOR
    samples_per_read: int = 1
    decode_bytes_per_s: float | None = None
    prices: Prices = field(default_factory=Prices)
    most_uses: int = DEFAULT_MOST_USES

    def __post_init__(self) -> None:
        least = {"epochs": 1, "ranks": 1, "hosts": 1, "batch_size": 1, "workers": 0, "most_uses": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.ranks % self.hosts:
            raise ConfigError(
                f"{self.ranks} ranks cannot be on {self.hosts} hosts, equally many on each",
                hint="give a multiple of the hosts for the ranks",
            )
        check_seed(self.seed, 0)

    @property
    def host_ranks(self) -> int:
        """Number of ranks on a host."""
        return self.ranks // self.hosts
