"""Stream large 3D simulation datasets from object storage into training, mounts and the GPU.

The names below are the public interface. They are imported at their first use, so that `import
dataplane` costs milliseconds and torch (the extra `torch`) is needed only by what needs it:
`DataLoader`, and the tensors of a `Dataset`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from dataplane.cache import CacheConfig, CacheWarning
    from dataplane.datasets import (
        ArrayForm,
        Dataset,
        Permutation,
        Selection,
        collate,
        crop,
        mix,
        permutation,
        points,
        rows,
        steps,
        stitch,
        to_pyg,
        whole,
    )
    from dataplane.errors import (
        BucketNotFound,
        CacheError,
        ChecksumMismatch,
        ConfigError,
        Corrupt,
        DataplaneError,
        DecodeError,
        Denied,
        FormatError,
        LoaderError,
        MissingArray,
        MissingPackage,
        MountError,
        NoSpace,
        NotFound,
        ObjectChanged,
        StoreError,
        Throttled,
        Timeout,
        TooLarge,
        Truncated,
        Unavailable,
    )
    from dataplane.gpu import dali_ops
    from dataplane.loader import DataLoader
    from dataplane.loader.dali import dali_pipeline, dali_source
    from dataplane.metrics import stats
    from dataplane.planning.run_record import RunRecord
    from dataplane.prometheus import serve_metrics
    from dataplane.stores import StoreConfig

__all__ = [
    "ArrayForm",
    "BucketNotFound",
    "CacheConfig",
    "CacheError",
    "CacheWarning",
    "ChecksumMismatch",
    "ConfigError",
    "Corrupt",
    "DataLoader",
    "DataplaneError",
    "Dataset",
    "DecodeError",
    "Denied",
    "FormatError",
    "LoaderError",
    "MissingArray",
    "MissingPackage",
    "MountError",
    "NoSpace",
    "NotFound",
    "ObjectChanged",
    "Permutation",
    "RunRecord",
    "Selection",
    "StoreConfig",
    "StoreError",
    "Throttled",
    "Timeout",
    "TooLarge",
    "Truncated",
    "Unavailable",
    "__version__",
    "collate",
    "crop",
    "dali_ops",
    "dali_pipeline",
    "dali_source",
    "mix",
    "permutation",
    "points",
    "rows",
    "serve_metrics",
    "stats",
    "steps",
    "stitch",
    "to_pyg",
    "whole",
]

_MODULES = {
    "dataplane.cache": ("CacheConfig", "CacheWarning"),
    "dataplane.datasets": (
        "ArrayForm",
        "Dataset",
        "Permutation",
        "Selection",
        "collate",
        "crop",
        "mix",
        "permutation",
        "points",
        "rows",
        "steps",
        "stitch",
        "to_pyg",
        "whole",
    ),
    "dataplane.errors": (
        "BucketNotFound",
        "CacheError",
        "ChecksumMismatch",
        "ConfigError",
        "Corrupt",
        "DataplaneError",
        "DecodeError",
        "Denied",
        "FormatError",
        "LoaderError",
        "MissingArray",
        "MissingPackage",
        "MountError",
        "NoSpace",
        "NotFound",
        "ObjectChanged",
        "StoreError",
        "Throttled",
        "Timeout",
        "TooLarge",
        "Truncated",
        "Unavailable",
    ),
    "dataplane.loader": ("DataLoader", "dali_ops", "dali_pipeline", "dali_source"),
    "dataplane.metrics": ("stats",),
    "dataplane.planning.run_record": ("RunRecord",),
    "dataplane.prometheus": ("serve_metrics",),
    "dataplane.stores": ("StoreConfig",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from dataplane.distribution import version

        value = version()
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
