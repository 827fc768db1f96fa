"""Data for the training examples: datasets, generated or given, their statistics and parts.

A generated dataset is packed into a folder once and read from there by later runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from launch import Place
from torch.utils.data import Subset

import dataplane as dp
from dataplane.datasets.layout import Arrangement
from dataplane.shards import INDEX_KEY, DatasetWriter, SourceSample
from dataplane.shards.summary import summarise
from dataplane.stores import open_store

__all__ = ["Scale", "open_dataset", "scale_of", "split"]


def open_dataset(
    arrays: Sequence[str],
    arguments: argparse.Namespace,
    place: Place,
    generate: tuple[str, Callable[[int], SourceSample]],
) -> dp.Dataset:
    """Open the dataset of `--data`, or one that is generated.

    Args:
        arrays: names of the arrays to read; of others no byte is fetched.
        arguments: those of `launch.make_parser`.
        place: this process.
        generate: name of the dataset to generate, and function that makes a sample by its number.

    Raises:
        ConfigError: there are no such arrays, or no tensors can be made of them.
    """
    if arguments.data is not None:
        dataset = dp.Dataset(arguments.data, arrays=arrays, cache=arguments.cache_dir)
    else:
        name, make = generate
        folder = arguments.folder / name
        _pack(folder, arguments.samples, make, place)
        dataset = dp.Dataset(folder, arrays=arrays, cache=False)  # it is on the local disk already
    for layout in dataset.layouts:
        if layout.arrangement is Arrangement.LISTED:
            raise dp.ConfigError(
                f"{dataset.url}: {layout.name!r} has extents or an element type that vary from "
                "sample to sample, and cannot be one tensor of a batch",
                hint="choose other arrays, or pack these alike",
            )
    return dataset


def _pack(folder: Path, count: int, make: Callable[[int], SourceSample], place: Place) -> None:
    """Pack samples `make(0)` to `make(count - 1)` into a folder, unless they are there already.

    One process does it for all, so processes on several hosts need a folder that they share. The
    index is written last: a run that is killed here leaves no dataset, and the next begins anew.
    """
    if (folder / INDEX_KEY).exists():
        place.say(f"data: {folder}, generated before")
    elif place.is_first:
        place.say(f"data: generating {count} samples into {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        with DatasetWriter(open_store(str(folder))) as writer:
            for number in range(count):
                writer.add(make(number))
    place.wait_for_all()


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of an array over a whole dataset, in the array's units."""

    mean: float
    std: float

    def standardise(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of mean 0 and deviation 1 over the dataset, in float32."""
        return (values.float() - self.mean) / self.std


def scale_of(dataset: dp.Dataset, name: str) -> Scale:
    """Return mean and deviation of an array's elements, which `dataplane pack` has stored.

    Raises:
        ConfigError: the dataset has none, or the array is the same everywhere.
    """
    [array] = [one for one in summarise(dataset.index) if one.name == name]
    if array.mean is None or array.std is None or not array.std > 0:
        raise dp.ConfigError(
            f"{dataset.url}: mean and standard deviation of {name!r} are {array.mean} and "
            f"{array.std}, and values are to be scaled by them",
            hint=f"look at it with: dataplane info {dataset.url}",
        )
    return Scale(array.mean, array.std)


def split(dataset: dp.Dataset, holdout: float) -> tuple[Subset[Any], Subset[Any]]:
    """Part the samples in two: to train with, and to validate with; always the same ones.

    Raises:
        ConfigError: a part would be empty.
    """
    order = dp.permutation(len(dataset), seed=0, epoch=0)
    kept = round(len(dataset) * holdout)
    if not 0 < kept < len(dataset):
        raise dp.ConfigError(
            f"{dataset.url}: --holdout {holdout:g} of {len(dataset)} samples are {kept}, and both "
            "parts need at least one",
            hint="give a share between 0 and 1, or pack more samples",
        )
    training, validation = (np.sort(part).tolist() for part in (order[kept:], order[:kept]))
    return Subset(dataset, training), Subset(dataset, validation)
