"""The loader: stages with bounded queues between a dataset and the training loop.

`DataLoader` needs torch (the extra `torch`); nothing here imports it before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataplane.extras import missing_package

if TYPE_CHECKING:
    from dataplane.gpu import dali_ops
    from dataplane.loader.dali import dali_pipeline, dali_source
    from dataplane.loader.dali_external_source import DaliSource
    from dataplane.loader.dali_loader import DaliPipeline
    from dataplane.loader.dataloader import DataLoader
    from dataplane.loader.stats import LoaderStats

__all__ = [
    "DaliPipeline",
    "DaliSource",
    "DataLoader",
    "LoaderStats",
    "dali_ops",
    "dali_pipeline",
    "dali_source",
]

_LAZY = {
    "DaliPipeline": "dataplane.loader.dali_loader",
    "DaliSource": "dataplane.loader.dali_external_source",
    "DataLoader": "dataplane.loader.dataloader",
    "LoaderStats": "dataplane.loader.stats",
    "dali_ops": "dataplane.loader.dali",
    "dali_pipeline": "dataplane.loader.dali",
    "dali_source": "dataplane.loader.dali",
}


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
