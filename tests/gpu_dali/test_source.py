"""`dp.dali_source`: a loader's batches in a pipeline of the user's own, without a copy."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data

import dataplane as dp
from tests.datasets.packed import Packed
from tests.gpu_dali.cases import SAMPLES, mesh, packed, volumes

dali = pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")
fn = pytest.importorskip("nvidia.dali.fn")

DENSITY, VELOCITY = "fields/density", "fields/velocity"


def loader(data: Packed, *names: str, **options: Any) -> dp.DataLoader[Any]:
    given = {"batch_size": 2, "shuffle": True, "seed": 4, **options}
    return dp.DataLoader(dp.Dataset(data.url, arrays=list(names), cache=False), **given)


def user_pipeline(source: Any, define: Any, *, batch_size: int = 2, **layouts: str) -> Any:
    """A pipeline as a user writes it; `define` gets the source's nodes and returns the outputs."""
    made = dali.Pipeline(batch_size=batch_size, num_threads=1, device_id=None)
    with made:
        outputs = define(
            *source.outputs(layouts={n.replace("__", "/"): v for n, v in layouts.items()})
        )
        made.set_outputs(*(outputs if isinstance(outputs, tuple) else (outputs,)))
    return made


def passed(pipeline: Any) -> list[list[list[np.ndarray]]]:
    """Batches of an epoch: outputs, samples."""
    batches = []
    while True:
        try:
            outputs = pipeline.run()
        except StopIteration:
            pipeline.reset()
            return batches
        batches.append([[np.array(sample) for sample in output] for output in outputs])


def test_a_pipeline_of_the_user_s_gets_every_epoch_and_the_ragged_last_batch(
    volume_data: Packed,
) -> None:
    wanted = loader(volume_data, DENSITY, VELOCITY)
    source = dp.dali_source(loader(volume_data, DENSITY, VELOCITY))
    assert source.names == (DENSITY, VELOCITY)
    made = user_pipeline(
        source,
        lambda density, velocity: (fn.flip(density, horizontal=1), velocity),
        fields__density="DHWC",
        fields__velocity="DHWC",
    )
    for _ in range(3):
        batches = passed(made)
        plain = list(wanted)
        assert [len(batch[0]) for batch in batches] == [2, 2, 2, 1]
        for batch, want in zip(batches, plain, strict=True):
            for n in range(len(want["__key__"])):
                assert np.array_equal(batch[0][n][..., 0], want[DENSITY][n].numpy()[:, :, ::-1])
                assert np.array_equal(batch[1][n], want[VELOCITY][n].numpy())


def test_meshes_of_different_sizes_are_fed_sample_by_sample(mesh_data: Packed) -> None:
    names = ("points", "point_data/pressure")
    source = dp.dali_source(loader(mesh_data, *names))
    batches = passed(user_pipeline(source, lambda points, pressure: (points * 2.0, pressure)))
    wanted = list(loader(mesh_data, *names))
    for batch, want in zip(batches, wanted, strict=True):
        offsets = want["points.offsets"].tolist()
        for n, (start, stop) in enumerate(itertools.pairwise(offsets)):
            assert np.array_equal(batch[0][n], want["points"][start:stop].numpy() * 2)
            assert np.array_equal(batch[1][n], want["point_data/pressure"][start:stop].numpy())


def test_volumes_of_different_sizes_are_fed_as_a_list(tmp_path: Path) -> None:
    data = packed(tmp_path, [volumes(n, (4 + n, 5, 6 - n)) for n in range(3)])
    source = dp.dali_source(loader(data, DENSITY, shuffle=False, batch_size=3))
    made = user_pipeline(source, lambda density: density, batch_size=3, fields__density="DHWC")
    (batch,) = passed(made)
    for n, density in enumerate(batch[0]):
        assert np.array_equal(density[..., 0], data.values(f"case-{n}")[DENSITY])


def test_dali_reads_the_very_memory_of_the_batch(volume_data: Packed) -> None:
    seen: list[int] = []
    given: list[int] = []

    class Watched(torch.utils.data.DataLoader[Any]):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                given.extend(row.data_ptr() for row in batch[DENSITY])
                yield batch

    whole = dp.Dataset(volume_data.url, arrays=[DENSITY], cache=False)
    source = dp.dali_source(Watched(whole, batch_size=2, collate_fn=dp.collate), [DENSITY])

    def look(values: Any) -> Any:
        seen.append(values.ctypes.data)
        return values

    passed(user_pipeline(source, lambda density: fn.python_function(density, function=look)))
    assert seen == given
    assert len(seen) == SAMPLES


