"""Stream large 3D simulation datasets from object storage into training, mounts and the GPU."""

from __future__ import annotations

from importlib import metadata as _metadata

__version__ = _metadata.version("dataplane")
