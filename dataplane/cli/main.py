"""The `dataplane` command: its subcommands, and errors as one line and an exit code.

A subcommand is a click command in a file of its own. Those of this package are listed in
`_BUILT_IN`; those of packages above it (mount, benchmark) come from the entry points group
`dataplane.commands`. Both are imported only when they run, so that `dataplane --help` is quick.
The exit codes are those of `dataplane.errors`; the table is docs/errors.md.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from importlib import metadata

import click

from dataplane.cli.groups import CommandGroup
from dataplane.distribution import version
from dataplane.errors import DataplaneError
from dataplane.extras import missing_package

__all__ = ["main"]

_INTERRUPTED = 130
_DEBUG_HINT = "dataplane --debug … shows where"
# Name -> (module, attribute, help). The help stands here so that listing commands imports nothing.
_BUILT_IN = {
    "cache": ("dataplane.cli.cache", "cache", "Look into the cache, check it, empty it."),
    "config": ("dataplane.cli.config", "config", "Show every setting and where it came from."),
    "doctor": ("dataplane.cli.doctor", "doctor", "Check what this machine lacks, and what to do."),
    "info": ("dataplane.cli.info", "info", "Describe a packed dataset."),
    "stats": ("dataplane.cli.stats", "stats", "Watch the processes that use the cache."),
    "warm": ("dataplane.cli.warm", "warm", "Bring objects into the cache ahead of their readers."),
    "plan": ("dataplane.cli.plan", "plan", "Predict a training run before it starts."),
    "pack": ("dataplane.cli.pack", "pack", "Convert simulation files to a packed dataset."),
}
_ENTRY_POINTS = "dataplane.commands"
_ASKS_FOR_HELP: type[click.UsageError] | tuple[()] = getattr(
    click.exceptions, "NoArgsIsHelpError", ()
)
"""A command without arguments shows its help; before version 8.2 click does so by itself."""
_ENTRY_POINT_HELP = {
    "bench": "Measure throughput beside rivals and measured ceilings.",
    "demo": "Run the whole data plane on generated data.",
    "mount": "Mount a bucket, prefix or packed dataset read-only.",
    "umount": "Remove a mount.",
}


class _Commands(CommandGroup):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted({*_BUILT_IN, *(point.name for point in _entry_points())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        command: object
        if cmd_name in _BUILT_IN:
            module, attribute, _ = _BUILT_IN[cmd_name]
            command = getattr(importlib.import_module(module), attribute)
        else:
            point = next((p for p in _entry_points() if p.name == cmd_name), None)
            if point is None:
                return None
            command = point.load()
        assert isinstance(command, click.Command), f"{cmd_name} is not a click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = {name: text for name, (_, _, text) in _BUILT_IN.items()} | _ENTRY_POINT_HELP
        rows = [(name, known.get(name, "")) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _entry_points() -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=_ENTRY_POINTS))


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if value and not ctx.resilient_parsing:
        click.echo(f"dataplane, version {version()}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option("--debug", is_flag=True, help="Print tracebacks and log everything.")
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Stream large 3D simulation datasets from object storage into training.

    One cache on the local SSD stands between the object store and everything that reads:
    a read-only mount, a drop-in PyTorch DataLoader, and benchmarks that compare both with
    what the machine could do.
    """
    ctx.obj = {"debug": debug}
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


def main() -> None:
    """Run the command line; the entry point of the `dataplane` script."""
    try:
        cli.main(standalone_mode=False)
    except _ASKS_FOR_HELP as err:
        err.show()
        sys.exit(err.exit_code)
    except click.ClickException as err:
        click.echo(f"dataplane: {_usage_line(err)}", err=True)
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("dataplane: interrupted", err=True)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`dataplane … | head`); write nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except BaseException as err:
        told = _told(err)
        if told is None:
            raise
        if "--debug" in sys.argv[1:]:
            traceback.print_exception(err)
        click.echo(f"dataplane: {told}", err=True)
        sys.exit(told.exit_code)


def _usage_line(err: click.ClickException) -> str:
    """Return in one line what is wrong with a command line, and where it says what is right."""
    context = err.ctx if isinstance(err, click.UsageError) else None
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    text = " ".join(line.strip() for line in err.format_message().splitlines())
    return text.removesuffix(".") + hint


def _told(err: BaseException) -> DataplaneError | None:
    """Return the message of an error; None for a bug, which keeps its traceback.

    An OSError of the system and a panic of a library in Rust (pyo3's PanicException, which is no
    Exception) may come from anywhere, and their traceback helps no user.
    """
    if isinstance(err, DataplaneError):
        return err
    if isinstance(err, ModuleNotFoundError) and not (err.name or "").startswith("dataplane"):
        return missing_package("this command", err.name or "?")
    if isinstance(err, OSError):
        named = f"{err.filename}: {err.strerror}" if err.filename and err.strerror else str(err)
        return DataplaneError(named or type(err).__name__, hint=_DEBUG_HINT)
    if type(err).__name__ == "PanicException":
        first = (str(err).splitlines() or [""])[0]
        return DataplaneError(f"a library failed: {first}", hint=_DEBUG_HINT)
    return None
