"""The loader: stages with bounded queues between a dataset and the training loop.

`DataLoader` needs torch (the extra `torch`); nothing here imports it before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataplane.extras import missing_package

if TYPE_CHECKING:
    from dataplane.loader.dataloader import DataLoader
    from dataplane.loader.stats import LoaderStats

__all__ = ["DataLoader", "LoaderStats"]

_LAZY = {"DataLoader": "dataplane.loader.dataloader", "LoaderStats": "dataplane.loader.stats"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as err:
        if err.name != "torch":
            raise
        raise missing_package(f"dataplane.{name}", "torch") from None
    return getattr(module, name)
