"""Check of a prediction against what finished runs recorded: a row per figure.

Bytes and total time have a tolerance and decide; the other figures are shown beside them. A record
is of one process, so what the ranks of a host download together is compared with as many records as
there are, in proportion. Pure functions and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataplane.errors import ConfigError
from dataplane.planning.predict import Prediction
from dataplane.planning.run_record import RunRecord

__all__ = ["BYTES_TOLERANCE", "TIME_TOLERANCE", "CheckRow", "check"]

BYTES_TOLERANCE = 0.10
TIME_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One figure, predicted and measured.

    Attributes:
        name: what it is.
        unit: "bytes", "requests" or "s".
        predicted: as predicted.
        measured: as recorded.
        tolerance: largest share of the measured one that they may differ by; None for any.
    """

    name: str
    unit: str
    predicted: float
    measured: float
    tolerance: float | None = None

    @property
    def ratio(self) -> float | None:
        """Predicted by measured; None where nothing was measured."""
        return self.predicted / self.measured if self.measured else None

    @property
    def is_within(self) -> bool:
        """Whether they differ by no more than the tolerance."""
        if self.tolerance is None:
            return True
        return abs(self.predicted - self.measured) <= self.tolerance * abs(self.measured)


def check(
    prediction: Prediction,
    records: Sequence[RunRecord],
    *,
    bytes_tolerance: float = BYTES_TOLERANCE,
    time_tolerance: float = TIME_TOLERANCE,
) -> list[CheckRow]:
    """Compare a prediction with the records of a run.

    Args:
        prediction: the prediction; of its epochs as many count as were recorded.
        records: records of ranks of one host, at least one.
        bytes_tolerance: largest share that downloaded bytes may differ by.
        time_tolerance: largest share that the time of all epochs may differ by.

    Raises:
        ConfigError: there are more records than ranks of a host, or more epochs recorded than
            predicted, or the run downloaded nothing, or read something else.
    """
    ranks = prediction.settings.host_ranks
    if len(records) > ranks:
        raise ConfigError(
            f"{len(records)} records of a host with {ranks} ranks",
            hint="give the records of the ranks of one host, and --ranks as in the run",
        )
    count = min(len(record) for record in records)
    if count > len(prediction.epochs):
        raise ConfigError(
            f"{count} epochs were recorded, and {len(prediction.epochs)} predicted",
            hint=f"give --epochs {count}",
        )
    epochs = prediction.epochs[:count]
    share = len(records) / ranks

    def counted(name: str) -> float:
        return sum(record.counter(name, count) for record in records)

    def longest(name: str) -> list[float]:
        return [
            max(float(record.epochs[epoch]["loader"][name] or 0.0) for record in records)
            for epoch in range(count)
        ]

    batches = int(longest("batches")[0])
    if prediction.scale == 1.0 and batches != epochs[0].steps:
        raise ConfigError(
            f"the run has {batches} batches in an epoch, and {epochs[0].steps} are predicted",
            hint="give its --batch-size, --ranks, --samples-per-read and --drop-last",
        )
    if not counted("store_get_bytes"):
        raise ConfigError(
            "the run downloaded nothing: store_get_bytes did not grow",
            hint="a prediction is of a run from an empty cache; make dp.RunRecord() before the "
            "dataset is opened",
        )
    total_bytes = sum(one.fetched_bytes for one in epochs) + prediction.index_bytes
    requests = sum(one.requests for one in epochs) + prediction.index_requests
    elapsed = longest("elapsed_s")
    rows = [
        CheckRow(
            "downloaded", "bytes", total_bytes * share, counted("store_get_bytes"), bytes_tolerance
        ),
        CheckRow("requests", "requests", requests * share, counted("store_get_requests")),
        CheckRow("of those, sent twice", "requests", 0, counted("store_hedges")),
        CheckRow(
            "time of all epochs",
            "s",
            sum(one.elapsed_s for one in epochs),
            sum(elapsed),
            time_tolerance,
        ),
        CheckRow("time waited", "s", sum(one.wait_s for one in epochs), sum(longest("wait_s"))),
        CheckRow("first batch", "s", epochs[0].first_batch_s, longest("first_batch_s")[0]),
    ]
    rows += [
        CheckRow(f"time of epoch {one.epoch}", "s", one.elapsed_s, elapsed[number])
        for number, one in enumerate(epochs)
    ]
    return rows
