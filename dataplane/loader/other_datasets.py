"""State of a loader whose dataset has no packed samples: torchdata's, where that is installed.

For such a dataset torch's own code makes the batches, and torchdata's `StatefulDataLoader` is that
code with a state: of samplers, of datasets that know their place, and of the workers. Where it is
installed it runs from the first pass on, since a pass that was begun without it has no state.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch.utils.data
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler

__all__ = ["stateful_loader"]


def stateful_loader(loader: torch.utils.data.DataLoader[Any]) -> Any:
    """Return a `StatefulDataLoader` with the arguments of a loader, or None without torchdata."""
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader
    except ImportError:
        return None
    given: dict[str, Any] = {
        "num_workers": loader.num_workers,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
        "generator": loader.generator,
        "prefetch_factor": loader.prefetch_factor if loader.num_workers else None,
        "persistent_workers": loader.persistent_workers,
        "in_order": loader.in_order,
    }
    batches = loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        given["batch_sampler"] = batches
    else:
        given |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        if type(batches) is BatchSampler:
            given |= {"batch_size": batches.batch_size, "drop_last": batches.drop_last}
        sampler = loader.sampler if batches is None else batches.sampler
        if _is_torch_s_shuffle(sampler, loader):
            given["shuffle"] = True  # it has one of its own, with a state
        elif not isinstance(loader.dataset, IterableDataset):
            given["sampler"] = sampler
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # the same words twice: this loader's were said
        warnings.simplefilter("ignore", DeprecationWarning)  # of what it calls of torch
        warnings.simplefilter("ignore", FutureWarning)
        return StatefulDataLoader(loader.dataset, **given)


def _is_torch_s_shuffle(sampler: Any, loader: torch.utils.data.DataLoader[Any]) -> bool:
    return (
        type(sampler) is RandomSampler
        and sampler.generator is loader.generator
        and not sampler.replacement
        and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    )
