"""Groups of commands that suggest the closest ones for a misspelt one."""

from __future__ import annotations

import difflib

import click

__all__ = ["CommandGroup"]


class CommandGroup(click.Group):
    """A click group that suggests the closest commands for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that arguments name.

        Raises:
            click.UsageError: there is none of that name.
        """
        name = args[0]
        is_option = name.startswith("-")
        if not (ctx.resilient_parsing or is_option) and self.get_command(ctx, name) is None:
            close = difflib.get_close_matches(name, self.list_commands(ctx), n=3)
            guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise click.UsageError(f"No such command {name!r}.{guess}", ctx)
        return super().resolve_command(ctx, args)
