"""`dataplane doctor`: checks what the data plane needs of this machine, a line each.

The checks are functions in `checks/`; here they are run, shown and turned into an exit code. They
run side by side, each with a deadline, so the command ends whatever hangs. Nothing is changed on
the machine, no CUDA context is made, and no secret is read to be shown.

The code is 0 unless a check fails; then it is that of the group (docs/errors.md) if all failures
are of one code, and 1 if they are of several.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from dataplane.cli.checks.catalog import GROUPS, Asked, checks_of
from dataplane.cli.checks.finding import Check, Finding, Status
from dataplane.cli.checks.runner import run
from dataplane.cli.options import BYTES, store_options
from dataplane.cli.text import output, piece_lines, plural, printable
from dataplane.distribution import version
from dataplane.errors import CacheError, ConfigError, DataplaneError, MountError, StoreError

__all__ = ["doctor", "document", "exit_code"]

SCHEMA = 1
"""Number of the form of `--json`: raised when a name in it goes away or changes its meaning."""

_STYLES: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_STATUS_WIDTH = 4
_CODES = {
    "cache": CacheError.exit_code,
    "mount": MountError.exit_code,
    "store": StoreError.exit_code,
}
_EXAMPLES = """\b
Examples:
  dataplane doctor                        this machine
  dataplane doctor s3://bucket/prefix     and whether that can be read
  dataplane doctor --skip gpu --skip mount
  dataplane doctor --json | jq -r '.checks[] | select(.status == "fail") | .name'
"""


@click.command(epilog=_EXAMPLES)
@click.argument("url", required=False)
@click.option(
    "--cache-size",
    type=BYTES,
    help="Cache budget, such as 200GiB; by default all but 10 % of the file system.",
)
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Cache directory (also DATAPLANE_CACHE_DIR; default ~/.cache/dataplane).",
)
@click.option(
    "--skip",
    "without",
    multiple=True,
    type=click.Choice(GROUPS),
    help="Leave a group of checks out; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@store_options
def doctor(
    url: str | None,
    endpoint_url: str | None,
    region: str | None,
    *,
    cache_dir: Path | None,
    cache_size: int | None,
    anonymous: bool | None,
    without: Sequence[str],
    as_json: bool,
) -> None:
    """Check what the data plane needs of this machine, and of the store at URL.

    Each line says ok, warn, fail or skip, what was found, and what to do. The exit code is 0
    unless a line fails. docs/doctor.md explains every line.
    """
    asked = Asked(
        url=url,
        cache_dir=cache_dir,
        cache_size=cache_size,
        endpoint_url=endpoint_url,
        region=region,
        anonymous=anonymous,
        without=frozenset(without),
    )
    checks = checks_of(asked)
    width = max((len(check.name) for check in checks), default=0)
    console = output()
    lines = []
    for check, found in run(checks):
        lines.append((check, found))
        if not as_json:
            _print(console, check, found, width)
    code = exit_code(lines)
    if as_json:
        click.echo(json.dumps(document(lines), indent=1, ensure_ascii=False))
    else:
        _print_sum(console, lines)
    sys.exit(code)


def exit_code(lines: Sequence[tuple[Check, Finding]]) -> int:
    """Return the exit code of findings: 0 unless one fails."""
    codes = {
        found.exit_code or _CODES.get(check.group, DataplaneError.exit_code)
        for check, found in lines
        if found.status == "fail"
    }
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else DataplaneError.exit_code


def document(lines: Sequence[tuple[Check, Finding]]) -> dict[str, Any]:
    """Return findings as JSON has them; docs/doctor.md describes the form."""
    try:
        ours = version()
    except ConfigError:
        ours = ""
    counts = _counts(lines)
    worst = next((status for status in ("fail", "warn") if counts[status]), "ok")
    return {
        "schema": SCHEMA,
        "version": ours,
        "status": worst,
        "exit_code": exit_code(lines),
        "counts": counts,
        "checks": [
            {
                "name": check.name,
                "group": check.group,
                "status": found.status,
                "found": found.found,
                "advice": found.advice,
                "values": dict(found.values),
            }
            for check, found in lines
        ],
    }


def _counts(lines: Sequence[tuple[Check, Finding]]) -> dict[Status, int]:
    counts: dict[Status, int] = dict.fromkeys(_STYLES, 0)
    for _, found in lines:
        counts[found.status] += 1
    return counts


def _print(console: Console, check: Check, found: Finding, width: int) -> None:
    """Print a line; on a terminal it is folded below itself, in a pipe it stays one."""
    indent = _STATUS_WIDTH + 2 + width + 2
    pieces = [printable(found.found)]
    if found.advice:
        pieces.append(f"→ {printable(found.advice)}")
    first, *others = piece_lines(
        pieces, console.width if console.is_terminal else None, indent=indent
    )
    line = Text(f"{found.status:<{_STATUS_WIDTH}}", style=_STYLES[found.status])
    line.append(f"  {check.name:<{width}}  ", style="not bold default")
    line.append(first[indent:], style="not bold default")
    console.print(line, soft_wrap=True)
    for other in others:
        console.print(Text(other), soft_wrap=True)


def _print_sum(console: Console, lines: Sequence[tuple[Check, Finding]]) -> None:
    counts = _counts(lines)
    warned = f"{counts['warn']} {plural('warning', counts['warn'])}"
    said = f"{counts['ok']} ok, {warned}, {counts['fail']} failed, {counts['skip']} not applicable"
    console.print(Text(said), soft_wrap=True)
