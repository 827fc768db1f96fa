"""Utilisation of the loader case: the step that is scaled to this machine, and the figures.

The rows of a step have the utilisation already; figures show it over the lengths of the step, a
table per case and state. `cold` and `cloud` are first epochs, since every run begins with nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from dataplane_bench.cases.loader_systems import OurLoader, start_ours
from dataplane_bench.cases.loader_table import LoaderCase
from dataplane_bench.model import Figure, Row, is_ours
from dataplane_bench.rivals.loaders import LoaderInput
from dataplane_bench.training_step import SCALED_STEP, accelerators

__all__ = ["scaled_step", "utilisation_figures"]

_CALIBRATION_RUNS = 3


def scaled_step(given: LoaderInput, threads: int, case: LoaderCase) -> tuple[float, str]:
    """Measure how long we load a batch, warm and with no step, and scale the step to that.

    Args:
        given: dataset, warm.
        threads: number of our decode threads.
        case: case of the dataset.

    Returns:
        The length of the step, ms, and a sentence on it.

    Raises:
        RivalFailed: our loader failed.
    """
    system, _ = start_ours(OurLoader, given, threads)
    try:
        system.run(0.0)  # fills the cache
        runs = [system.run(0.0).elapsed_s for _ in range(_CALIBRATION_RUNS)]
    finally:
        system.close()
    load_s = statistics.median(runs) / given.batches
    step_ms = max(0.1, round(SCALED_STEP * load_s * 1e3, 1))
    demand = accelerators(given.batch_size * case.sample_bytes, step_ms / 1e3)
    note = (
        f"{case.name}: a step of {step_ms:g} ms is {SCALED_STEP:g} times our warm load of a batch "
        f"({load_s * 1e3:.1f} ms with {threads} threads); it takes bytes as {demand:.2g} H100 of "
        "MLPerf Storage's unet3d"
    )
    return step_ms, note


def utilisation_figures(rows: Sequence[Row]) -> list[Figure]:
    """Return the utilisation of every row that has one, as figures over the length of the step."""
    return [
        Figure(
            case=row.case,
            dataset=f"{row.dataset} · {row.selection}",
            quantity=f"accelerator utilisation, {state_of(row)}",
            subject=f"{row.system}, {_workers(row)}",
            parameter="step, ms",
            at=row.step_ms,
            unit="share",
            value=row.utilisation,
            value_min=row.utilisation_min or 0.0,
            value_max=row.utilisation_max or row.utilisation,
            rounds=row.rounds,
        )
        for row in sorted(rows, key=lambda row: (row.dataset, state_of(row)))
        if row.utilisation is not None and row.step_ms is not None
    ]


def state_of(row: Row) -> str:
    """Return the state of a row without its step; cold ones are first epochs."""
    state = (row.state or "").partition(", step of ")[0]
    return state if state == "warm" else f"first epoch, {state}"


def _workers(row: Row) -> str:
    word = "thread" if is_ours(row.system) else "worker"
    return f"{row.threads} {word}{'' if row.threads == 1 else 's'}"
