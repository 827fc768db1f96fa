"""Values of a benchmark: systems, rounds, rows, figures. Pure values and protocols.

A *case* (decode, store, loader, cache) compares *systems* on the same input. Each system runs once
per *round* and returns the cost of that run. Rows report throughput; figures are values of another
kind (a hit rate, the time of one operation) over a parameter. The field names of both are the
interface of `--json` and do not change without a changelog entry.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal, Protocol

__all__ = [
    "CEILING_PREFIX",
    "OUR_SYSTEM",
    "Case",
    "Cost",
    "Figure",
    "LeftOut",
    "Measured",
    "Row",
    "System",
    "Unit",
    "figure",
    "is_ceiling",
    "is_ours",
    "summarise",
]

OUR_SYSTEM = "dataplane"
CEILING_PREFIX = "ceiling:"

Unit = Literal["s", "share"]


def is_ours(name: str) -> bool:
    """Tell whether a system is ours: `dataplane`, or a variant of it, as `dataplane, raw`."""
    return name == OUR_SYSTEM or name.startswith(f"{OUR_SYSTEM}, ")


def is_ceiling(name: str) -> bool:
    """Tell whether a system is a measured ceiling."""
    return name.startswith(CEILING_PREFIX)


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one run of one system.

    Attributes:
        elapsed_s: wall time.
        cpu_s: processor time of the process and its finished children.
        nbytes: bytes delivered (decoded bytes for decode and loader, fetched bytes for store).
        samples: samples (or requests) delivered.
        first_batch_s: time until the first batch arrived, where there are batches.
        bytes_fetched: bytes that came from the object store, where there is one.
        utilisation: share of the time that an emulated accelerator computed; see `training_step`.
        peak_rss_bytes: most memory that the process and its descendants held at one time, where
            it was watched; see `process_memory`.
    """

    elapsed_s: float
    cpu_s: float
    nbytes: int
    samples: int
    first_batch_s: float | None = None
    bytes_fetched: int | None = None
    utilisation: float | None = None
    peak_rss_bytes: int | None = None


