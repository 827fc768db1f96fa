"""MosaicML Streaming's dataset over uncompressed MDS shards, in torch's DataLoader.

Cold, shards are downloaded to a folder of its own; warm, it reads local ones in place. A part of a
sample is cut from the whole.

The package imports transformers and torchvision, gigabytes that an array needs nothing of. Where
they are not installed, empty modules stand in for them while it is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch.utils.data

from dataplane_bench.rivals.loaders import Batch, LoaderInput, Settings, cut_sample

__all__ = ["MosaicLoader", "stand_ins", "write_mds"]

_STOOD_IN = ("torchvision", "transformers")
_SHARD_BYTES = 1 << 26  # its default


class MosaicLoader:
    """torch's DataLoader over a shuffled `StreamingDataset`."""

    name = "mosaicml-streaming"
    SETTINGS: ClassVar[dict[str, Settings]] = {
        "predownload as it chooses": {"predownload": None},
        "predownload of 64": {"predownload": 64},
    }

    def __init__(self, given: LoaderInput, workers: int, settings: Settings, scratch: Path) -> None:
        import streaming

        local = scratch / "mds"
        if not given.cold:
            # It refuses a folder that another process of it has open: one of links is another.
            shutil.copytree(given.local / "mds", local, copy_function=os.link)
        self._given = given
        self._rng = np.random.default_rng(given.seed)
        dataset = streaming.StreamingDataset(
            remote=given.url("mds") if given.cold else None,
            local=str(local),
            shuffle=True,
            shuffle_seed=given.seed,
            batch_size=given.batch_size,
            num_canonical_nodes=1,
            predownload=settings["predownload"],
        )
        self._loader: Any = torch.utils.data.DataLoader(
            dataset,
            batch_size=given.batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,
            collate_fn=self._batch,
        )

    @staticmethod
    def load() -> None:
        """Import MosaicML Streaming."""
        if "AWS_ENDPOINT_URL" in os.environ:
            os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        with stand_ins(_STOOD_IN):
            import streaming  # noqa: F401

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader = None

    def _batch(self, samples: Sequence[Mapping[str, Any]]) -> Any:
        cut = [
            cut_sample({name: one[name] for name in self._given.shapes}, self._given.cut, self._rng)
            for one in samples
        ]
        return torch.utils.data.default_collate(cut)


def write_mds(
    folder: Path,
    samples: Iterable[Mapping[str, npt.NDArray[np.float32]]],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Write samples as MosaicML Streaming does.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    MosaicLoader.load()
    import streaming

    columns = {
        name: f"ndarray:float32:{','.join(map(str, shape))}" for name, shape in shapes.items()
    }
    with streaming.MDSWriter(
        out=str(folder), columns=columns, size_limit=_SHARD_BYTES, progress_bar=False
    ) as writer:
        for sample in samples:
            writer.write(dict(sample))


@contextmanager
def stand_ins(packages: Sequence[str]) -> Iterator[None]:
    """Let empty modules stand in for packages that are not installed, while something is imported.

    A name that is imported from such a module is a class that nothing is an instance of.

    Args:
        packages: import names.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    finder = _EmptyModules(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
            del sys.modules[name]


class _EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A finder of modules that hold nothing."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of the packages, whatever its name."""
        del path, target
        if fullname.partition(".")[0] not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Make a module whose every public name is a class."""
        module = types.ModuleType(spec.name)

        def anything(name: str) -> type:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = anything  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: it is empty."""
