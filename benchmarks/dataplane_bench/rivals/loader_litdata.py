"""LitData's loader over chunks that hold arrays as flat, uncompressed tensors.

That is its fastest form: chunks are mapped, and a sample is a view of them until it is stacked.
Cold, chunks are downloaded to a folder of its own; warm, it reads local ones in place. A part of a
sample is cut from the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from dataplane_bench.rivals.loaders import Batch, LoaderInput, Settings, cut_sample

__all__ = ["LitDataLoader", "write_litdata"]

_CHUNK_BYTES = 64 << 20  # its default


class LitDataLoader:
    """`StreamingDataLoader` over a shuffled `StreamingDataset`."""

    name = "litdata"
    SETTINGS: ClassVar[dict[str, Settings]] = {
        "4 chunks ahead": {"max_pre_download": 4, "at_once": True},
        "16 chunks ahead": {"max_pre_download": 16, "at_once": True},
        "4 chunks ahead, one by one": {"max_pre_download": 4, "at_once": False},
    }

    def __init__(self, given: LoaderInput, workers: int, settings: Settings, scratch: Path) -> None:
        import litdata

        if given.cold:
            os.environ["LITDATA_ASYNC_CHUNK_PREFETCH"] = str(int(settings["at_once"]))
        self._given = given
        self._rng = np.random.default_rng(given.seed)
        dataset = litdata.StreamingDataset(
            given.url("litdata"),
            cache_dir=str(scratch) if given.cold else None,
            shuffle=True,
            drop_last=False,
            seed=given.seed,
            max_pre_download=settings["max_pre_download"],
            transform=self._sample,
        )
        self._loader: Any = litdata.StreamingDataLoader(
            dataset,
            batch_size=given.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            **({"multiprocessing_context": "fork"} if workers else {}),
        )

    @staticmethod
    def load() -> None:
        """Import LitData."""
        os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"
        from litdata.streaming import downloader

        # Chunks at once come through obstore, which has to be told that the endpoint of a
        # benchmark speaks no TLS; LitData has no setting that does.
        options = getattr(downloader, "_OBSTORE_CLIENT_OPTIONS", None)
        if isinstance(options, dict):
            options["allow_http"] = True

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader = None

    def _sample(self, flat: Mapping[str, torch.Tensor]) -> Batch:
        arrays = {name: flat[name].view(shape) for name, shape in self._given.shapes.items()}
        if self._given.cut is None:
            return arrays
        whole = {name: values.numpy() for name, values in arrays.items()}
        return cut_sample(whole, self._given.cut, self._rng)


def write_litdata(folder: Path, samples: Iterable[Mapping[str, npt.NDArray[np.float32]]]) -> None:
    """Write samples as LitData does.

    Raises:
        ModuleNotFoundError: LitData is not installed.
    """
    LitDataLoader.load()
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True)
    writer = BinaryWriter(str(folder), chunk_bytes=_CHUNK_BYTES)
    for number, sample in enumerate(samples):
        flat = {name: torch.tensor(values.reshape(-1)) for name, values in sample.items()}
        writer[number] = flat
    writer.done()
    writer.merge()
