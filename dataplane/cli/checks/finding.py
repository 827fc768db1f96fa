"""What a check of `dataplane doctor` is, and what it finds. Immutable values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

__all__ = ["Check", "Finding", "Status", "Value", "Values", "fail", "ok", "skip", "warn"]

Status: TypeAlias = Literal["ok", "warn", "fail", "skip"]
"""`warn`: it works, but not as well or not for everything. `fail`: it does not work. `skip`: it
does not apply here, or was not asked for."""

Value: TypeAlias = bool | int | float | str | None
Values: TypeAlias = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of one check.

    Attributes:
        status: verdict.
        found: text of what is there, one line, without secrets.
        advice: what to do, or empty.
        values: figures behind `found`, for programs: sizes in bytes, times in seconds.
        exit_code: what the command returns for it, where that is another code than its group's.
    """

    status: Status
    found: str
    advice: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: `group.what`, which stays the same from release to release.
        look: function that looks, in a thread of its own.
        timeout_s: time that it has.
        when_late: advice if it has not come back by then.
    """

    name: str
    look: Callable[[], Finding]
    timeout_s: float = 20.0
    when_late: str = ""

    @property
    def group(self) -> str:
        """First part of the name."""
        return self.name.partition(".")[0]


def ok(found: str, advice: str = "", /, **values: Value) -> Finding:
    """Return a finding that is as it should be."""
    return Finding("ok", found, advice, values)


def warn(found: str, advice: str, /, **values: Value) -> Finding:
    """Return a finding that costs speed or a part of what is there."""
    return Finding("warn", found, advice, values)


def fail(found: str, advice: str, /, **values: Value) -> Finding:
    """Return a finding that keeps something from working."""
    return Finding("fail", found, advice, values)


def skip(found: str, advice: str = "", /, **values: Value) -> Finding:
    """Return a finding that does not apply."""
    return Finding("skip", found, advice, values)
