"""What `torch.utils.data.get_worker_info()` answers in a worker thread.

torch keeps the answer in one variable of the process, since its workers are processes, and other
modules hold the function itself. So the function's code is replaced, once and for all who hold it,
by one that first asks for the thread; in a thread that is no worker the answer stays torch's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data._utils import worker as torch_worker

__all__ = ["make_worker_info", "shown_worker_info"]


class _Local(threading.local):
    info: Any = None


_local = _Local()
_PLACE = "_dataplane_worker_info"
"""Name in torch's module under which its function finds this module's."""


def _info_of_thread() -> Any:
    return _local.info


def _get_worker_info() -> Any:
    # Runs with the names of torch's module.
    info = _dataplane_worker_info()  # type: ignore[name-defined]  # noqa: F821
    return _worker_info if info is None else info  # type: ignore[name-defined]  # noqa: F821


@contextmanager
def shown_worker_info(info: Any) -> Iterator[None]:
    """Have `get_worker_info()` answer `info` in this thread."""
    if not hasattr(torch_worker, _PLACE):
        # In whatever order threads come here, each puts the same two things in place.
        setattr(torch_worker, _PLACE, _info_of_thread)
    if torch_worker.get_worker_info.__code__ is not _get_worker_info.__code__:
        torch_worker.get_worker_info.__code__ = _get_worker_info.__code__
    before = _local.info
    _local.info = info
    try:
        yield
    finally:
        _local.info = before


def make_worker_info(**fields: Any) -> Any:
    """Return torch's description of a worker, with those of the fields that this torch knows."""
    known = getattr(torch_worker.WorkerInfo, "__dataclass_fields__", None)
    if known is not None:
        fields = {name: value for name, value in fields.items() if name in known}
    return torch_worker.WorkerInfo(**fields)
