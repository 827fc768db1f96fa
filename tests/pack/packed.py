"""Read a packed dataset without this project: tar, zip, and zarr-python. For tests."""

import tarfile
import tempfile
from pathlib import Path

import numpy as np


def read_with_zarr(folder):
    """Return {key: (attributes, {name: values}, {name: attributes})} of a dataset in a folder."""
    import zarr
    from zarr.storage import ZipStore

    found = {}
    for shard in sorted(Path(folder).glob("shard-*.tar")):
        with tempfile.TemporaryDirectory() as unpacked, tarfile.open(shard) as archive:
            archive.extractall(unpacked, filter="data")
            for path in sorted(Path(unpacked).glob("*.zarr.zip")):
                with ZipStore(path, mode="r") as store:
                    group = zarr.open_group(store, mode="r", zarr_format=3)
                    arrays = dict(_arrays(group))
                    found[path.name.removesuffix(".zarr.zip")] = (
                        dict(group.attrs),
                        {name: np.asarray(array[...]) for name, array in arrays.items()},
                        {name: dict(array.attrs) for name, array in arrays.items()},
                    )
    return found


def _arrays(group, prefix=""):
    import zarr

    for name, member in group.members():
        if isinstance(member, zarr.Array):
            yield prefix + name, member
        else:
            yield from _arrays(member, f"{prefix}{name}/")
