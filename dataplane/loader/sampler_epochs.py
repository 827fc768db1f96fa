"""Epochs of the user's samplers, those that samplers are made of too.

A batch sampler draws from a sampler, and wrappers from what they wrap: each of them that has a
`set_epoch` is told the epoch, once.

Belongs to the training thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dataplane.errors import ConfigError
from dataplane.loader.state import LoaderState

__all__ = ["SamplerEpochs", "epoch_of_sampler"]


class SamplerEpochs:
    """Epochs of the samplers of a loader.

    Args:
        samplers: sampler and batch sampler, or None.
    """

    def __init__(self, *samplers: Any) -> None:
        self._samplers = samplers
        self._resumed = self.epoch

    @property
    def epoch(self) -> int | None:
        """Epoch that the samplers are in; None where they know of none."""
        for sampler in self._that_know():
            epoch = getattr(sampler, "epoch", None)
            if isinstance(epoch, int):
                return epoch
        return None

    def tell(self, epoch: int) -> None:
        """Tell all of them the epoch."""
        for sampler in self._that_know():
            sampler.set_epoch(epoch)

    def resume(self, state: LoaderState) -> None:
        """Tell them the epoch of a state that is loaded."""
        epoch = epoch_of_sampler(state)
        if epoch is not None:
            self.tell(epoch)
        self._resumed = self.epoch

    def fit(self, state: LoaderState) -> bool:
        """Say whether they are in the epoch of a state; not where another was set since.

        Raises:
            ConfigError: they are not, and nobody has set another.
        """
        epoch, now = epoch_of_sampler(state), self.epoch
        if epoch is None or epoch == now:
            return True
        if now == self._resumed:
            where = "knows of no epochs" if now is None else f"stays in epoch {now}"
            raise ConfigError(
                f"the state is of epoch {epoch} of its sampler, and this sampler {where}",
                hint="give the loader a sampler like the one that was saved, or begin another "
                "epoch with loader.set_epoch",
            )
        return False

    def _that_know(self) -> Iterator[Any]:
        found = [*self._samplers]
        seen: set[int] = set()
        for sampler in found:
            if sampler is None or id(sampler) in seen:
                continue
            seen.add(id(sampler))
            found += [getattr(sampler, name, None) for name in ("sampler", "batch_sampler")]
            if callable(getattr(sampler, "set_epoch", None)):
                yield sampler


def epoch_of_sampler(state: LoaderState) -> int | None:
    """Return the epoch that the user's sampler was in at a state; None where it knew of none."""
    return None if state.sampler is None else state.sampler.get("epoch")
