"""Compare predictions of `dataplane plan` with real runs on an emulated cloud, time included.

    python tools/validate_plan.py                    all cases, about two minutes; nothing beside it
    python tools/validate_plan.py --case small-cache one of them

Each case packs a dataset that does not compress, predicts a run over it, and makes that run: the
loader, the cache and the emulated S3 endpoint of the tests, with a time to first byte and a
bandwidth per connection. It prints a row per figure, and exits with 1 where bytes differ by more
than 10 % or the time of all epochs by more than 15 %. Times mean something only on a machine with
nothing else to do: the endpoint, the loader and the training step share its cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import dataplane as dp
from dataplane.cache import Cache
from dataplane.cli.plan_report import print_check
from dataplane.planning.check import CheckRow, check
from dataplane.planning.network import NetworkSettings
from dataplane.planning.predict import predict
from dataplane.planning.settings import RunSettings
from dataplane.shards import DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.stores import open_store
from dataplane_testing.s3 import Faults, S3Endpoint

URL = "s3://data/ds"
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        samples: number of samples, each of `extent`³ float32.
        extent: elements along each dimension.
        first_byte_s: mean time to first byte.
        connection_bytes_per_s: bandwidth of a connection.
        step_s: training step.
        cache: arguments of the cache's configuration.
        run: arguments of `RunSettings`.
        crop: extent of a random crop; None for whole samples.
    """

    samples: int
    extent: int
    first_byte_s: float
    connection_bytes_per_s: float
    step_s: float
    cache: Mapping[str, int] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    crop: int | None = None


SMALL_BLOCKS = {
    "block_bytes": 256 << 10,
    "request_bytes": MIB,
    "prefetch_window_bytes": 16 * MIB,
    "prefetch_memory_bytes": 16 * MIB,
    "next_epoch_bytes": 2 * MIB,
}
CASES = {
    # The network is the limit of the first epoch; the others come from the disk.
    "fits": Case(200, 48, 0.02, 4e6, 0.05, SMALL_BLOCKS, {"batch_size": 4}),
    # A third fits: every epoch downloads the rest.
    "small-cache": Case(
        200, 48, 0.02, 4e6, 0.05, {**SMALL_BLOCKS, "size_bytes": 28 * MIB}, {"batch_size": 2}
    ),
    # Small requests wait for first bytes.
    "first-bytes": Case(
        120, 64, 0.06, 50e6, 0.02,
        {**SMALL_BLOCKS, "part_block_bytes": 64 << 10},
        {"batch_size": 4, "samples_per_read": 2}, crop=16,
    ),
    # The training step is the limit: nothing waits but the first batch.
    "slow-step": Case(100, 48, 0.02, 10e6, 0.2, SMALL_BLOCKS, {"batch_size": 4}),
    "shards": Case(
        200, 48, 0.02, 4e6, 0.05, {**SMALL_BLOCKS, "size_bytes": 28 * MIB},
        {"batch_size": 4, "shuffle": "shards", "shuffle_window": 2},
    ),
}  # fmt: skip


def pack(case: Case) -> None:
    """Pack the dataset of a case."""
    rng = np.random.default_rng(0)
    shape = (case.extent,) * 3
    with DatasetWriter(
        open_store(URL), WriteOptions(codec="lz4", chunk_bytes=16 << 10, shard_bytes=8 * MIB)
    ) as writer:
        for number in range(case.samples):
            values = rng.standard_normal(shape).astype("f4")
            writer.add(SourceSample(f"s{number:04d}", {"u": SourceArray(values)}))
        writer.finish()


def validate(case: Case, folder: Path) -> list[CheckRow]:
    """Predict and run a case; return the comparison."""
    arrays = None if case.crop is None else {"u": dp.crop((case.crop,) * 3)}
    with (
        S3Endpoint(root=folder / "s3", buckets=("data",)) as endpoint,
        endpoint.exported(),
    ):
        pack(case)
        endpoint.set_faults(
            Faults(
                first_byte_s=case.first_byte_s, bandwidth_bytes_per_s=case.connection_bytes_per_s
            )
        )
        settings = RunSettings(
            network=NetworkSettings(case.first_byte_s, None, case.connection_bytes_per_s),
            step_s=case.step_s,
            cache=dp.CacheConfig(dir=folder / "cache", **case.cache),
            epochs=3,
            workers=2,
            seed=7,
            **case.run,
        )
        prediction = predict(URL, settings, arrays)
        used = settings.cache if arrays is None else settings.cache.for_parts()
        with Cache.shared(used):
            record = dp.RunRecord()
            dataset = dp.Dataset(
                URL, arrays, cache=settings.cache, samples_per_read=settings.samples_per_read
            )
            loader = dp.DataLoader(
                dataset,
                batch_size=settings.batch_size,
                shuffle=settings.shuffle,
                shuffle_window=settings.shuffle_window,
                seed=settings.seed,
                num_workers=settings.workers,
            )
            for _ in range(settings.epochs):
                for _batch in loader:
                    time.sleep(case.step_s)
                record.add(loader)
        return check(prediction, [record])


def main() -> int:
    """Validate the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=sorted(CASES), action="append")
    given = parser.parse_args()
    is_sound = True
    for name in given.case or CASES:
        with tempfile.TemporaryDirectory(prefix="dataplane-validate-") as folder:
            rows = validate(CASES[name], Path(folder))
        sys.stdout.write(f"\n{name}\n")
        sys.stdout.flush()
        print_check(rows)
        is_sound &= all(row.is_within for row in rows)
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
