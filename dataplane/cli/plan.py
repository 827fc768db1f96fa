"""`dataplane plan URL`: prediction of a training run before it starts, or its check afterwards."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import click

from dataplane.cli.options import (
    FiniteRange,
    cache_config,
    cache_options,
    store_config,
    store_options,
)
from dataplane.cli.plan_report import print_check, print_prediction
from dataplane.cli.selection_text import parse_arrays
from dataplane.cli.waiting import said_when_late
from dataplane.errors import ConfigError
from dataplane.planning.chart import check_chart, save_chart
from dataplane.planning.check import BYTES_TOLERANCE, TIME_TOLERANCE, check
from dataplane.planning.document import check_document, prediction_document
from dataplane.planning.network import NetworkSettings
from dataplane.planning.predict import predict
from dataplane.planning.run_record import RunRecord
from dataplane.planning.settings import DEFAULT_MOST_USES, Prices, RunSettings
from dataplane.units import parse_bytes

__all__ = ["plan"]

_DIFFERS = 1
_BIT_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(?:(?i:bit/s)|bps)")
_BITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LATENCY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s)\s*")
_SHUFFLES: dict[str, Any] = {"none": False, "full": True, "shards": "shards"}

_EPILOG = """
\b
Examples:
  dataplane plan s3://bucket/cars --epochs 10 --batch-size 8 --step-ms 120 \\
      --bandwidth 10Gbit/s --ttfb 30ms --cache-size 200GiB
  dataplane plan s3://bucket/cars --arrays 'points=points(65536)' \\
      --arrays 'fields/u=crop(64, 64, 64)' --step-ms 80 --bandwidth 1GB/s
  dataplane plan s3://bucket/cars … --ranks 8 --hosts 2 --price 0.09 --request-price 0.0004
  dataplane plan s3://bucket/cars … --json --plot plan.png
  dataplane plan s3://bucket/cars … --check run.json      1 if the run was another

docs/planning.md says how to read the report, and how to record a run.
"""


class _Rate(click.ParamType[float]):
    """Bytes per second: 1.2GB/s, 500MB, 10Gbit/s, 10Gbps."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        nbytes = text.removesuffix("/s")
        bits = _BIT_RATE.fullmatch(text)
        if bits is None and nbytes.endswith("b"):
            given = nbytes[:-1]
            self.fail(
                f"{value!r} may be bits or bytes: write {given.rstrip('i')}bit/s or {given}B/s",
                param,
                ctx,
            )
        try:
            if bits is not None:
                rate = float(bits[1]) * _BITS[bits[2].lower()] / 8
            else:
                rate = float(parse_bytes(nbytes))
        except (ConfigError, OverflowError):
            self.fail(f"{value!r} is no rate: write 1.2GB/s or 10Gbit/s", param, ctx)
        if not 1 <= rate < math.inf:
            self.fail(f"{value!r} is no rate: it is at least 1 byte per second", param, ctx)
        return rate


