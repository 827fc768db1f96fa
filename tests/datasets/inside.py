"""What tests look at inside of a dataset: the one place that knows how it is built."""

from __future__ import annotations

import dataplane as dp
from dataplane.datasets.plan import Planner, SamplePlan
from dataplane.datasets.reader import SampleReader
from dataplane.datasets.samples import FetchedSample
from dataplane.stores.base import ObjectInfo


def known_shards(dataset: dp.Dataset) -> dict[str, ObjectInfo]:
    """What a dataset knows of its shards, and takes for true."""
    return dataset._shards


def kept_plans(planner: Planner) -> dict[tuple[int, int], SamplePlan]:
    """The plans that are kept, by number and draw."""
    return planner._kept


def kept_bytes(planner: Planner) -> int:
    """The memory that a planner counts for them."""
    return planner._kept_bytes


def read_by(plan: SamplePlan, reader: SampleReader) -> FetchedSample:
    """The sample that a plan is for."""
    return reader._fetch(plan)