class Reused:
    """A loader whose memory is written over as soon as nothing refers to it any more.

    It stands for the pool that a loader's batches lie in, at its worst: what is given back is
    reused at once.
    """

    batch_size = 2

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.gone: list[int] = []
        self._slabs: list[np.ndarray] = []

    def __iter__(self) -> Any:
        for number in range(self.batches):
            slab = np.empty(2 * 64**3, np.float32)
            self._slabs.append(slab)
            lease = np.ndarray((2, 64, 64, 64), np.float32, buffer=memoryview(slab))
            lease[:] = number
            weakref.finalize(lease, self._write_over, number, slab)
            batch = {"a": torch.from_numpy(lease)}
            del lease
            yield batch
            del batch

    def _write_over(self, number: int, slab: np.ndarray) -> None:
        self.gone.append(number)
        slab[:] = -1


def slow(values: Any) -> Any:
    time.sleep(0.02)  # an operation that is still at work while the next batches are made
    return values


def test_memory_is_not_reused_while_dali_works_with_it() -> None:
    reused = Reused(8)
    source = dp.dali_source(reused, ["a"])
    made = user_pipeline(source, lambda a: fn.python_function(a, function=slow) * 1.0)
    batches = passed(made)
    assert [sorted({*map(float, np.unique(batch[0]))}) for batch in batches] == [
        [float(number)] for number in range(8)
    ]
    assert {0, 1, 2} <= {*reused.gone}  # but it is given back


def test_memory_outlives_a_reader_that_keeps_no_reference() -> None:
    """A copy engine keeps none: batches stay as long as a pipeline may still be reading them."""
    reused = Reused(9)
    source = dp.dali_source(reused, ["a"], depth=3)
    addresses: list[int] = []
    for number, (values,) in enumerate(source):
        addresses.append(values.ctypes.data)
        del values
        assert sorted(reused.gone) == list(range(max(0, number - 4)))


def test_a_source_keeps_as_many_batches_as_its_pipeline_is_ahead() -> None:
    reused = Reused(9)
    source = dp.dali_source(reused, ["a"])
    made = dali.Pipeline(batch_size=2, num_threads=1, device_id=None, prefetch_queue_depth=4)
    with made:
        made.set_outputs(*source.outputs())
    for number, _ in enumerate(source):
        assert sorted(reused.gone) == list(range(max(0, number - 5)))


def test_the_state_is_that_of_the_steps_that_the_loop_took(volume_data: Packed) -> None:
    reading = loader(volume_data, DENSITY)
    source = dp.dali_source(reading)
    made = user_pipeline(source, lambda density: density)
    wanted = passed(made)
    second = passed(made)
    assert not np.array_equal(wanted[0][0][0], second[0][0][0])

    stopped = dp.dali_source(loader(volume_data, DENSITY))
    running = user_pipeline(stopped, lambda density: density)
    for _ in range(2):
        running.run()
    assert stopped.state_dict(2)["samples_consumed"] == 4
    assert stopped.state_dict(1)["samples_consumed"] == 2
    with pytest.raises(dp.ConfigError, match="no state after 9 steps"):
        stopped.state_dict(9)
    resumed = dp.dali_source(loader(volume_data, DENSITY))
    resumed.load_state_dict(stopped.state_dict(2))
    rest = passed(user_pipeline(resumed, lambda density: density))
    assert [len(batch[0]) for batch in rest] == [2, 1]
    for batch, want in zip(rest, wanted[2:], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(batch[0], want[0], strict=True))


def test_it_feeds_dali_s_iterators_for_torch(volume_data: Packed) -> None:
    plugin = pytest.importorskip("nvidia.dali.plugin.pytorch")
    source = dp.dali_source(loader(volume_data, DENSITY, VELOCITY))
    made = user_pipeline(source, lambda density, velocity: (density, velocity))
    batches = plugin.DALIGenericIterator(made, ["density", "velocity"], auto_reset=True)
    wanted = loader(volume_data, DENSITY, VELOCITY)
    for _ in range(2):
        for (batch,), want in zip(batches, wanted, strict=True):
            assert torch.equal(batch["density"], want[DENSITY])
            assert torch.equal(batch["velocity"], want[VELOCITY])