class _Latency(click.ParamType[float]):
    """Seconds: 30ms, 0.03s."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = _LATENCY.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no time: write 30ms or 0.03s", param, ctx)
        return float(found[1]) / (1000 if found[2] == "ms" else 1)


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url")
@click.option(
    "--step-ms", type=FiniteRange(min=0), required=True,
    help="Milliseconds of a training step, with a batch that is there.",
)  # fmt: skip
@click.option(
    "--bandwidth",
    type=_Rate(),
    required=True,
    help="Of a host from the store, such as 1.2GB/s or 10Gbit/s.",
)
@click.option("--connection-bandwidth", type=_Rate(), help="Of one connection; no limit if absent.")
@click.option(
    "--ttfb",
    type=_Latency(),
    default="30ms",
    show_default=True,
    help="From a request to its first byte.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=3, show_default=True, help="Passes to predict."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=1, show_default=True,
    help="Samples of a batch, of each rank.",
)  # fmt: skip
@click.option(
    "--arrays",
    multiple=True,
    metavar="NAME[=SELECTION]",
    help="An array, or a part of it; may be repeated. All arrays if absent.",
)
@click.option(
    "--shuffle", type=click.Choice(sorted(_SHUFFLES)), default="full", show_default=True,
    help="As of DataLoader, whose own default is none.",
)  # fmt: skip
@click.option("--shuffle-window", type=click.IntRange(min=1), help="As of DataLoader.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True,
    help="Of the order and of what selections draw, as of DataLoader.",
)  # fmt: skip
@click.option(
    "--samples-per-read", type=click.IntRange(min=1), default=1, show_default=True,
    help="As of Dataset.",
)  # fmt: skip
@click.option("--drop-last", is_flag=True, help="As of DataLoader.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=4, show_default=True,
    help="num_workers of DataLoader, whose own default is 0.",
)  # fmt: skip
@click.option(
    "--prefetch-factor", type=click.IntRange(min=1), default=2, show_default=True,
    help="As of DataLoader.",
)  # fmt: skip
@click.option(
    "--ranks", type=click.IntRange(min=1), default=1, show_default=True,
    help="Processes that train, on all hosts together.",
)  # fmt: skip
@click.option(
    "--hosts",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Hosts, with equally many ranks each, which share a cache and the bandwidth.",
)
@click.option(
    "--assign", type=click.Choice(["turns", "node"]), default="turns", show_default=True,
    help="As of DataLoader: which rank reads which samples; a node is a host.",
)  # fmt: skip
@click.option(
    "--decode-rate",
    type=_Rate(),
    help="Decoded bytes per second with all workers; measured here if absent.",
)
@click.option("--price", type=FiniteRange(min=0), help="Of a GB that leaves the store.")
@click.option("--request-price", type=FiniteRange(min=0), help="Of 1,000 requests.")
@click.option(
    "--most-uses",
    type=click.IntRange(min=1),
    default=DEFAULT_MOST_USES,
    show_default=True,
    help="Uses of blocks to simulate; of a larger run samples are left out.",
)
@click.option(
    "--check",
    "records",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="RUN.json",
    help="Compare with a record of the run (dp.RunRecord); one per rank of a host.",
)
@click.option(
    "--bytes-tolerance",
    type=FiniteRange(min=0),
    default=BYTES_TOLERANCE,
    show_default=True,
    help="Of --check: share that downloaded bytes may differ by.",
)
@click.option(
    "--time-tolerance",
    type=FiniteRange(min=0),
    default=TIME_TOLERANCE,
    show_default=True,
    help="Of --check: share that the time may differ by.",
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw a chart.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@cache_options
@store_options
def plan(
    url: str,
    *,
    step_ms: float,
    bandwidth: float,
    connection_bandwidth: float | None,
    ttfb: float,
    arrays: tuple[str, ...],
    shuffle: str,
    price: float | None,
    request_price: float | None,
    decode_rate: float | None,
    records: tuple[Path, ...],
    bytes_tolerance: float,
    time_tolerance: float,
    plot: Path | None,
    as_json: bool,
    cache_dir: Path | None,
    cache_size: int | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    **run: Any,
) -> None:
    """Predict a training run over the packed dataset at URL, before it starts.

    The run's own order, plans and cache policy are simulated, from an empty cache: hit rates, bytes
    and requests, the time of each epoch, where steps wait and why, memory and cost. Only the index
    is read, and a few samples to measure decoding, unless --decode-rate is given.
    """
    if plot is not None:
        check_chart(plot)
    loaded = [RunRecord.load(path) for path in records]  # before anything is computed for them
    settings = RunSettings(
        network=NetworkSettings(ttfb, bandwidth, connection_bandwidth),
        step_s=step_ms / 1e3,
        cache=cache_config(cache_dir, cache_size),
        shuffle=_SHUFFLES[shuffle],
        decode_bytes_per_s=decode_rate,
        prices=Prices(price, request_price),
        **run,
    )
    store = store_config(endpoint_url, region, anonymous=anonymous)
    prediction = predict(
        url, settings, parse_arrays(arrays), store=store, opening=said_when_late(url)
    )
    rows = None
    if loaded:
        rows = check(
            prediction, loaded, bytes_tolerance=bytes_tolerance, time_tolerance=time_tolerance
        )
    if plot is not None:
        save_chart(prediction, plot)
    if as_json:
        document = prediction_document(prediction)
        if rows is not None:
            document["check"] = check_document(rows)
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    elif rows is not None:
        print_check(rows)
    else:
        print_prediction(prediction)
    if rows is not None and not all(row.is_within for row in rows):
        sys.exit(_DIFFERS)
