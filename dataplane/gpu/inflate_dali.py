"""LZ4 streams through DALI's `decoders.inflate`: the other way beside nvCOMP's own interface.

The operator takes a batch of byte tensors, each with the places of chunks that all inflate to one
shape. Here every sample of that batch is the whole staged buffer, and its chunks are the streams of
one decoded size; a batch of ours has few sizes, and all of it is one run of the pipeline. What
comes out belongs to DALI, so it is copied once, on the device, to where placement expects it.

DALI does not say whether a stream was sound, only (with `check_output_size`, at the cost of a
synchronisation) whether its output has room; that is asked for, since output without room would be
written over other memory. zstd goes through nvCOMP.

Needs DALI and a GPU; `groups_of_sizes` needs neither. An inflater belongs to one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dataplane.codecs import Codec
from dataplane.extras import missing_package
from dataplane.gpu.inflate import DECODED_ALIGN, Inflation, laid_out
from dataplane.gpu.nvcomp import NvcompInflater
from dataplane.gpu.ring import Slot

__all__ = ["DaliInflater", "groups_of_sizes"]

MAX_SIZES: Final = 64
"""Samples of one run of the pipeline: decoded sizes that are inflated together."""


def groups_of_sizes(
    streams: npt.NDArray[Any],
) -> tuple[list[npt.NDArray[np.intp]], npt.NDArray[np.int64], int]:
    """Group streams by what they inflate to, each group without gaps.

    Returns:
        The streams of each group, in order; int64[n], where each stream begins in memory that
        holds group after group; the size of that memory.
    """
    sizes = streams["decoded_bytes"].astype(np.int64)
    distinct, of = np.unique(sizes, return_inverse=True)
    groups = [np.flatnonzero(of == number) for number in range(len(distinct))]
    lengths = distinct * np.array([len(group) for group in groups], np.int64)
    begins, total = laid_out(lengths, align=DECODED_ALIGN)
    starts = np.zeros(len(streams), np.int64)
    for begin, size, group in zip(begins, distinct, groups, strict=True):
        starts[group] = begin + size * np.arange(len(group))
    return groups, starts, total


class DaliInflater:
    """Inflates LZ4 with DALI, and zstd with nvCOMP.

    Args:
        index: number of the GPU.
        pipeline: pipeline to run; by default one is built.
    """

    def __init__(self, index: int, pipeline: Any = None) -> None:
        if pipeline is None:
            pipeline = described(index)
            pipeline.build()
        self._pipeline = pipeline
        self._nvcomp: NvcompInflater | None = None

    def inflate(
        self,
        staged: torch.Tensor,
        streams: npt.NDArray[Any],
        slot: Slot,
        describe: Callable[[int], str],
    ) -> Inflation:
        """As `Inflater.inflate`; nothing is found out about damaged LZ4 streams."""
        if (streams["codec"] != Codec.LZ4).any():
            if self._nvcomp is None:
                self._nvcomp = NvcompInflater()
            return self._nvcomp.inflate(staged, streams, slot, describe)
        groups, starts, total = groups_of_sizes(streams)
        memory = torch.empty(total, dtype=torch.uint8, device=staged.device)
        for first in range(0, len(groups), MAX_SIZES):
            self._run(staged, streams, groups[first : first + MAX_SIZES], starts, memory)
        return Inflation(memory, starts, lambda: None)

    def _run(
        self,
        staged: torch.Tensor,
        streams: npt.NDArray[Any],
        groups: list[npt.NDArray[np.intp]],
        starts: npt.NDArray[np.int64],
        memory: torch.Tensor,
    ) -> None:
        queue = torch.cuda.current_stream(staged.device)
        pipeline = self._pipeline
        pipeline.feed_input("staged", [staged] * len(groups), cuda_stream=queue.cuda_stream)
        for name in ("offset", "nbytes"):
            values = [streams[name][group].astype(np.int32) for group in groups]
            pipeline.feed_input(name, values)
        sizes = [np.array([streams["decoded_bytes"][group[0]]], np.int32) for group in groups]
        pipeline.feed_input("shape", sizes)
        (outputs,) = pipeline.run(queue.cuda_stream)
        for number, group in enumerate(groups):
            begin = int(starts[group[0]])
            found = torch.utils.dlpack.from_dlpack(outputs[number]).reshape(-1)
            memory[begin : begin + found.numel()].copy_(found, non_blocking=True)


def described(index: int) -> Any:
    """Return DALI's pipeline, which is still to be built on a GPU.

    Raises:
        MissingPackage: DALI is not installed.
    """
    try:
        from nvidia.dali import Pipeline, fn
    except ImportError as err:
        raise missing_package("decoding LZ4 by DALI", "nvidia-dali", extra="dali-cuda13") from err
    pipeline = Pipeline(
        batch_size=MAX_SIZES,
        num_threads=1,
        device_id=index,
        prefetch_queue_depth=1,
        exec_dynamic=True,
    )
    with pipeline:
        staged = fn.external_source(name="staged", device="gpu", no_copy=True)
        offsets = fn.external_source(name="offset")
        sizes = fn.external_source(name="nbytes")
        shape = fn.external_source(name="shape")
        pipeline.set_outputs(
            fn.decoders.inflate(
                staged,
                chunk_offsets=offsets,
                chunk_sizes=sizes,
                shape=shape,
                algorithm="LZ4",
                check_output_size=True,
            )
        )
    return pipeline
