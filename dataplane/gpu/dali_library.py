"""DALI itself: imported at its first use, with one clear error where it is missing.

Also which device a pipeline runs on, and the names of element types. Nothing here touches a GPU but
`device_of("auto")` and the pipeline that is made afterwards, so a process of several ranks knows
its `LOCAL_RANK` before a device is opened.

Functions without state; safe from any thread.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from dataplane.errors import ConfigError, MissingPackage
from dataplane.extras import install_hint

__all__ = ["DeviceId", "dali", "dali_type", "device_of", "element_type"]

DeviceId: TypeAlias = int | Literal["auto"] | None
"""A GPU's number; None for the CPU; "auto" for that of `LOCAL_RANK`, or the CPU without a GPU."""

_TYPES = {
    "bool": "BOOL",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "float16": "FLOAT16",
    "float32": "FLOAT",
    "float64": "FLOAT64",
}


def dali(module: str = "") -> Any:
    """Return `nvidia.dali`, or a module of it: `dali("fn")`.

    Raises:
        MissingPackage: DALI is not installed, or cannot be loaded.
    """
    name = f"nvidia.dali.{module}" if module else "nvidia.dali"
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    try:
        return importlib.import_module(name)
    except ImportError as err:
        is_absent = isinstance(err, ModuleNotFoundError) and str(err.name).startswith("nvidia")
        reason = "which is not installed" if is_absent else f"which cannot be loaded: {err}"
        raise MissingPackage(
            f"dataplane's DALI pipelines need the Python package nvidia-dali, {reason}",
            hint=f"for drivers of CUDA 13 {install_hint('dali-cuda13')}; for those of CUDA 12 the "
            "extra dali-cuda12; both run on machines without a GPU as well",
        ) from (None if is_absent else err)


def dali_type(dtype: np.dtype[Any]) -> Any:
    """Return DALI's name of an element type.

    Raises:
        ConfigError: DALI has none.
    """
    if dtype.name not in _TYPES:
        raise ConfigError(
            f"DALI has no element type {dtype}", hint=f"it has {', '.join(sorted(_TYPES))}"
        )
    return getattr(dali("types"), _TYPES[dtype.name])


def element_type(name: object) -> np.dtype[Any]:
    """Return an element type that DALI has, by its name or NumPy type.

    Raises:
        ConfigError: it is none.
    """
    try:
        dtype: np.dtype[Any] | None = np.dtype(cast(Any, name))
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in _TYPES:
        raise ConfigError(
            f"{name!r} is no element type of DALI", hint=f"it has {', '.join(sorted(_TYPES))}"
        )
    return dtype.newbyteorder("=")


def device_of(device_id: DeviceId) -> int | None:
    """Return the number of the GPU that a pipeline of this process runs on; None for the CPU.

    Args:
        device_id: number of a GPU; None; or "auto": `LOCAL_RANK` where a launcher set it, else 0,
            and the CPU where torch finds no GPU.

    Raises:
        ConfigError: there is no such GPU, or several ranks on this host would share one unasked.
    """
    if device_id is None:
        return None
    if device_id != "auto":
        if type(device_id) is not int or device_id < 0:
            raise ConfigError(
                f"device_id must be the number of a GPU, None or 'auto', got {device_id!r}"
            )
        return device_id
    from torch import cuda

    count = cuda.device_count()
    if count == 0:
        return None
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None:
        if int(os.environ.get("WORLD_SIZE") or 1) > 1 and count > 1:
            raise ConfigError(
                "device_id='auto' with WORLD_SIZE but without LOCAL_RANK: all ranks would take GPU "
                "0",
                hint="start with torchrun, or give device_id=<number of this rank's GPU>",
            )
        return 0
    if count == 1:
        return 0  # a launcher may show each process its own GPU alone
    if not local_rank.isdecimal() or int(local_rank) >= count:
        raise ConfigError(
            f"LOCAL_RANK is {local_rank!r}, and this host has {count} GPUs",
            hint="start at most as many ranks per host as it has GPUs, or give device_id=",
        )
    return int(local_rank)