class System(Protocol):
    """One contender: ours, a rival, or a measured ceiling."""

    @property
    def name(self) -> str:
        """Name: `dataplane`, a rival's, or `ceiling:<what>`."""
        ...

    @property
    def threads(self) -> int:
        """Number of threads or worker processes it was given."""
        ...

    def run(self) -> Cost:
        """Do the whole work once."""
        ...

    def close(self) -> None:
        """Release the resources of `run`. Idempotent."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Common fields of all systems of one comparison; see `Row` for them."""

    case: str
    dataset: str
    codec: str | None = None
    chunk_bytes: int | None = None
    selection: str | None = None
    state: str | None = None
    step_ms: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of a report: the median over rounds, and the spread.

    Fields that do not apply are None. `ratio_to_ceiling` is this row's rate over the rate of
    `ceiling`, both medians of the same rounds. `instructions_per_byte` is counted by callgrind,
    where that was asked for. `settings` are those that a system was fastest with, `step_ms` the
    length of the emulated training step, `utilisation` and `peak_rss_bytes` as in `Cost`.
    """

    case: str
    dataset: str
    codec: str | None
    chunk_bytes: int | None
    selection: str | None
    state: str | None
    system: str
    threads: int
    samples_per_s: float | None
    gb_per_s: float
    cpu_s_per_gb: float
    first_batch_s: float | None
    bytes_fetched: int | None
    ratio_to_ceiling: float | None
    ceiling: str | None
    rounds: int
    gb_per_s_min: float
    gb_per_s_max: float
    instructions_per_byte: float | None = None
    settings: str | None = None
    step_ms: float | None = None
    utilisation: float | None = None
    utilisation_min: float | None = None
    utilisation_max: float | None = None
    peak_rss_bytes: int | None = None


def summarise(
    case: Case,
    systems: Sequence[System],
    costs: Sequence[Sequence[Cost]],
    *,
    ceiling: str,
    settings: Sequence[str | None] | None = None,
) -> list[Row]:
    """Turn the costs of every round into one row per system.

    Args:
        case: common fields of the systems.
        systems: contenders, in the order of the report.
        costs: costs of the counted rounds, per system.
        ceiling: name of the system that ratios refer to.
        settings: settings per system, where they were chosen.
    """
    # Every system of a case delivers the same samples, so that samples over time is the rate that
    # compares a system that moves compressed bytes (a raw GET) with one that delivers decoded ones.
    medians = [statistics.median(cost.elapsed_s for cost in runs) for runs in costs]
    top = next(
        (m for system, m in zip(systems, medians, strict=True) if system.name == ceiling), None
    )
    rows = []
    chosen = settings if settings is not None else [None] * len(systems)
    for system, runs, elapsed_s, of in zip(systems, costs, medians, chosen, strict=True):
        rates = sorted(run.nbytes / run.elapsed_s / 1e9 for run in runs)
        first = [run.first_batch_s for run in runs if run.first_batch_s is not None]
        fetched = [run.bytes_fetched for run in runs if run.bytes_fetched is not None]
        used = [run.utilisation for run in runs if run.utilisation is not None]
        peaks = [run.peak_rss_bytes for run in runs if run.peak_rss_bytes is not None]
        rows.append(
            Row(
                **dataclasses.asdict(case),
                system=system.name,
                threads=system.threads,
                samples_per_s=statistics.median(run.samples / run.elapsed_s for run in runs),
                gb_per_s=statistics.median(rates),
                cpu_s_per_gb=statistics.median(run.cpu_s / run.nbytes * 1e9 for run in runs),
                first_batch_s=statistics.median(first) if first else None,
                bytes_fetched=round(statistics.median(fetched)) if fetched else None,
                ratio_to_ceiling=top / elapsed_s if top else None,
                ceiling=ceiling.removeprefix(CEILING_PREFIX) if top else None,
                rounds=len(runs),
                gb_per_s_min=rates[0],
                gb_per_s_max=rates[-1],
                settings=of,
                utilisation=statistics.median(used) if used else None,
                utilisation_min=min(used, default=None),
                utilisation_max=max(used, default=None),
                peak_rss_bytes=max(peaks, default=None),
            )
        )
    return rows


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One value at one setting of a parameter: the median over rounds, and the spread.

    Attributes:
        case: name of the benchmark.
        dataset: data that it was measured on.
        quantity: measured quantity; figures of one quantity are one table.
        subject: system, or operation: a line of that table.
        parameter: name of the varied parameter, above the columns.
        at: value of the parameter.
        unit: unit of the value: seconds, or a share of one.
        value: median of the rounds.
        value_min: minimum of the rounds.
        value_max: maximum of the rounds.
        rounds: number of values.
    """

    case: str
    dataset: str
    quantity: str
    subject: str
    parameter: str
    at: float
    unit: Unit
    value: float
    value_min: float
    value_max: float
    rounds: int


def figure(
    table: tuple[str, str, str, str], subject: str, at: float, unit: Unit, values: Sequence[float]
) -> Figure:
    """Turn the values of every round into a figure.

    Args:
        table: case, dataset, quantity and parameter, which the figures of a table have in common.
        subject: line of the table.
        at: column of the table.
        unit: unit of the values.
        values: values, one per round.
    """
    case, dataset, quantity, parameter = table
    value = statistics.median(values)
    low, high = min(values), max(values)
    return Figure(
        case, dataset, quantity, subject, parameter, at, unit, value, low, high, len(values)
    )


@dataclasses.dataclass(frozen=True, slots=True)
class LeftOut:
    """A contender, or a whole case, that was not measured.

    Attributes:
        system: name of the contender or case.
        reason: why.
    """

    system: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """All that a benchmark found.

    Attributes:
        rows: rows of all comparisons.
        figures: figures of all quantities.
        left_out: what was not measured, and why.
        notes: sentences that belong to the figures.
    """

    rows: Sequence[Row] = ()
    figures: Sequence[Figure] = ()
    left_out: Sequence[LeftOut] = ()
    notes: Sequence[str] = ()
