"""`dataplane config`: every setting, its value here, and the origin of that value.

The table in docs/configuration.md is made by `markdown` below, and a test compares the two.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dataplane.cache.admin import KEY_VARIABLE
from dataplane.cache.config import CacheConfig
from dataplane.cli.text import Column, fits, output, print_fitted, print_pieces, printable
from dataplane.config import Resolved, assemble, load_toml
from dataplane.stores.base import StoreConfig
from dataplane.stores.clients.access import s3_access
from dataplane.stores.urls import without_credentials
from dataplane.units import format_bytes, parse_bytes

__all__ = ["config", "markdown", "unread"]

_SECTIONS: dict[str, type[Any]] = {"cache": CacheConfig, "store": StoreConfig}

_PREFIX = "DATAPLANE_"
_OTHER_VARIABLES = frozenset({
    "DATAPLANE_CONFIG",
    KEY_VARIABLE,
    # Of mounts/dataplane_fuse/system.
    "DATAPLANE_MOUNTPOINT",
    "DATAPLANE_MOUNT_OPTIONS",
    "DATAPLANE_URL",
    # Of tests and tools of the repository.
    "DATAPLANE_FUZZ",
    "DATAPLANE_STRESS",
})  # fmt: skip
_TEST_PREFIX = "DATAPLANE_TEST_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as it is here.

    Attributes:
        name: `table.key` of the configuration file.
        value: number, yes or no, text, or None where nothing is set; sizes are in bytes, times in
            seconds. A value that may hold secrets is None.
        is_hidden: whether it may hold secrets, and is set.
        origin: `default`, the file, or an environment variable.
        variable: environment variable that sets it, or empty.
        doc: description.
    """

    name: str
    value: bool | int | float | str | None
    is_hidden: bool
    origin: str
    variable: str
    doc: str


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(*, as_json: bool) -> None:
    """Show every setting, its value, and where that came from; for S3 region and credentials, too.

    Settings: defaults < the configuration file < environment variables < arguments. Of credentials
    only the kind is shown. In JSON, sizes are in bytes and times in seconds; what is not set is
    null. A DATAPLANE_* variable that nothing reads is named on standard error.
    """
    for warning in unread(os.environ):
        click.echo(f"dataplane: {warning}", err=True)
    resolved = {name: assemble(cls, name) for name, cls in _SECTIONS.items()}
    settings = list(_settings(resolved))
    _, path = load_toml()
    access = s3_access(resolved["store"].value, resolved["store"].origins["region"])
    if as_json:
        document = {
            "file": path,
            "settings": [dataclasses.asdict(one) for one in settings],
            "s3": dataclasses.asdict(access),
        }
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    console = output()
    exists = "" if Path(path).exists() else " (not there)"
    console.print(f"file: {path}{exists}", markup=False, soft_wrap=True)
    columns = [
        Column("setting", [one.name for one in settings], is_text=True),
        Column("value", [_shown(one) for one in settings], is_text=True),
        Column("from", [one.origin for one in settings], is_text=True),
        Column("variable", [one.variable for one in settings], is_text=True),
        Column("what it is", [one.doc for one in settings], is_text=True),
    ]
    if fits(console, columns) or not console.is_terminal:
        print_fitted(console, columns)
    else:
        _print_narrow(console, settings)
    if access.endpoint_error is not None:
        print_pieces(console, [f"S3 endpoint: not usable: {access.endpoint_error}"])
    print_pieces(console, [f"S3 region: {_from(access.region or 'not set', access.region_origin)}"])
    print_pieces(
        console, [f"S3 credentials: {_from(access.credentials, access.credentials_origin)}"]
    )


def _print_narrow(console: Console, settings: Sequence[Setting]) -> None:
    """Print a setting and its value, and below them the rest."""
    for one in settings:
        print_pieces(console, [f"{one.name} = {_shown(one)}".rstrip()])
        print_pieces(console, [f"from {one.origin}", one.variable, one.doc], indent=4)


def _from(what: str, origin: str) -> str:
    return f"{what}, from {origin}" if origin else what


def markdown() -> str:
    """Return the table of docs/configuration.md."""
    lines = ["| setting | default | variable | what it is |", "|---|---|---|---|"]
    for section, cls in _SECTIONS.items():
        for field in _fields(cls):
            default = "" if field.default is dataclasses.MISSING else field.default
            default = _readable(field.name, default)
            variables = [f"`{it}`" for it in field.metadata.get("env", ())]
            lines.append(
                f"| `{section}.{field.name}` | {f'`{default}`' if default else ''} "
                f"| {', '.join(variables)} | {field.metadata.get('doc', '')} |"
            )
    return "\n".join(lines) + "\n"


def _settings(resolved: dict[str, Resolved[Any]]) -> Iterator[Setting]:
    for section, one in resolved.items():
        for field in _fields(type(one.value)):
            value = getattr(one.value, field.name)
            yield Setting(
                name=f"{section}.{field.name}",
                value=_plain(_public(field.name, value)) if field.repr else None,
                is_hidden=bool(value) and not field.repr,
                origin=one.origins[field.name],
                variable=", ".join(field.metadata.get("env", ())),
                doc=field.metadata.get("doc", ""),
            )


def unread(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like a setting and is none."""
    fields = (field for cls in _SECTIONS.values() for field in _fields(cls))
    settings = {variable for field in fields for variable in field.metadata.get("env", ())}
    ours = sorted(name.removeprefix(_PREFIX) for name in settings if name.startswith(_PREFIX))
    for name in sorted(environ):
        is_ours = name.startswith(_PREFIX) and not name.startswith(_TEST_PREFIX)
        if is_ours and name not in settings | _OTHER_VARIABLES:
            close = difflib.get_close_matches(name.removeprefix(_PREFIX), ours, n=1)
            guess = f"; did you mean {_PREFIX}{close[0]}?" if close else ""
            yield f"nothing reads the environment variable {printable(name)}{guess}"


def _fields(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(cls) if field.init)


def _public(name: str, value: object) -> object:
    """Return a value without credentials that may have been written into a URL."""
    return without_credentials(value) if name.endswith("_url") and isinstance(value, str) else value


def _plain(value: object) -> bool | int | float | str | None:
    """Return a value as JSON can write it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)  # a path; JSON has no infinities


def _shown(one: Setting) -> str:
    if one.is_hidden:
        return "set, not shown"
    return _readable(one.name, one.value)


def _readable(name: str, value: object) -> str:
    """Write a value as the configuration file may have it; a size with its unit, if that is exact.

    A size that no three digits hold is followed by its bytes.
    """
    if not name.endswith("_bytes") or not isinstance(value, int):
        return _text(value)
    text = format_bytes(value)
    return text if parse_bytes(text) == value else f"{text} ({value})"


def _text(value: object) -> str:
    """Write a value as the configuration file would have it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
