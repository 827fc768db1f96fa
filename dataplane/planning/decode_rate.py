"""Rate of decoding on this machine, measured by a short run over the dataset's own samples.

A few samples are read from the store, `MEASURED_BYTES` at most but one at least, and decoded again
and again for `MEASURED_S`; the median round counts. A machine that trains may be faster than the
one that plans: then its rate is to be given.
"""

from __future__ import annotations

import statistics
import time

from dataplane.datasets.dataset import Dataset
from dataplane.datasets.draws import Draws
from dataplane.datasets.samples import decoded_bytes, separate_arrays
from dataplane.loader.stages import decode_threads

__all__ = ["MEASURED_BYTES", "MEASURED_S", "measure_decode_rate"]

MEASURED_BYTES = 32 << 20
MEASURED_S = 0.5
_LEAST_ROUNDS = 3
_MOST_SAMPLES = 64


def measure_decode_rate(dataset: Dataset, workers: int, batch_size: int) -> float | None:
    """Return the rate of decoding samples of a dataset, in decoded bytes per second.

    Args:
        dataset: dataset.
        workers: `num_workers` of the loader.
        batch_size: samples of its batches.

    Returns:
        None where there is nothing to decode.

    Raises:
        DataplaneError: samples cannot be read.
    """
    reader = dataset.reader().drawing(Draws(0, 0))
    count = MEASURED_BYTES // max(reader.mean_sample_bytes, 1)
    count = max(1, min(count, _MOST_SAMPLES, len(dataset)))
    samples = reader.fetch_all(range(count))
    nbytes = decoded_bytes(samples)
    threads = decode_threads(workers, nbytes // count * batch_size)
    rounds: list[float] = []
    until_s = time.perf_counter() + MEASURED_S
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter() < until_s:
        begun_s = time.perf_counter()
        separate_arrays(samples, reader.layouts, threads=threads)
        rounds.append(time.perf_counter() - begun_s)
    return nbytes / statistics.median(rounds) if nbytes else None
