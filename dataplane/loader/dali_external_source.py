"""`DaliSource`: the batches of a loader, for a DALI pipeline that a user wrote.

DALI is handed views of the batch that the loader decoded (`no_copy`). It holds on to each until the
operations that read it have run, and the source keeps as many batches besides as the pipeline may
work ahead, so memory that goes back to a pool when it dies never does so under DALI's hands, on a
GPU's copy engine either. An epoch of the pipeline is a pass of the loader: at its end DALI raises
`StopIteration`, and `reset()` begins the next one.

A source belongs to the thread that runs the pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dataplane.datasets.views import view_of
from dataplane.errors import ConfigError
from dataplane.gpu.dali_arrays import checked_names
from dataplane.gpu.dali_library import dali
from dataplane.loader.dali_batches import Fed, fed_values

__all__ = ["DaliSource", "source_of"]

_DEFAULT_DEPTH = 2
"""Batches that DALI works ahead where nothing else is said; its own default."""


class DaliSource:
    """Source of batches for `nvidia.dali.fn.external_source`, in batch mode. Made by `dali_source`.

    `outputs()` within the definition of a pipeline is all that most need. An `external_source` of
    one's own takes it as `source`, with `num_outputs=len(source.names)`, `batch=True`,
    `no_copy=True` and `cycle="raise"`.

    Attributes:
        loader: loader that makes the batches.
        names: names of the arrays, in the order in which they are handed to DALI.
    """

    def __init__(
        self, loader: Iterable[Mapping[str, Any]], arrays: Sequence[str], *, depth: int
    ) -> None:
        self.loader = loader
        self.names = tuple(arrays)
        self._depth = depth
        self._held: deque[Any] = deque(maxlen=depth + 2)
        self._states: deque[Any] = deque(maxlen=depth + 2)
        self._layouts: dict[str, str] = {}
        self._given = 0
        self._start: dict[str, Any] | None = None

    def outputs(self, *, layouts: Mapping[str, str] | None = None) -> list[Any]:
        """Add the source to the pipeline that is being defined, and return a node for each array.

        Args:
            layouts: DALI's layout of an array, by name: `{"fields/velocity": "DHWC"}`. One that
                ends in C and is one longer than the array has dimensions adds a last axis of one:
                most of DALI's operations on volumes want it.

        Raises:
            ConfigError: no pipeline is being defined, or it takes smaller batches than the loader
                makes.
            MissingPackage: DALI is not installed.
        """
        pipeline = dali("pipeline").Pipeline.current()
        if pipeline is None:
            raise ConfigError(
                "dali_source: outputs() is called where no DALI pipeline is being defined",
                hint="call it in a function with @pipeline_def, or within `with pipeline:`",
            )
        size = getattr(self.loader, "batch_size", None)
        if size is not None and size > pipeline.max_batch_size:
            raise ConfigError(
                f"dali_source: the loader makes batches of {size}, and the pipeline takes at most "
                f"{pipeline.max_batch_size}",
                hint=f"define the pipeline with batch_size={size}",
            )
        ahead = pipeline.prefetch_queue_depth
        self._keep(max(ahead.values()) if isinstance(ahead, dict) else int(ahead))
        known = checked_names(layouts or {}, self.names, "layouts")
        self._layouts = given = {name: (layouts or {})[name] for name in known}
        nodes: list[Any] = dali("fn").external_source(
            source=self,
            num_outputs=len(self.names),
            batch=True,
            no_copy=True,
            cycle="raise",
            layout=[given.get(name, "") for name in self.names],
        )
        return nodes

    def __iter__(self) -> Iterator[tuple[Fed, ...]]:
        """Begin a pass of the loader, and yield what DALI takes for each of its batches."""
        self._states.clear()
        self._given = 0
        passing = iter(self.loader)
        self._start = self._state()
        for batch in passing:
            values = tuple(
                _with_channel(fed_values(batch, name), self._layouts.get(name, ""))
                for name in self.names
            )
            self._held.append((batch, values))
            self._given += 1
            self._states.append(self._state())
            yield values

    def state_dict(self, steps: int) -> dict[str, Any]:
        """Return the state of the loader after a number of steps of this epoch.

        DALI works ahead of the training loop, so the loader's own `state_dict()` is ahead as well;
        the loop knows how many batches it got.

        Args:
            steps: batches of the present epoch that the loop got.

        Raises:
            ConfigError: DALI has not taken so many yet, or went further ahead than it said.
        """
        if steps == 0 and self._start is not None and self._given <= self._depth + 1:
            return dict(self._start)
        place = steps - 1 - (self._given - len(self._states))
        if steps < 1 or not 0 <= place < len(self._states):
            raise ConfigError(
                f"dali_source: there is no state after {steps} steps: DALI has taken {self._given} "
                f"batches of this epoch, and the states of the last {len(self._states)} are kept",
                hint="pass the number of batches that the loop got in this epoch",
            )
        return dict(self._states[place])

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        """Let the next epoch begin where a state was taken; before the pipeline runs.

        Raises:
            ConfigError: as the loader's own.
        """
        self.loader.load_state_dict(state_dict)  # type: ignore[attr-defined]  # says so if not

    def _keep(self, depth: int) -> None:
        if depth > self._depth:
            self._depth = depth
            self._held = deque(self._held, maxlen=depth + 2)
            self._states = deque(self._states, maxlen=depth + 2)

    def _state(self) -> dict[str, Any]:
        state = getattr(self.loader, "state_dict", None)
        return {} if state is None else dict(state())


def source_of(loader: Any, arrays: Sequence[str] | None, depth: int | None) -> DaliSource:
    """Make a source of a loader; see `dali_source`."""
    if isinstance(loader, (str, bytes)) or not isinstance(loader, Iterable):
        raise ConfigError(
            f"dali_source takes a DataLoader, got a value of type {type(loader).__name__}"
        )
    if getattr(loader, "ragged_as", "offsets") != "offsets":
        raise ConfigError(
            "dali_source takes the samples of ragged arrays apart, by their offsets",
            hint="give it a loader without ragged_as",
        )
    known = _known_arrays(loader)
    if arrays is None:
        if known is None:
            raise ConfigError(
                "dali_source: the arrays of this loader's batches are not known beforehand",
                hint='name them: dali_source(loader, arrays=["fields/velocity"])',
            )
        arrays = known
    elif isinstance(arrays, str):
        raise ConfigError(f"arrays={arrays!r} is one string", hint=f"write arrays=[{arrays!r}]")
    elif known is not None:
        arrays = checked_names(arrays, known, "arrays")
    if not arrays:
        raise ConfigError("dali_source: arrays is empty: nothing would be fed")
    if getattr(loader, "batch_size", 1) is None and getattr(loader, "batch_sampler", None) is None:
        raise ConfigError(
            "dali_source: the loader yields single samples", hint="give it a batch_size"
        )
    if depth is not None and (type(depth) is not int or depth < 1):
        raise ConfigError(f"dali_source: depth must be a whole number above 0, got {depth!r}")
    return DaliSource(loader, arrays, depth=depth or _DEFAULT_DEPTH)


def _with_channel(values: Fed, layout: str) -> Fed:
    """Return an array with a last axis of one where its layout has one more: a view."""
    if not layout.endswith("C"):
        return values
    if isinstance(values, list):
        return [part[..., None] if part.ndim == len(layout) - 1 else part for part in values]
    return values[..., None] if values.ndim == len(layout) else values


def _known_arrays(loader: Any) -> tuple[str, ...] | None:
    """Return the arrays of a loader's batches, where its dataset says them."""
    view = view_of(getattr(loader, "dataset", None))
    if view is None or any(dataset.transform is not None for dataset in view.datasets):
        return None
    return tuple(layout.name for layout in view.layouts)
