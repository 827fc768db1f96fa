"""Whatever is put together, samples are those of torch's loader over the decoded arrays.

Pipelines are drawn at random: dataset, wrapper, sampler, workers, where code runs, how batches are
made. Each is compared with torch's own loader over a list of the same samples, already decoded.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DistributedSampler,
    RandomSampler,
    StackDataset,
    Subset,
    WeightedRandomSampler,
)

import dataplane as dp
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import pack

PIPELINES = int(os.environ.get("DATAPLANE_PIPELINES", "40"))
"""How many are tried; a few thousand take an hour."""

COUNT = 23


class Decoded(torch.utils.data.Dataset[Any]):
    """The samples of a packed dataset in memory, with a transform as ours."""

    def __init__(self, samples: list[dict[str, Any]], transform: Any = None) -> None:
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        sample = {
            name: value.clone() if isinstance(value, torch.Tensor) else value
            for name, value in self.samples[i].items()
        }
        return sample if self.transform is None else self.transform(sample)


class Mapped(torch.utils.data.Dataset[Any]):
    """A class of the user's around a dataset."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.kept: Any = None

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, i: int) -> Any:
        self.kept = self.inner[i]
        torch.rand(3).sum()
        return self.kept


class Paired:
    """A transform that keeps a sample between two lines of its own."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        self.image = sample["image"]
        for _ in range(5):
            torch.rand(10).sum()
        shift = int(sample["number"]) % 3
        return {
            "image": self.image.roll(shift, 0),
            "label": sample["label"].roll(shift, 0),
            "number": sample["number"],
            "__key__": sample["__key__"],
        }


def make_sample(number: int) -> SourceSample:
    image = np.random.default_rng(number).standard_normal((6, 5)).astype("f4")
    arrays = {"image": image, "label": image * 2, "number": np.array(number)}
    return SourceSample(
        key=f"s{number:03d}",
        arrays={name: SourceArray(values, None, None, {}) for name, values in arrays.items()},
        attributes={},
    )


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pipelines")
    one = pack(folder / "one", map(make_sample, range(COUNT)))
    return one.url, pack(folder / "two", map(make_sample, range(100, 109))).url


def first_of_pair(samples: list[Any]) -> Any:
    return torch.stack([sample["image"] for sample in samples])


def flat(batch: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
    """Every sample of what a loader yields: its key, image and label."""
    if isinstance(batch, torch.Tensor):
        yield from (("", image, None) for image in batch)
    elif isinstance(batch, list):
        yield from flat(batch[0])
    elif isinstance(batch["__key__"], str):
        yield batch["__key__"], batch["image"], batch["label"]
    else:
        yield from zip(batch["__key__"], batch["image"], batch["label"], strict=True)


class Pipeline:
    """One drawn pipeline, over our dataset or over decoded samples."""

    def __init__(self, number: int) -> None:
        draw = random.Random(number)
        self.transform = draw.choice([None, Paired])
        self.wrapper = draw.choice(["none", "subset", "concat", "stack", "mapped", "subset mapped"])
        self.sampler = draw.choice(
            ["sequential", "shuffle", "random", "replacing", "weighted", "distributed", "batches"]
        )
        self.size = draw.choice([1, 2, 3, 5, None]) if self.wrapper != "stack" else 3
        if self.sampler == "batches":
            self.size = 3
        self.drop_last = draw.random() < 0.3 and self.size is not None
        self.workers = draw.choice([0, 1, 2, 4])
        self.mode = draw.choice(["thread", "thread", "thread", "process"])
        if self.mode == "process":
            self.workers = min(self.workers, 1)
        self.collates = draw.random() < 0.3 and self.size is not None and self.wrapper != "stack"
        self.seed = draw.randrange(2**40)

    def __repr__(self) -> str:
        return f"Pipeline({vars(self)})"

    def dataset(self, make: Callable[[int, Any], Any]) -> Any:
        one = make(0, None if self.transform is None else self.transform())
        if self.wrapper == "none":
            return one
        if self.wrapper == "subset":
            return Subset(Subset(one, list(range(COUNT - 1, 2, -1))), [0, 5, 3, 7, 7, 12, 1, 2])
        if self.wrapper == "concat":
            return ConcatDataset([one, make(1, self.transform and self.transform())])
        if self.wrapper == "stack":
            return StackDataset(one, list(range(COUNT)))
        mapped = Mapped(one)
        return mapped if self.wrapper == "mapped" else Subset(mapped, list(range(1, COUNT, 2)))

    def loader(self, kind: Any, dataset: Any, **given: Any) -> Any:
        size: dict[str, Any] = {"batch_size": self.size, "drop_last": self.drop_last}
        generator = torch.Generator().manual_seed(self.seed)
        count = len(dataset)
        if self.sampler == "random":
            size["sampler"] = RandomSampler(dataset, generator=generator)
        elif self.sampler == "replacing":
            size["sampler"] = RandomSampler(dataset, True, 2 * count, generator=generator)
        elif self.sampler == "weighted":
            weights = [1 + i % 4 for i in range(count)]
            size["sampler"] = WeightedRandomSampler(weights, count, generator=generator)
        elif self.sampler == "distributed":
            size["sampler"] = DistributedSampler(dataset, 2, 1, seed=self.seed % 1000)
        elif self.sampler == "batches":
            sampler = RandomSampler(dataset, generator=generator)
            size = {"batch_sampler": BatchSampler(sampler, 3, self.drop_last)}
        elif self.sampler == "shuffle":
            size["shuffle"] = True
        if self.collates:
            size["collate_fn"] = first_of_pair
        return kind(dataset, **size, **given)


@pytest.mark.parametrize("number", range(PIPELINES))
def test_samples_are_those_of_torch_s_loader(urls: tuple[str, str], number: int) -> None:
    pipeline = Pipeline(number)
    packed = [dp.Dataset(url, cache=False) for url in urls]

    def ours(which: int, transform: Any) -> Any:
        return dp.Dataset(urls[which], cache=False, transform=transform)

    def theirs(which: int, transform: Any) -> Any:
        return Decoded([packed[which][i] for i in range(len(packed[which]))], transform)

    def read(seed: int) -> list[list[Any]]:
        given = {"num_workers": pipeline.workers, "transform_mode": pipeline.mode, "seed": seed}
        loader = pipeline.loader(dp.DataLoader, pipeline.dataset(ours), **given)
        assert len(loader) == len(reference)
        epochs = []
        for _ in range(2):
            batches = list(loader)
            assert len(batches) == len(reference)
            epochs.append([sample for batch in batches for sample in flat(batch)])
        return epochs

    reference = pipeline.loader(torch.utils.data.DataLoader, pipeline.dataset(theirs))
    expected = [[sample for batch in reference for sample in flat(batch)] for _ in range(2)]
    got = read(pipeline.seed)
    for mine, samples in zip(got, expected, strict=True):
        for _, image, label in mine:
            assert label is None or torch.equal(label, image * 2), f"a pair has parted: {pipeline}"
        assert len(mine) == len(samples), pipeline
        texts = [list(map(_text, them)) for them in (mine, samples)]
        if pipeline.sampler == "shuffle" and not pipeline.drop_last:
            texts = [sorted(them) for them in texts]  # the order is our own
        if pipeline.sampler != "shuffle" or not pipeline.drop_last:
            assert texts[0] == texts[1], pipeline
    assert [list(map(_text, epoch)) for epoch in read(pipeline.seed)] == [
        list(map(_text, epoch)) for epoch in got
    ], pipeline
    if pipeline.sampler == "shuffle" and len(got[0]) > 10:
        other = read(pipeline.seed + 1)
        assert list(map(_text, other[0])) != list(map(_text, got[0])), pipeline
        assert list(map(_text, got[1])) != list(map(_text, got[0])), pipeline


def _text(sample: tuple[str, torch.Tensor, Any]) -> str:
    return f"{sample[0]} {sample[1].flatten().tolist()}"


def test_all_kinds_are_among_those_that_are_tried() -> None:
    pipelines = [Pipeline(number) for number in range(PIPELINES)]
    for name, kinds in (("wrapper", 6), ("sampler", 7), ("workers", 4), ("mode", 2), ("size", 5)):
        assert len({getattr(one, name) for one in pipelines}) == kinds, name
