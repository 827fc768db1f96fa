"""Ranges to warm: the bytes that a URL, prefixes or a plan name for `dataplane warm`.

A packed dataset is its index and the shards that the index names; any other URL is all that lies
below it, or the one object that it names. A plan is a file with one read per line, as text (`KEY
START STOP`, where KEY may hold spaces, or `KEY` for all of it) or as JSON (`{"key": …, "start": …,
"stop": …}`); `#` begins a comment line. Lines, numbers and ranges are checked before use, and an
error names the file and the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from dataplane.errors import BucketNotFound, ConfigError, FormatError, NotFound, StoreError
from dataplane.stores import Store, open_store, split_url
from dataplane.stores.base import ObjectInfo, StoreConfig
from dataplane.stores.versions import as_answered

__all__ = ["ObjectRange", "PlanLine", "read_plan", "wanted"]

_INDEX_KEY = "index.parquet"
_MAX_LINE_CHARS = 16_384
_MAX_OFFSET = 1 << 62
_PART_OF_RANGE = re.compile(r"[\[(]?\d+(?:[-:,.]+\d*)?[\])]?")
"""`100`, and other forms of ranges: `0-100`, `0:100`, `[0,100)`."""


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """Bytes `[start, stop)` of an object version."""

    info: ObjectInfo
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One line of a plan; without a stop, the rest of the object."""

    number: int
    key: str
    start: int = 0
    stop: int | None = None


@contextmanager
def wanted(
    url: str, config: StoreConfig, prefixes: Sequence[str] = (), plan: IO[str] | None = None
) -> Iterator[tuple[Store, list[ObjectRange]]]:
    """Open the store and describe the ranges to warm, in the order in which they were given.

    Raises:
        ConfigError: the URL cannot be used.
        NotFound: no such object.
        FormatError: a line of the plan, or the index of a dataset, cannot be used.
        StoreError: the store failed.
    """
    store = open_store(url, config)
    try:
        if plan is not None:
            where = getattr(plan, "name", "the plan")
            ranges = _planned(store, read_plan(plan, where), where)
            if not ranges:
                raise FormatError(f"{where} names no reads", hint="write KEY, or KEY START STOP")
            yield store, ranges
            return
        infos, failure = _below(store, prefixes)
        if not infos and not prefixes:
            around, info = _one_object(url, config, failure)
            store.close()
            store, infos = around, [info]
        if not infos:
            names = ", ".join(repr(prefix) for prefix in prefixes)
            raise NotFound(f"nothing below {store.url} begins with {names}")
        infos = [as_answered(store, info) for info in infos]
        yield store, [ObjectRange(info, 0, info.size_bytes) for info in infos]
    finally:
        store.close()


def read_plan(lines: Iterable[str], where: str) -> Iterator[PlanLine]:
    """Read the lines of a plan.

    Raises:
        FormatError: a line is not a read; the message names it.

    Example:
        >>> [(line.key, line.start, line.stop) for line in read_plan(["a b.tar 0 10"], "plan")]
        [('a b.tar', 0, 10)]
    """
    try:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if text and not text.startswith("#"):
                yield _parse_line(number, text, f"{where}, line {number}")
    except UnicodeDecodeError as err:
        raise FormatError(f"{where}: not UTF-8 text: {err}") from err


def _parse_line(number: int, text: str, where: str) -> PlanLine:
    if len(text) > _MAX_LINE_CHARS:
        raise FormatError(f"{where}: {len(text)} characters, {_MAX_LINE_CHARS} are allowed")
    fields: Any
    if text.startswith("{"):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise FormatError(f"{where}: not JSON: {err}") from err
        strange = fields.keys() - {"key", "start", "stop", "step"}
        if strange:
            raise FormatError(f"{where}: unknown field {min(strange)!r}")
    else:
        parts = text.rsplit(None, 2)
        is_range = len(parts) == 3 and parts[1].isascii() and parts[2].isascii()
        if is_range and parts[1].isdigit() and parts[2].isdigit():
            fields = {"key": parts[0], "start": int(parts[1]), "stop": int(parts[2])}
        else:
            fields = {"key": text}
    key, start, stop = fields.get("key"), fields.get("start", 0), fields.get("stop")
    if not isinstance(key, str) or not key:
        raise FormatError(f"{where}: no key", hint="write KEY START STOP, or JSON with a key")
    for name, value in (("start", start), ("stop", stop)):
        if isinstance(value, bool) or not isinstance(value, int | None):
            raise FormatError(f"{where}: {name} must be a whole number, got {value!r}")
    if start is None or not 0 <= start <= (_MAX_OFFSET if stop is None else stop) <= _MAX_OFFSET:
        raise FormatError(f"{where}: bytes {start} to {stop} are no range")
    return PlanLine(number, key, start, stop)


