"""Whether an installed version lies in the range that a requirement asks for. Pure functions.

Only release numbers count (`2.13.0+cpu` is 2.13.0, `2.0rc1` is 2.0): enough to tell a package that
is too old or too new from one that is not, without a package for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import metadata

__all__ = ["installed_version", "package_of", "range_of", "release", "satisfies"]

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?")
_CLAUSE = re.compile(r"\s*(===|==|~=|!=|<=|>=|<|>)\s*v?([0-9]+(?:\.[0-9]+)*)(\.\*)?")
_NUMBERS = re.compile(r"v?(?:\d+!)?(\d+(?:\.\d+)*)")


def package_of(requirement: str) -> str:
    """Return the package that a requirement names: `torch` of `torch>=2.4`."""
    match = _NAME.match(requirement)
    return match[1] if match else requirement


def range_of(requirement: str) -> str:
    """Return the range of a requirement: `>=2.4` of `torch>=2.4`; or an empty text."""
    match = _NAME.match(requirement)
    return match[2].strip() if match else ""


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without zeros at their end; empty for none.

    Example:
        >>> release("2.13.0+cpu"), release("3.11"), release("unknown")
        ((2, 13), (3, 11), ())
    """
    match = _NUMBERS.match(version)
    numbers = [int(part) for part in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version lies in a range such as `>=2.4,<3`; every version does in an empty one.

    Example:
        >>> satisfies("2.13.0+cpu", ">=2.4"), satisfies("5.3.0.16", "==6.0.0.12")
        (True, False)
    """
    return all(_COMPARE[how](release(version), bound) for how, bound in _clauses(wanted))


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _clauses(wanted: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for text in wanted.split(","):
        match = _CLAUSE.match(text)
        if match is None:
            continue
        how, numbers, star = match.groups()
        if star or how == "~=":
            parts = [int(part) for part in numbers.split(".")]
            if how == "~=":
                yield ">=", release(numbers)
                parts.pop()
            yield ("!*" if how == "!=" else "=*"), tuple(parts)
        else:
            yield how, release(numbers)


def _begins(version: tuple[int, ...], bound: tuple[int, ...]) -> bool:
    padded = version + (0,) * (len(bound) - len(version))
    return padded[: len(bound)] == bound


_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "===": lambda version, bound: version == bound,
    "==": lambda version, bound: version == bound,
    "!=": lambda version, bound: version != bound,
    "<=": lambda version, bound: version <= bound,
    ">=": lambda version, bound: version >= bound,
    "<": lambda version, bound: version < bound,
    ">": lambda version, bound: version > bound,
    "=*": _begins,
    "!*": lambda version, bound: not _begins(version, bound),
}
