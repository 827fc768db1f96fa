"""Options that several subcommands share, and the configurations made from them.

The configurations are imported by the functions that make them: `dataplane doctor` has the options,
and works where the native module does not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dataplane.config import assemble
from dataplane.errors import ConfigError
from dataplane.units import parse_bytes

if TYPE_CHECKING:
    from dataplane.cache.config import CacheConfig
    from dataplane.stores.base import StoreConfig

__all__ = [
    "BYTES",
    "ROUNDING",
    "FiniteRange",
    "cache_config",
    "cache_options",
    "encrypt_option",
    "metrics_options",
    "store_config",
    "store_options",
]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A finite number within bounds, which a NaN passes unseen elsewhere."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn text into a number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class _Bytes(click.ParamType[int]):
    """A size such as 4MiB or 1.5GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(value)
        except ConfigError as err:
            self.fail(str(err), param, ctx)


BYTES = _Bytes()
"""click type of a size in bytes."""


class _Rounding(click.ParamType[tuple[str, int | None]]):
    """A pattern of array names and the mantissa bits to keep: `point_data/*=10`, `points=none`."""

    name = "rounding"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        if isinstance(value, tuple):
            return value
        # The last sign: names of arrays may hold one.
        pattern, _, bits = str(value).rpartition("=")
        if pattern and bits == "none":
            return pattern, None
        if not pattern or not (bits.isascii() and bits.isdigit()) or not 1 <= int(bits) <= 52:
            self.fail(
                f"{value!r} is not PATTERN=N with N from 1 to 52, or PATTERN=none", param, ctx
            )
        return pattern, int(bits)


ROUNDING = _Rounding()
"""click type of the values of `--round`."""


def store_options(command: CommandT) -> CommandT:
    """Add the options of a store."""
    for decorate in (
        click.option("--anonymous", is_flag=True, default=None, help="Send no credentials."),
        click.option("--region", metavar="NAME", help="S3 region."),
        click.option(
            "--endpoint-url",
            metavar="URL",
            help="S3 endpoint, for servers other than AWS (also AWS_ENDPOINT_URL).",
        ),
    ):
        command = decorate(command)
    return command


def _encrypt(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Hand the option on in the environment, where daemons and workers find it too."""
    del ctx, param
    if value:
        os.environ["DATAPLANE_CACHE_ENCRYPT"] = "1"


def encrypt_option(command: CommandT) -> CommandT:
    """Add the option that seals the cache, for commands that read or write its blocks."""
    return click.option(
        "--encrypt-cache",
        is_flag=True,
        expose_value=False,
        callback=_encrypt,
        help="Seal what is cached; the key comes from the settings, or is this boot's.",
    )(command)


def cache_options(command: CommandT) -> CommandT:
    """Add the options of the cache: its directory and budget."""
    for decorate in (
        click.option(
            "--cache-size",
            type=BYTES,
            help="Cache budget, such as 200GiB; by default all but 10 % of the file system.",
        ),
        click.option(
            "--cache-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Cache directory (also DATAPLANE_CACHE_DIR; default ~/.cache/dataplane).",
        ),
    ):
        command = decorate(command)
    return command


def metrics_options(port_help: str) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds the options of the Prometheus endpoint.

    Args:
        port_help: help text of the port.
    """

    def decorate(command: CommandT) -> CommandT:
        host = click.option(
            "--metrics-host",
            default="127.0.0.1",
            show_default=True,
            metavar="ADDRESS",
            help="Address for --metrics-port; whoever reaches it may read the figures.",
        )
        port = click.option(
            "--metrics-port", type=click.IntRange(0, 65_535), metavar="PORT", help=port_help
        )
        return port(host(command))

    return decorate


def store_config(
    endpoint_url: str | None = None, region: str | None = None, *, anonymous: bool | None = None
) -> StoreConfig:
    """Merge the options of `store_options` with environment, file and defaults."""
    from dataplane.stores.base import StoreConfig

    arguments = {"endpoint_url": endpoint_url, "region": region, "anonymous": anonymous}
    return assemble(StoreConfig, "store", arguments).value


def cache_config(cache_dir: Path | None = None, cache_size: int | None = None) -> CacheConfig:
    """Merge the options of `cache_options` with environment, file and defaults."""
    from dataplane.cache.config import CacheConfig

    return assemble(CacheConfig, "cache", {"dir": cache_dir, "size_bytes": cache_size}).value