def _planned(store: Store, lines: Iterable[PlanLine], where: str) -> list[ObjectRange]:
    infos: dict[str, ObjectInfo] = {}
    ranges = []
    for line in lines:
        info = infos.get(line.key)
        if info is None:
            info = infos[line.key] = _planned_object(store, line, where)
        stop = info.size_bytes if line.stop is None else line.stop
        if not line.start <= stop <= info.size_bytes:
            raise FormatError(
                f"{where}, line {line.number}: bytes {line.start} to {stop} are outside "
                f"{line.key!r}, which has {info.size_bytes} bytes",
                hint="a line with the key alone takes all of an object",
            )
        ranges.append(ObjectRange(info, line.start, stop))
    return ranges


def _planned_object(store: Store, line: PlanLine, where: str) -> ObjectInfo:
    try:
        return store.head(line.key)
    except BucketNotFound:
        raise
    except NotFound:
        words = line.key.split()
        is_half = len(words) > 1 and _PART_OF_RANGE.fullmatch(words[-1]) is not None
        raise NotFound(
            f"{where}, line {line.number}: there is no object {line.key!r} at {store.url}",
            hint="a range is written with both ends, as KEY START STOP" if is_half else None,
        ) from None


def _below(store: Store, prefixes: Sequence[str]) -> tuple[list[ObjectInfo], StoreError | None]:
    """Describe a packed dataset's objects, or all objects below; also the reason for none."""
    try:
        index = store.head(_INDEX_KEY)
    except BucketNotFound:
        raise
    except NotFound:
        index = None
    failure: StoreError | None = None
    listed: dict[str, ObjectInfo] = {}
    try:
        for prefix in prefixes or ("",):
            listed |= {info.key: info for info in store.list(prefix)}
    except BucketNotFound:
        raise
    except StoreError as err:
        if prefixes:
            raise
        failure = err  # plain web servers cannot list, but a dataset's index names its shards
    if index is None:
        return list(listed.values()), failure
    infos = _dataset(store, index, listed)
    return [info for info in infos if info.key.startswith(tuple(prefixes) or "")], None


def _dataset(
    store: Store, index: ObjectInfo, listed: dict[str, ObjectInfo]
) -> Iterator[ObjectInfo]:
    from dataplane.shards import DatasetIndex  # pyarrow, which other URLs do not need

    yield index
    for key, size_bytes in DatasetIndex.load(store).shards.items():
        known = listed.get(key)
        info = store.head(key) if known is None else as_answered(store, known)
        if info.size_bytes != size_bytes:
            raise FormatError(
                f"{store.url}: shard {key} has {info.size_bytes} bytes, the index says "
                f"{size_bytes}",
                hint="the copy is incomplete, or the dataset was packed again; copy it anew",
            )
        yield info


def _one_object(
    url: str, config: StoreConfig, failure: StoreError | None
) -> tuple[Store, ObjectInfo]:
    """Open the store around the object that a URL names.

    Raises:
        StoreError: there is none; `failure` if something else had failed before.
    """
    try:
        root, key = split_url(url)
    except ConfigError:
        raise failure or NotFound(f"there is nothing below {url}") from None
    store = open_store(root, config)
    try:
        return store, store.head(key)
    except NotFound as err:
        store.close()
        raise failure or NotFound(f"there is nothing at or below {url}") from err
    except BaseException:
        store.close()
        raise
