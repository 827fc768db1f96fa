"""A loader as Accelerate's `prepare` returns it: moving batches to the device, on the engine.

`prepare` takes a loader apart and puts torch's own together, unless the loader says that it is
prepared already. A loader of packed samples says so once there is an `Accelerator`, and from then
on is iterated through a `DataLoaderShard` around itself: Accelerate's own loop moves batches to the
device and tells the accelerator of the last one, and order, ranks and state stay the loader's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.data

__all__ = ["has_accelerator", "make_shard"]


def has_accelerator() -> bool:
    """Whether this process has made an `accelerate.Accelerator`."""
    module = sys.modules.get("accelerate.state")
    return module is not None and bool(module.AcceleratorState._shared_state)


def make_shard(
    loader: torch.utils.data.DataLoader[Any],
    begin: Callable[[], Iterator[Any]],
    state: Callable[[], dict[str, Any]],
    ranks: Callable[[], int],
) -> Any:
    """Return a shard around a loader.

    Args:
        loader: the loader.
        begin: function that begins a pass of the loader itself.
        state: function that returns the loader's own state.
        ranks: function that returns the number of ranks.
    """
    from accelerate.data_loader import DataLoaderShard
    from accelerate.state import AcceleratorState, GradientState

    class Base:
        def __iter__(self) -> Iterator[Any]:
            return begin()

        def __len__(self) -> int:
            return len(loader)

        def state_dict(self) -> dict[str, Any]:
            return state()

        def __getattr__(self, name: str) -> Any:
            return getattr(loader, name)

    class Shard(DataLoaderShard):  # type: ignore[misc]  # accelerate has no types
        def __init__(self) -> None:
            # Not its own: that one would make another loader.
            self.base_dataloader = Base()
            self.use_stateful_dataloader = True
            self.dl_state_dict = None
            self.device = AcceleratorState().device
            self.rng_types = None
            self.synchronized_generator = None
            self.skip_batches = 0
            self.gradient_state = GradientState()
            self._drop_last = loader.drop_last
            self._non_blocking = False
            self.iteration = 0

        @property
        def total_batch_size(self) -> int:
            return (loader.batch_size or 1) * ranks()

        def set_epoch(self, epoch: int) -> None:
            """Do nothing: the loader counts its epochs."""

    return Shard()
