"""A prediction as plain values, for JSON. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dataplane.planning.causes import CAUSES, Cause, Wait
from dataplane.planning.check import CheckRow
from dataplane.planning.predict import Prediction
from dataplane.planning.simulator import EpochFigures

__all__ = ["check_document", "prediction_document", "waits_by_cause"]

_MOST_WAITS = 1000


def waits_by_cause(epoch: EpochFigures) -> dict[Cause, list[Wait]]:
    """Return the waits of an epoch by cause, the cause with the longest time first."""
    found: defaultdict[Cause, list[Wait]] = defaultdict(list)
    for wait in epoch.waits:
        found[wait.cause].append(wait)
    return dict(sorted(found.items(), key=lambda item: -sum(wait.total_s for wait in item[1])))


def prediction_document(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as plain values."""
    settings = prediction.settings
    return {
        "url": prediction.url,
        "samples": prediction.samples,
        "stored_bytes": prediction.stored_bytes,
        "settings": {
            "epochs": settings.epochs,
            "ranks": settings.ranks,
            "hosts": settings.hosts,
            "assign": settings.assign,
            "arrays": dict(prediction.arrays),
            "batch_size": settings.batch_size,
            "drop_last": settings.drop_last,
            "shuffle": settings.shuffle,
            "shuffle_window": settings.shuffle_window,
            "seed": settings.seed,
            "samples_per_read": settings.samples_per_read,
            "workers": settings.workers,
            "prefetch_factor": settings.prefetch_factor,
            "step_s": settings.step_s,
            "decode_bytes_per_s": settings.decode_bytes_per_s,
            "cache_bytes": prediction.limit_bytes,
            "most_uses": settings.most_uses,
            **asdict(settings.network),
            "prices": asdict(settings.prices),
        },
        "epochs": [_epoch_document(prediction, one) for one in prediction.epochs],
        "index_bytes": prediction.index_bytes,
        "fetched_bytes": prediction.fetched_bytes,
        "requests": prediction.requests,
        "elapsed_s": prediction.elapsed_s,
        "wait_s": sum(one.wait_s for one in prediction.epochs),
        "first_batch_s": prediction.epochs[0].first_batch_s,
        "resident_bytes": prediction.resident_bytes,
        "memory": {**asdict(prediction.memory), "total_bytes": prediction.memory.total_bytes},
        "cost": prediction.cost,
        "scale": prediction.scale,
        "causes": CAUSES,
        "notes": list(prediction.notes),
    }


def check_document(rows: Sequence[CheckRow]) -> list[dict[str, Any]]:
    """Return a check as plain values."""
    return [{**asdict(row), "ratio": row.ratio, "is_within": row.is_within} for row in rows]


def _epoch_document(prediction: Prediction, one: EpochFigures) -> dict[str, Any]:
    compute_s = one.steps * prediction.settings.step_s
    return {
        "epoch": one.epoch,
        "steps": one.steps,
        "elapsed_s": one.elapsed_s,
        "first_batch_s": one.first_batch_s,
        "wait_s": one.wait_s,
        "hit_rate": one.hit_rate,
        "needed_bytes": one.needed_bytes,
        "fetched_bytes": one.fetched_bytes,
        "again_bytes": one.again_bytes,
        "requests": one.requests,
        "required_bytes_per_s": prediction.required_bytes_per_s(one) if compute_s else None,
        "available_bytes_per_s": prediction.available_bytes_per_s(one),
        "waited_s": {
            cause: sum(wait.total_s for wait in waits)
            for cause, waits in waits_by_cause(one).items()
        },
        "waits": [asdict(wait) for wait in one.waits[:_MOST_WAITS]],
        "waits_left_out": max(0, len(one.waits) - _MOST_WAITS),
    }
