"""Samples from sources: finds a format's converter, unpacks archives, goes on after errors.

`convert` never raises for a source that cannot be read: it yields an `Unreadable` in its place for
any error of the converter, so that one bad member of an archive does not hide the good ones.
`open_source` is the same for one path, and raises. Both read as they are iterated; archives live in
a temporary folder until the iterator is finished or closed. Thread-safe: iterators are independent,
each for one thread.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from dataplane.errors import ConfigError, FormatError, NoSpace
from dataplane.pack.archives import unpack
from dataplane.pack.formats import ARCHIVE
from dataplane.pack.meter import Meter
from dataplane.pack.numpy_files import convert_npy, convert_npz
from dataplane.pack.plan import Planned, plan_archive, plan_sources
from dataplane.pack.plot3d.convert import convert_plot3d
from dataplane.pack.skipped import LEFT_OUT_LOGGER, counted_lines, left_out_of
from dataplane.pack.source import Converter, SourceFile, Unreadable, sha256_of
from dataplane.pack.vtk.convert import VTK_CONVERTERS
from dataplane.pack.vtk.subprocess_reader import (
    SHARED_BYTES,
    convert_in_subprocess,
    convert_together,
)
from dataplane.shards import SourceSample
from dataplane.shards.scratch import ScratchFolder

__all__ = ["Outcome", "convert", "convert_several", "open_source", "together"]

_log = logging.getLogger(__name__)
_left_out_log = logging.getLogger(LEFT_OUT_LOGGER)

Outcome: TypeAlias = SourceSample | Unreadable
_CONVERTERS: dict[str, Converter] = {
    "npy": convert_npy,
    "npz": convert_npz,
    "plot3d": convert_plot3d,
}
"""Converters by format. Another format needs a converter here and recognition in formats.py."""
_MOST_TOGETHER = 32
"""Most files read in one go: by then the work done once for all is a small part of the whole."""


def open_source(path: str | Path) -> Iterator[SourceSample]:
    """Read the samples of one file or folder.

    A file that belongs to others includes them: either half of a PLOT3D pair gives the pair, a
    `.pvd` one sample per time step, a `.zip` everything in it. Files of other formats in a folder
    or an archive are passed over.

    Raises:
        FormatError: it cannot be read; or it holds something that should have been and cannot, or
            nothing that is; names the place.
        ConfigError: the package that reads its format is not installed.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/case.npz", pressure=np.zeros(3))
        ...     [(sample.key, [*sample.arrays]) for sample in open_source(f"{folder}/case.npz")]
        [('case', ['pressure'])]
    """
    passed_over: list[Unreadable] = []
    samples = 0
    for planned in plan_sources([Path(path)]):
        outcomes = [planned] if isinstance(planned, Unreadable) else convert(planned)
        for outcome in outcomes:
            if not isinstance(outcome, Unreadable):
                samples += 1
                yield outcome
            elif outcome.asked_for:
                raise outcome.error()
            else:
                passed_over.append(outcome)
    if passed_over and not samples:
        listed = "; ".join(counted_lines(passed_over))
        raise FormatError(f"{path}: it holds nothing that is read: {listed}")


def convert(
    source: SourceFile,
    meter: Meter | None = None,
    read: Iterable[SourceSample] | None = None,
) -> Generator[Outcome, None, None]:
    """Read the samples of one dataset, or of all in an archive.

    Args:
        source: dataset or archive to read.
        meter: meter of the read's progress, where that is known before it ends.
        read: samples of the source, where it was read already.

    Raises:
        ConfigError: the package that reads its format is not installed.
    """
    try:
        if source.format == ARCHIVE:
            yield from _convert_archive(source)
            return
        if read is None:
            is_vtk = source.format in VTK_CONVERTERS
            read = (
                convert_in_subprocess(source, meter)
                if is_vtk
                else _CONVERTERS[source.format](source)
            )
        for sample in read:
            _check(sample, source.label)
            for label, names, reason in left_out_of(sample, source):
                _left_out_log.warning("%s: left out: %s (%s)", label, names, reason)
            yield sample
    except (ConfigError, NoSpace):
        raise  # not the file's fault
    except Exception as err:  # any error of a library over a damaged file; see from_exception
        yield Unreadable.from_exception(source.label, err)


def together(planned: Iterable[Planned], most_bytes: int) -> list[SourceFile]:
    """Choose the first sources that are worth reading in one go; none, or two and more.

    Args:
        planned: sources to be read.
        most_bytes: limit of all of them together.
    """
    chosen: list[SourceFile] = []
    left_bytes = min(most_bytes, SHARED_BYTES)
    for item in itertools.islice(planned, _MOST_TOGETHER):
        if not isinstance(item, SourceFile) or item.format not in VTK_CONVERTERS:
            break
        left_bytes -= item.size_bytes()
        if left_bytes <= 0:
            break
        chosen.append(item)
    return chosen if len(chosen) > 1 else []


def convert_several(
    sources: Sequence[SourceFile],
) -> Iterator[Generator[Outcome, None, None]]:
    """Read the sources that `together` has chosen, with the results that `convert` would give.

    When one of them has any problem, they are read one by one.
    """
    read = convert_together(sources)
    for number, source in enumerate(sources):
        yield convert(source, read=None if read is None else read[number])


def _check(sample: SourceSample, label: str) -> None:
    try:
        sample.check()
    except ConfigError as err:  # its key, which came from names in the file
        raise FormatError(f"{label}: {err.message}") from err


def _convert_archive(source: SourceFile) -> Iterator[Outcome]:
    with closing(ScratchFolder()) as scratch:
        unpack(source.path, scratch.path, source.label)
        seen: dict[str, str] = {}
        for planned in plan_archive(scratch.path, source.label, source.name):
            if isinstance(planned, Unreadable):
                yield planned
            elif planned.format == ARCHIVE:
                yield Unreadable(planned.label, "an archive inside an archive is not read")
            elif (copy_of := _copy_of(planned, seen)) is not None:
                _log.info("%s is a copy of %s and is left out", planned.label, copy_of)
            else:
                described = {"archive": source.path.name, **planned.attributes}
                yield from convert(replace(planned, attributes=described))


def _copy_of(source: SourceFile, seen: dict[str, str]) -> str | None:
    """Return the label of an earlier dataset with the same names, bytes and place in its series.

    Archives made by hand often hold the same series twice, once in a folder of its own.
    """
    files = sorted((path.name, sha256_of(path)) for path in source.files)
    named_after_folders = {"series", "collection"}
    place = {k: v for k, v in source.attributes.items() if k not in named_after_folders}
    identity = json.dumps([files, place], sort_keys=True)
    earlier = seen.setdefault(identity, source.label)
    return None if earlier == source.label else earlier
