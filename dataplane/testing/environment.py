"""Environment variables for the length of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["exported"]


@contextmanager
def exported(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, and put back what was there before.

    Not for threads that read the environment meanwhile.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