def test_a_pipeline_definition_of_dali_s_takes_it(mesh_data: Packed) -> None:
    source = dp.dali_source(loader(mesh_data, "point_data/pressure"))

    @dali.pipeline_def(batch_size=2, num_threads=1, device_id=None)
    def doubled() -> Any:
        (pressure,) = source.outputs()
        return pressure + pressure

    batches = passed(doubled())
    assert sum(len(batch[0]) for batch in batches) == SAMPLES
    total = sum(float(sample.sum()) for batch in batches for sample in batch[0])
    stored = sum(float(mesh(n)["point_data/pressure"].sum()) for n in range(SAMPLES))
    assert total == pytest.approx(2 * stored, rel=1e-5)


def test_an_external_source_of_one_s_own_takes_it(volume_data: Packed) -> None:
    source = dp.dali_source(loader(volume_data, DENSITY))
    made = dali.Pipeline(batch_size=2, num_threads=1, device_id=None)
    with made:
        nodes = fn.external_source(
            source=source, num_outputs=1, batch=True, no_copy=True, cycle="raise"
        )
        made.set_outputs(*nodes)
    assert [len(batch[0]) for batch in passed(made)] == [2, 2, 2, 1]
    assert [len(batch[0]) for batch in passed(made)] == [2, 2, 2, 1]


def test_dali_s_dynamic_mode_takes_its_arrays_without_a_copy(volume_data: Packed) -> None:
    ndd = pytest.importorskip("nvidia.dali.experimental.dynamic")
    for batch, (values,) in zip(
        loader(volume_data, DENSITY), dp.dali_source(loader(volume_data, DENSITY)), strict=True
    ):
        for n, density in enumerate(values):
            tensor = ndd.as_tensor(density[..., None], layout="DHWC")
            assert np.asarray(tensor).ctypes.data == density.ctypes.data
            flipped = np.asarray(ndd.flip(tensor, horizontal=1))
            assert np.array_equal(flipped[..., 0], batch[DENSITY][n].numpy()[:, :, ::-1])


def test_an_error_of_the_loader_is_raised_by_the_pipeline() -> None:
    class Broken:
        batch_size = 2

        def __iter__(self) -> Any:
            yield {"a": torch.zeros(2, 3)}
            raise dp.DecodeError("sample 'case-9' cannot be read")

    made = user_pipeline(dp.dali_source(Broken(), ["a"]), lambda a: a)
    with pytest.raises(dp.DecodeError, match="case-9"):
        made.run()


def test_what_cannot_be_fed_is_refused_with_what_to_do(volume_data: Packed) -> None:
    with pytest.raises(dp.ConfigError, match="takes a DataLoader, got a value of type int"):
        dp.dali_source(3)
    with pytest.raises(dp.ConfigError, match=r"no array 'density'.*did you mean 'fields/density'"):
        dp.dali_source(loader(volume_data, DENSITY), ["density"])
    with pytest.raises(dp.ConfigError, match="is one string"):
        dp.dali_source(loader(volume_data, DENSITY), DENSITY)
    with pytest.raises(dp.ConfigError, match="not known beforehand"):
        dp.dali_source(torch.utils.data.DataLoader([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(dp.ConfigError, match="single samples"):
        dp.dali_source(loader(volume_data, DENSITY, batch_size=None))
    with pytest.raises(dp.ConfigError, match="depth must be"):
        dp.dali_source(loader(volume_data, DENSITY), depth=0)
    source = dp.dali_source(loader(volume_data, DENSITY, batch_size=5))
    with pytest.raises(dp.ConfigError, match="no DALI pipeline is being defined"):
        source.outputs()
    with pytest.raises(dp.ConfigError, match="batches of 5, and the pipeline takes at most 2"):
        user_pipeline(source, lambda density: density)
    source = dp.dali_source(loader(volume_data, DENSITY))
    with pytest.raises(dp.ConfigError, match="layouts: there is no array 'density'"):
        user_pipeline(source, lambda density: density, density="DHW")
    lacking = dp.dali_source([{"a": torch.zeros(2)}], ["b"])
    with pytest.raises(dp.LoaderError, match="the batch has no array 'b': it has 'a'"):
        next(iter(lacking))
    odd = dp.dali_source([{"a": ["text"]}], ["a"])
    with pytest.raises(dp.LoaderError, match="value of type str"):
        next(iter(odd))


def test_feeding_takes_place_in_the_thread_that_runs_the_pipeline() -> None:
    threads = set()

    class Watching:
        batch_size = 2

        def __iter__(self) -> Any:
            for _ in range(3):
                threads.add(threading.current_thread())
                yield {"a": torch.zeros(2, 3)}

    passed(user_pipeline(dp.dali_source(Watching(), ["a"]), lambda a: a))
    assert threads == {threading.current_thread()}
