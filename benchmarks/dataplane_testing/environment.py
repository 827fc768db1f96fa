"""Environment variables for the length of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["exported"]


@contextmanager
def exported(variables: Mapping[str, str], *, without: tuple[str, ...] = ()) -> Iterator[None]:
    """Set variables of this process and remove others; at the end all is as it was before.

    Not for threads that read the environment meanwhile.

    Args:
        variables: variables to set.
        without: prefixes of the names of variables to remove, where `variables` has them not.
    """
    removed = [name for name in os.environ if name.startswith(without)] if without else []
    before = {name: os.environ.get(name) for name in {*variables, *removed}}
    for name in removed:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
