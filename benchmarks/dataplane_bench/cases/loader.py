"""The loader case: epochs through our DataLoader and five others, cold, from a cloud, and warm.

A dataset per case of `loader_table` is generated and stored in every form (`loader_forms`) in an
embedded S3 endpoint that runs in a process of its own. Ours reads it packed with a codec and
packed raw; LitData, MosaicML Streaming, webdataset, zarr-python and tensorstore read theirs, each
with the settings that it is fastest with (`loader_systems`).

- *cold*: nothing local, the endpoint answers as fast as loopback allows.
- *cloud*: the same, but an answer begins after 30 ms on average and a connection has 90 MB/s.
- *warm*: ours from the filled SSD cache, the rivals from full local copies, read in place: the best
  that a cache could do for them. All files are in the page cache.

The ceiling is raw ranged GETs of the packed bytes by our client, not decoded; warm, one memcpy of
every decoded byte. Ratios compare samples per second. "From store" counts bytes that the endpoint
sent during the run. With `steps_ms`, a training step is emulated after every batch
(`training_step`), and `au` adds the shape of MLPerf Storage's unet3d and figures of utilisation.

Small samples of many arrays are a part of their own (`loader_small`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import TypeAlias

from dataplane.errors import ConfigError, DataplaneError
from dataplane.shards import CodecName, WriteOptions
from dataplane.shards.scratch import ScratchFolder
from dataplane_bench.cases.loader_forms import FORM_OF, Stored, store_forms
from dataplane_bench.cases.loader_small import run_small
from dataplane_bench.cases.loader_systems import (
    RIVALS,
    Contender,
    OurLoader,
    OurRawLoader,
    ceiling_of,
    start_ours,
    start_rival,
)
from dataplane_bench.cases.loader_table import CASES, UTILISATION_CASE, LoaderCase, case_named
from dataplane_bench.cases.loader_utilisation import scaled_step, utilisation_figures
from dataplane_bench.model import Case, Cost, LeftOut, Measured, Row, System, summarise
from dataplane_bench.rivals.loaders import LoaderInput
from dataplane_bench.rounds import run_rounds
from dataplane_testing.s3 import S3Endpoint
from dataplane_testing.s3.faults import Faults

__all__ = ["CLOUD", "STATES", "LoaderOptions", "case_of", "run"]

_BUCKET = "bench"
STATES = ("cold", "cloud", "warm")
CLOUD = Faults(first_byte_s=0.030, bandwidth_bytes_per_s=90e6)
"""The emulated cloud: mean time to the first byte of an answer, and bandwidth of a connection."""
_STATE_TITLES = {
    "cold": "cold",
    "cloud": "cold, from a cloud of 30 ms and 90 MB/s a connection",
    "warm": "warm",
}
Progress: TypeAlias = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class LoaderOptions:
    """Options of the loader case.

    Attributes:
        total_bytes: decoded size of each dataset, about; at least four batches.
        cases: names of cases; those of `loader_table.CASES` by default.
        states: states of the cache and the network: some of `STATES`.
        rivals: names of loaders that are not ours.
        codec: codec of compressed forms: lz4 or zstd.
        batch_size: samples per batch; that of each case by default.
        threads: numbers of our decode threads; those of `workers` by default.
        workers: numbers of worker processes of the rivals; every one is a row of its own.
        steps_ms: lengths of the emulated training step; 0 is none.
        au: whether to measure utilisation in the shape of MLPerf Storage's unet3d as well.
        rounds: counted rounds per state; one more warms up.
        seed: seed of the data and of the order of systems.
        parts: `large` (the cases), `small` or both; see `loader_small.py` for small samples.
        small_samples: number of them.
        tiny: whether samples are tiny, for smoke runs.

    Raises:
        ConfigError: an unknown state or rival.
    """

    total_bytes: int = 1 << 30
    cases: tuple[str, ...] = tuple(case.name for case in CASES)
    states: tuple[str, ...] = STATES
    rivals: tuple[str, ...] = tuple(RIVALS)
    codec: CodecName = "lz4"
    batch_size: int | None = None
    threads: tuple[int, ...] = ()
    workers: tuple[int, ...] = (0, 2)
    steps_ms: tuple[float, ...] = (0.0, 10.0)
    au: bool = False
    rounds: int = 5
    seed: int = 0
    parts: tuple[str, ...] = ("large", "small")
    small_samples: int = 8192
    tiny: bool = False

    def __post_init__(self) -> None:
        for what, named, known in (
            ("state", self.states, STATES),
            ("rival", self.rivals, tuple(RIVALS)),
        ):
            unknown = [one for one in named if one not in known]
            if unknown:
                raise ConfigError(f"no {what} {unknown[0]!r}", hint=f"there are {', '.join(known)}")

    @property
    def our_threads(self) -> tuple[int, ...]:
        """Numbers of our decode threads."""
        return self.threads or self.workers

    def chosen_cases(self) -> list[LoaderCase]:
        """Return the cases to measure, in order, that of utilisation last if it is asked for.

        Raises:
            ConfigError: an unknown case.
        """
        chosen = [case_named(name) for name in dict.fromkeys(self.cases)]
        if self.au and UTILISATION_CASE not in chosen:
            chosen.append(UTILISATION_CASE)
        return [case.shrunk() for case in chosen] if self.tiny else chosen


def run(options: LoaderOptions, progress: Progress) -> Measured:
    """Generate, store, stream; return the rows of all cases and parts, in all states."""
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    notes: list[str] = []
    if "large" in options.parts:
        for case in options.chosen_cases():
            reason = case.lacks()
            if reason is not None:
                left_out.append(LeftOut(case.name, reason))
                continue
            found = _run_case(case, options, progress)
            rows += found.rows
            left_out += found.left_out
            notes += found.notes
    figures = utilisation_figures(rows) if options.au else []
    if "small" in options.parts:
        rows += run_small(
            options.small_samples,
            threads=min(max(options.our_threads), 2),
            rounds=options.rounds,
            seed=options.seed,
            progress=progress,
        )
    first_reasons = {one.system: one for one in reversed(left_out)}
    return Measured(rows, figures, list(reversed(first_reasons.values())), notes)


def case_of(
    case: LoaderCase, options: LoaderOptions, *, samples: int, state: str, step_ms: float
) -> Case:
    """Return the common fields of all systems of one comparison."""
    title = _STATE_TITLES[state]
    return Case(
        "loader",
        case.title(samples),
        codec=f"blosc-{options.codec}",
        chunk_bytes=WriteOptions(codec=options.codec).chunk_bytes,
        selection=case.selection,
        state=f"{title}, step of {step_ms:g} ms" if step_ms else title,
        step_ms=step_ms,
    )


def _run_case(case: LoaderCase, options: LoaderOptions, progress: Progress) -> Measured:
    """Measure one case in all states."""
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    notes: list[str] = []
    with (
        # What a killed run leaves is removed by the next one.
        closing(ScratchFolder()) as scratch,
        S3Endpoint(root=scratch.path / "s3", buckets=(_BUCKET,)) as endpoint,
        endpoint.exported(),
    ):
        stored = store_forms(
            scratch.path,
            case,
            case.samples_in(options.total_bytes),
            codec=options.codec,
            seed=options.seed,
            batch_size=options.batch_size or case.batch_size,
            endpoint=endpoint,
            bucket=_BUCKET,
            forms=list(dict.fromkeys(FORM_OF[rival] for rival in options.rivals)),
            progress=progress,
        )
        steps_ms: tuple[float, ...] = options.steps_ms
        if options.au and case.name == UTILISATION_CASE.name:
            progress(f"{case.name}: how long a batch takes to load here")
            warm = dataclasses.replace(stored.given, cold=False)
            step_ms, note = scaled_step(warm, max(options.our_threads), case)
            steps_ms = tuple(dict.fromkeys((*steps_ms, step_ms)))
            notes.append(note)
        for state in options.states:
            endpoint.set_faults(CLOUD if state == "cloud" else None)
            comparison = _Comparison(case, state, options, endpoint, steps_ms, progress)
            rows += comparison.rows(stored, left_out)
    return Measured(rows, (), left_out, notes)


@dataclasses.dataclass(frozen=True, slots=True)
class _Comparison:
    """All systems on one case in one state, at every length of the step."""

    case: LoaderCase
    state: str
    options: LoaderOptions
    endpoint: S3Endpoint
    steps_ms: Sequence[float]
    progress: Progress

    def rows(self, stored: Stored, left_out: list[LeftOut]) -> list[Row]:
        """Run the rounds; return the rows, step by step, and add who is left out."""
        given = dataclasses.replace(stored.given, cold=self.state != "warm")
        started: list[Contender] = []
        try:
            self._start(given, stored, started, left_out)
        except BaseException:
            for contender in started:
                with suppress(DataplaneError, OSError):
                    contender.close()
            raise
        alive, costs = run_rounds(
            started,
            rounds=self.options.rounds,
            warmup=1,
            seed=self.options.seed,
            progress=self._tell,
            left_out=left_out,
        )
        return self._summarised(given, alive, costs)

    def _start(
        self,
        given: LoaderInput,
        stored: Stored,
        started: list[Contender],
        left_out: list[LeftOut],
    ) -> None:
        steps_s = [step_ms / 1e3 for step_ms in self.steps_ms]
        for threads in self.options.our_threads:
            for kind in (OurLoader, OurRawLoader):
                self._tell(f"starting {kind.name}")
                ours, named = start_ours(kind, given, threads)
                started += [Contender(ours, step_s, self.endpoint, named) for step_s in steps_s]
        for name in self.options.rivals:
            unreadable = stored.left_out(name)
            if unreadable is not None:
                left_out.append(unreadable)
                continue
            for workers in self.options.workers:
                found = start_rival(name, given, workers, self._tell, choose=not self.options.tiny)
                if isinstance(found, LeftOut):
                    left_out.append(found)
                    continue
                started += [
                    Contender(found[0], step_s, self.endpoint, found[1]) for step_s in steps_s
                ]
        if 0.0 in steps_s:
            started.append(Contender(ceiling_of(given), 0.0, self.endpoint))

    def _summarised(
        self, given: LoaderInput, alive: Sequence[System], costs: Sequence[Sequence[Cost]]
    ) -> list[Row]:
        rows: list[Row] = []
        pairs = [
            (one, runs)
            for one, runs in zip(alive, costs, strict=True)
            if isinstance(one, Contender)
        ]
        for step_ms in self.steps_ms:
            of_step = [(one, runs) for one, runs in pairs if one.step_s == step_ms / 1e3]
            rows += summarise(
                case_of(
                    self.case,
                    self.options,
                    samples=given.samples,
                    state=self.state,
                    step_ms=step_ms,
                ),
                [one for one, _ in of_step],
                [runs for _, runs in of_step],
                ceiling="ceiling:raw-get" if given.cold else "ceiling:memcpy",
                settings=[one.settings for one, _ in of_step],
            )
        return rows

    def _tell(self, text: str) -> None:
        self.progress(f"{self.case.name}, {self.state}: {text}")
