"""webdataset's loader over tar shards of `.npy` members.

Cold, shards stream through curl from presigned URLs; warm, they are local files. Samples are drawn
from a buffer of some, and a part of a sample is cut from the whole, which is all that a tar allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.utils.data

from dataplane_bench.rivals.loaders import Batch, LoaderInput, Settings, cut_sample

__all__ = ["WebDatasetLoader", "member_name"]


class WebDatasetLoader:
    """`WebLoader` over a shuffled `WebDataset`, batched in its workers."""

    name = "webdataset"
    SETTINGS: ClassVar[dict[str, Settings]] = {"buffer of 16": {"buffer": 16}}

    def __init__(
        self, given: LoaderInput, workers: int, settings: Settings, scratch: object
    ) -> None:
        import webdataset

        del scratch  # it keeps nothing
        self._given = given
        self._rng = np.random.default_rng(given.seed)
        urls = list(given.shard_urls)
        if not given.cold:
            urls = [str(path) for path in sorted((given.local / "tar").iterdir())]
        dataset = (
            webdataset.WebDataset(urls, shardshuffle=len(urls), seed=given.seed, empty_check=False)
            .shuffle(settings["buffer"])
            .decode()
            .map(self._tensors)
            .batched(given.batch_size, collation_fn=torch.utils.data.default_collate)
        )
        self._loader: Any = webdataset.WebLoader(
            dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
        )

    @staticmethod
    def load() -> None:
        """Import webdataset."""
        import webdataset  # noqa: F401

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader = None

    def _tensors(self, sample: Mapping[str, Any]) -> Batch:
        arrays = {name: sample[f"{member_name(name)}.npy"] for name in self._given.shapes}
        return cut_sample(arrays, self._given.cut, self._rng)


def member_name(array: str) -> str:
    """Name of an array's tar member: WebDataset knows no folders inside a sample."""
    return array.replace("/", "_")
