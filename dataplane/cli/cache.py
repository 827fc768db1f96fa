"""`dataplane cache`: the group of commands on the cache directory."""

from __future__ import annotations

import click

from dataplane.cli.cache_inspect import info, ls, pin, unpin
from dataplane.cli.cache_maintain import clear, gc, verify
from dataplane.cli.groups import CommandGroup

__all__ = ["cache"]


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cache() -> None:
    """Look into the cache, check it, empty it, and say what must stay.

    The cache directory is shared by all loaders, mounts and notebooks of the user on this host.
    All of these commands may run while others use it: what is emptied under a reader is downloaded
    again, never read wrong.
    """


for _command in (clear, gc, info, ls, pin, unpin, verify):
    cache.add_command(_command)
