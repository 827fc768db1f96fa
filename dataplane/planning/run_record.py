"""Records of finished runs: what the loader and the counters said after each epoch, as JSON.

    {"format": "dataplane-run", "version": 1,
     "before": dp.stats(), "epochs": [{"loader": loader.stats(), "stats": dp.stats()}, …]}

Counters go on through the process; `before` is what they were when the record was begun. Whoever
keeps other records may write the same from these two calls. Belongs to one thread.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dataplane.errors import ConfigError, NotFound
from dataplane.metrics import stats

__all__ = ["RunRecord"]

_FORMAT, _VERSION = "dataplane-run", 1
_LOADER_FIGURES = ("batches", "decoded_bytes", "read_bytes", "wait_s", "elapsed_s")
_COUNTERS = ("store_get_bytes", "store_get_requests", "store_hedges")


class _Statistics(Protocol):
    def as_dict(self) -> dict[str, object]: ...


class _Loader(Protocol):
    def stats(self) -> _Statistics: ...


class RunRecord:
    """Record of the epochs of one process; make it before the dataset is opened.

    Attributes:
        before: counters when it was made.
        epochs: what was recorded of each epoch, `loader` and `stats`.

    Example:
        >>> import dataplane as dp
        >>> record = dp.RunRecord()
        >>> # after each epoch: record.add(loader); at the end: record.save("run.json")
    """

    def __init__(self) -> None:
        self.before: Mapping[str, float] = stats()
        self.epochs: list[Mapping[str, Mapping[str, Any]]] = []

    def __len__(self) -> int:
        return len(self.epochs)

    def add(self, loader: _Loader) -> None:
        """Record the pass of a loader that has just ended.

        Raises:
            ConfigError: the loader has no statistics.
        """
        if not callable(getattr(loader, "stats", None)):
            kind = type(loader)
            raise ConfigError(
                f"a {kind.__module__}.{kind.__qualname__} has no statistics to record",
                hint="give the dataplane.DataLoader whose pass has just ended",
            )
        self.epochs.append({"loader": loader.stats().as_dict(), "stats": stats()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a file, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "before": self.before,
            "epochs": self.epochs,
        }
        target = Path(path)
        half = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            half.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            half.replace(target)
        finally:
            half.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunRecord:
        """Read a record.

        Raises:
            NotFound: there is no such file.
            ConfigError: it is no record, or of another version.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(f"there is no record {os.fspath(path)!r}") from None
        except (ValueError, RecursionError) as err:
            raise ConfigError(f"{os.fspath(path)!r} is no record of a run: {err}") from err
        record = cls.__new__(cls)
        record.before, record.epochs = _checked(document, os.fspath(path))
        return record

    def counter(self, name: str, epochs: int) -> float:
        """Return what a counter has grown by from the record's beginning to the end of an epoch.

        Args:
            name: counter.
            epochs: number of epochs, at least 1.
        """
        return float(self.epochs[epochs - 1]["stats"].get(name, 0.0)) - float(
            self.before.get(name, 0.0)
        )


def _checked(
    document: Any, path: str
) -> tuple[Mapping[str, float], list[Mapping[str, Mapping[str, Any]]]]:
    """Return the parts of a document that is a record.

    Raises:
        ConfigError: it is none.
    """
    hint = "write it with dataplane.RunRecord; docs/planning.md shows the format"
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ConfigError(f"{path!r} is no record of a run", hint=hint)
    if document.get("version") != _VERSION:
        raise ConfigError(
            f"{path!r} is a record of version {document.get('version')!r}, not {_VERSION}",
            hint=hint,
        )
    before, epochs = document.get("before", {}), document.get("epochs")
    if not isinstance(epochs, list) or not epochs:
        raise ConfigError(f"{path!r} has no epochs", hint=hint)
    if not _is_figures(before):
        raise ConfigError(f"{path!r}: `before` is not counters by name", hint=hint)
    counted = before
    for number, epoch in enumerate(epochs):
        loader = epoch.get("loader") if isinstance(epoch, dict) else None
        if not _is_loader(loader) or not _is_figures(epoch.get("stats")):
            raise ConfigError(
                f"{path!r}: epoch {number} is not what loader.stats() and dataplane.stats() give",
                hint=hint,
            )
        for name in _COUNTERS:
            was, now = counted.get(name, 0), epoch["stats"].get(name, 0)
            if now < was:
                raise ConfigError(
                    f"{path!r}: the counter {name} falls from {was} to {now} in epoch {number}",
                    hint="a record is of one process, and its epochs are in order",
                )
        counted = epoch["stats"]
    return before, epochs


def _is_loader(value: object) -> bool:
    """Whether a value has the figures of a loader; it has no first batch in an empty pass."""
    if not isinstance(value, dict) or "first_batch_s" not in value:
        return False
    figures = {name: value.get(name) for name in _LOADER_FIGURES}
    first_batch_s = value["first_batch_s"]
    return _is_figures(figures | ({} if first_batch_s is None else {"first": first_batch_s}))


def _is_figures(value: object) -> bool:
    """Whether a value is numbers by name, finite and not negative."""
    return isinstance(value, dict) and all(
        isinstance(number, (int, float))
        and not isinstance(number, bool)
        and 0 <= number <= sys.float_info.max
        for number in value.values()
    )
