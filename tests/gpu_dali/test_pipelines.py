"""What a DALI pipeline promises beside its values: to be reproducible, resumable and in order."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data

import dataplane as dp
from dataplane import dali_ops as ops
from dataplane.loader import dali_loader
from tests.datasets.packed import Packed
from tests.gpu_dali.cases import SAMPLES, by_sample, packed, volumes

dali = pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")

OPERATIONS = [
    ops.normalise("fields/density"),
    ops.rotate90(),
    ops.flip(),
    ops.rotate(20),
    ops.zoom(z=(0.9, 1.1)),
    ops.random_crop(6),
    ops.noise((0.0, 0.2), arrays=["fields/density"]),
    ops.channel_drop(0.3, arrays=["fields/pair"]),
]
NAMES = ["fields/density", "fields/velocity", "fields/pair", "fields/label"]
Found = list[tuple[str, dict[str, Any]]]


def dataset(data: Packed, **more: Any) -> dp.Dataset:
    return dp.Dataset(data.url, arrays=NAMES, cache=False, **more)


def pipeline(of: Any, batch_size: int = 2, operations: Any = OPERATIONS, **options: Any) -> Any:
    given = {"shuffle": True, "seed": 11, "vectors": ["fields/velocity"], "threads": 1, **options}
    return dp.dali_pipeline(of, batch_size, operations, **given)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    params = zip(one["params"].values(), other["params"].values(), strict=True)
    return all(np.array_equal(one[name], other[name]) for name in NAMES) and all(
        np.array_equal(a, b) for a, b in params
    )


def assert_same(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    assert [key for key, _ in found] == [key for key, _ in wanted]
    assert all(same(one, other) for (_, one), (_, other) in zip(found, wanted, strict=True))


def samples(batches: Any) -> Found:
    return list(by_sample(batches))


@pytest.mark.parametrize(
    ("batch_size", "options"),
    [
        (1, {}),
        (3, {"num_workers": 3}),
        (7, {"num_workers": 1, "threads": 2}),
        (4, {"prefetch": 1, "num_workers": 1, "prefetch_factor": 3}),
        (2, {"prefetch": 5}),
    ],
)
def test_what_is_drawn_and_made_depends_on_nothing_but_seed_epoch_and_sample(
    volume_data: Packed, batch_size: int, options: dict[str, Any]
) -> None:
    first = pipeline(dataset(volume_data))
    other = pipeline(dataset(volume_data), batch_size, **options)
    for _ in range(2):
        assert_same(samples(other), samples(first))


def test_epochs_seeds_and_samples_differ(volume_data: Packed) -> None:
    of = dataset(volume_data)
    one = pipeline(of)
    passes = [dict(samples(one)), dict(samples(one)), dict(samples(pipeline(of, seed=12)))]
    for first, second in itertools.combinations(passes, 2):
        for key in first:
            assert not same(first[key], second[key])
    for first, second in itertools.combinations(passes[0].values(), 2):
        assert not same(first, second)


def test_a_sample_is_changed_alike_in_a_subset_and_on_another_rank(volume_data: Packed) -> None:
    whole = dict(samples(pipeline(dataset(volume_data), operations=OPERATIONS[1:])))
    part = torch.utils.data.Subset(dataset(volume_data), [5, 2, 0])
    for key, sample in samples(pipeline(part, operations=OPERATIONS[1:])):
        assert same(sample, whole[key])
    for rank in range(2):
        options = {"rank": rank, "world_size": 2, "operations": OPERATIONS[1:]}
        for key, sample in samples(pipeline(dataset(volume_data), **options)):
            assert same(sample, whole[key])


def test_an_operation_draws_the_same_whatever_stands_before_it_draws(volume_data: Packed) -> None:
    one = dict(samples(pipeline(dataset(volume_data), operations=[ops.flip(), ops.rotate90()])))
    operations = [ops.noise(0.1, arrays=["fields/density"]), ops.rotate90()]
    for key, sample in samples(pipeline(dataset(volume_data), operations=operations)):
        turn = sample["params"]["1.rotate90.turn"]
        assert np.array_equal(turn, one[key]["params"]["1.rotate90.turn"])


def test_a_shuffle_without_a_seed_draws_one_with_torch(volume_data: Packed) -> None:
    found = []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        found.append(samples(pipeline(dataset(volume_data), seed=None)))
    assert_same(found[1], found[0])
    assert [key for key, _ in found[2]] != [key for key, _ in found[0]]


def test_a_sample_that_a_sampler_gives_twice_is_changed_in_two_ways(volume_data: Packed) -> None:
    of = dataset(volume_data)
    found = samples(pipeline(of, shuffle=None, sampler=[3, 3, 3, 1]))
    assert [key for key, _ in found] == ["case-3", "case-3", "case-3", "case-1"]
    for (_, one), (_, other) in itertools.combinations(found[:3], 2):
        assert not same(one, other)
    assert_same(samples(pipeline(of, 3, shuffle=None, sampler=[3, 3, 3, 1])), found)


def test_a_sample_that_weights_draw_twice_is_changed_in_two_ways(volume_data: Packed) -> None:
    weights = [float(number in (1, 3)) for number in range(SAMPLES)]
    options = {"shuffle": None, "weights": weights, "num_samples": 7}
    found = samples(pipeline(dataset(volume_data), **options))
    assert {key for key, _ in found} == {"case-1", "case-3"}
    for (key, one), (other_key, other) in itertools.combinations(found, 2):
        assert key != other_key or not same(one, other)
    assert_same(samples(pipeline(dataset(volume_data), 3, **options)), found)
    ranks = [
        samples(pipeline(dataset(volume_data), rank=rank, world_size=2, **options))
        for rank in range(2)
    ]
    assert_same([one for turn in zip(*ranks, strict=True) for one in turn][:7], found)
    stopped = pipeline(dataset(volume_data), **options)
    seen = samples(itertools.islice(iter(stopped), 2))
    resumed = pipeline(dataset(volume_data), 3, **options)
    resumed.load_state_dict(stopped.state_dict())
    assert_same([*seen, *samples(resumed)], found)


def test_a_mix_names_its_sources_and_changes_a_sample_anew_in_each_pass(
    volume_data: Packed,
) -> None:
    of = dataset(volume_data)
    parts = [torch.utils.data.Subset(of, [3, 1]), torch.utils.data.Subset(of, [0, 2, 4, 5])]
    mixed = dp.mix(parts, [1, 1], stop=9, names=["a", "b"])
    found = samples(pipeline(mixed, shuffle=None))
    for (key, one), (other_key, other) in itertools.combinations(found, 2):
        assert key != other_key or not same(one, other)
    assert_same(samples(pipeline(mixed, 4, shuffle=None)), found)
    for batch in pipeline(mixed, 4, shuffle=None):
        sources = ["a" if key in ("case-1", "case-3") else "b" for key in batch["__key__"]]
        assert batch["__source__"] == sources


@pytest.mark.parametrize("taken", [0, 1, 2, 4])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_a_run_resumes_in_mid_epoch_with_the_same_samples_changed_alike(
    volume_data: Packed, taken: int, batch_size: int
) -> None:
    whole = pipeline(dataset(volume_data))
    wanted = [*samples(whole), *samples(whole)]
    stopped = pipeline(dataset(volume_data))
    seen = samples(itertools.islice(iter(stopped), taken))
    state = json.loads(json.dumps(stopped.state_dict()))
    assert state["samples_consumed"] == len(seen) == min(2 * taken, SAMPLES)
    resumed = pipeline(dataset(volume_data), batch_size)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert_same([*seen, *samples(resumed), *samples(resumed)], wanted)


def test_the_drawn_seed_of_a_pass_is_resumed(volume_data: Packed) -> None:
    stopped = pipeline(dataset(volume_data), seed=None)
    passing = iter(stopped)
    seen = samples(itertools.islice(passing, 2))
    state = stopped.state_dict()
    rest = samples(passing)
    resumed = pipeline(dataset(volume_data), seed=None)
    resumed.load_state_dict(state)
    assert_same(samples(resumed), rest)
    assert len(seen) + len(rest) == SAMPLES


def test_a_sampler_of_the_user_s_is_resumed(volume_data: Packed) -> None:
    options = {"shuffle": None, "sampler": [6, 0, 6, 2, 4, 2, 6]}
    wanted = samples(pipeline(dataset(volume_data), **options))
    stopped = pipeline(dataset(volume_data), **options)
    seen = samples(itertools.islice(iter(stopped), 2))
    resumed = pipeline(dataset(volume_data), **options)
    resumed.load_state_dict(stopped.state_dict())
    assert_same([*seen, *samples(resumed)], wanted)


def test_a_state_in_a_pass_may_be_loaded_into_the_same_pipeline(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data))
    passing = iter(one)
    next(passing)
    state = one.state_dict()
    rest = samples(passing)
    one.load_state_dict(state)
    assert_same(samples(one), rest)


def test_a_pass_that_is_left_is_followed_by_the_next_epoch_and_a_look_by_the_same(
    volume_data: Packed,
) -> None:
    whole = pipeline(dataset(volume_data))
    first, second = samples(whole), samples(whole)
    for prefetch in (1, 2, 6):
        left = pipeline(dataset(volume_data), prefetch=prefetch)
        assert_same(samples(itertools.islice(iter(left), 2)), first[:4])
        assert_same(samples(left), second)
        looked = pipeline(dataset(volume_data), prefetch=prefetch)
        assert_same(samples(itertools.islice(iter(looked), 1)), first[:2])
        assert_same(samples(looked), first)


def test_set_epoch_names_the_next_pass_also_after_a_look(volume_data: Packed) -> None:
    whole = pipeline(dataset(volume_data))
    passes = [samples(whole) for _ in range(3)]
    one = pipeline(dataset(volume_data))
    next(iter(one))
    one.set_epoch(2)
    assert_same(samples(one), passes[2])
    one.set_epoch(1)
    assert_same(samples(one), passes[1])


def test_a_second_pass_takes_the_place_of_the_first(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data))
    first = iter(one)
    next(first)
    second = iter(one)
    next(second)
    with pytest.raises(dp.LoaderError, match="is over: another has begun, or it was closed"):
        next(first)


def test_the_state_follows_what_the_loop_got_and_not_what_was_fetched(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data), 1, prefetch=4)
    assert one.state_dict()["samples_consumed"] == 0
    for number, _ in enumerate(one, 1):
        assert one.state_dict()["samples_consumed"] == number
        assert one.state_dict()["epoch"] == 0
    assert (one.state_dict()["epoch"], one.state_dict()["samples_consumed"]) == (1, 0)


def test_batches_stay_what_they_are_while_later_ones_are_made(volume_data: Packed) -> None:
    """Batches lie in memory of DALI's; what it makes next must not be written there."""
    kept, copies = [], []
    one = pipeline(dataset(volume_data), 1)
    for _ in range(3):
        for batch in one:
            tensors = {n: v for n, v in batch.items() if isinstance(v, torch.Tensor)}
            kept.append(tensors)
            copies.append({name: value.clone() for name, value in tensors.items()})
    assert len(kept) == 3 * SAMPLES
    for tensors, wanted in zip(kept, copies, strict=True):
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_the_last_batch_is_what_is_left_or_dropped(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data), 3)
    assert len(one) == 3
    assert [len(batch["__key__"]) for batch in one] == [3, 3, 1]
    assert [len(batch["fields/density"]) for batch in one] == [3, 3, 1]
    one = pipeline(dataset(volume_data), 3, drop_last=True)
    assert len(one) == 2
    assert [len(batch["__key__"]) for batch in one] == [3, 3]


def damaged(folder: Path, number: int) -> Packed:
    """A dataset in which one sample cannot be decoded."""
    data = packed(folder, [volumes(n) for n in range(SAMPLES)])
    entry = dp.Dataset(data.url, cache=False).index[number].arrays["fields/density"]
    path = folder / entry.shard
    content = bytearray(path.read_bytes())
    middle = int(entry.chunk_offsets[0]) + int(entry.chunk_nbytes[0]) // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    return data


def test_an_error_comes_in_the_place_of_its_batch_and_the_run_resumes_there(
    tmp_path: Path,
) -> None:
    data = damaged(tmp_path, 4)
    options = {"shuffle": False, "prefetch": 4, "operations": [ops.flip()]}
    one = pipeline(dataset(data), 1, **options)
    seen: list[str] = []
    with pytest.raises(dp.DecodeError, match="case-4"):
        seen.extend(key for batch in one for key in batch["__key__"])
    assert seen == ["case-0", "case-1", "case-2", "case-3"]
    state = one.state_dict()
    assert state["samples_consumed"] == 4
    other = pipeline(dataset(data, errors="replace"), 1, **options)
    other.load_state_dict(state)
    assert [key for batch in other for key in batch["__key__"]] == ["case-5", "case-5", "case-6"]


def test_samples_that_are_skipped_leave_smaller_batches(tmp_path: Path) -> None:
    data = damaged(tmp_path, 1)
    one = pipeline(dataset(data, errors="skip"), 3, shuffle=False, operations=[ops.flip()])
    assert [batch["__key__"] for batch in one] == [
        ["case-0", "case-2"],
        ["case-3", "case-4", "case-5"],
        ["case-6"],
    ]


def test_a_transform_runs_before_the_operations(volume_data: Packed) -> None:
    def halved(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "fields/density": sample["fields/density"] / 2}

    with_it = dataset(volume_data, transform=halved)
    for key, sample in samples(pipeline(with_it, operations=[ops.flip(probability=0)])):
        wanted = volume_data.values(key)["fields/density"] / np.float32(2)
        assert np.array_equal(sample["fields/density"], wanted)


def test_datasets_that_are_put_together_are_read_as_one(volume_data: Packed) -> None:
    both = torch.utils.data.ConcatDataset([dataset(volume_data), dataset(volume_data)])
    found = samples(pipeline(both, shuffle=False, operations=[ops.centre_crop(4)]))
    assert [key for key, _ in found] == [f"case-{n}" for n in range(SAMPLES)] * 2


def iterator(one: Any, **options: Any) -> Any:
    plugin = pytest.importorskip("nvidia.dali.plugin.pytorch")
    return plugin.DALIGenericIterator(one.pipeline, one.names, **options)


def test_dali_s_own_iterator_gives_the_same_and_the_state_follows_it(volume_data: Packed) -> None:
    reference = pipeline(dataset(volume_data))
    wanted = [list(reference), list(reference)]
    one = pipeline(dataset(volume_data))
    batches = iterator(one, auto_reset=True)
    for epoch in range(2):
        for number, ((batch,), plain) in enumerate(zip(batches, wanted[epoch], strict=True), 1):
            assert batch["fields/density"].shape[0] == len(plain["__key__"])
            for name in NAMES:
                assert torch.equal(batch[name], plain[name])
            for name, value in plain["__params__"].items():
                assert torch.equal(batch[f"__params__.{name}"], value)
            state = one.state_dict()
            assert state["epoch"] == epoch
            assert state["samples_consumed"] == min(2 * number, SAMPLES)


def test_dali_s_own_iterator_resumes(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data))
    wanted = [batch["fields/density"] for batch in one]
    stopped = pipeline(dataset(volume_data))
    batches = iterator(stopped)
    next(batches)
    next(batches)
    resumed = pipeline(dataset(volume_data))
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch["fields/density"] for (batch,) in iterator(resumed)]
    assert len(rest) == 2
    assert all(torch.equal(*pair) for pair in zip(rest, wanted[2:], strict=True))


def test_a_state_is_not_loaded_under_one_of_dali_s_iterators(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data))
    next(iterator(one))
    with pytest.raises(dp.ConfigError, match="one of DALI's iterators is at work"):
        one.load_state_dict(one.state_dict())
    with pytest.raises(dp.ConfigError, match="one of DALI's iterators is at work"):
        iter(one)


def test_a_pipeline_of_dali_s_yields_batches_in_a_plain_loop(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data), operations=[ops.flip(probability=0)])
    seen = 0
    while True:
        try:
            outputs = dict(zip(one.names, one.pipeline.run(), strict=True))
        except StopIteration:
            break
        seen += len(outputs["fields/density"])
    assert seen == SAMPLES


def test_nothing_is_left_running_when_a_pipeline_is_dropped(volume_data: Packed) -> None:

    before = {thread.name for thread in threading.enumerate()}
    one = pipeline(dataset(volume_data), num_workers=2)
    next(iter(one))
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
    assert {thread.name for thread in threading.enumerate()} <= before


def test_memory_of_batches_stays_until_dali_has_handed_them_out(
    volume_data: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where DALI itself would let go of it sooner."""
    fed: list[weakref.ref[Any]] = []
    plain = dali_loader.fed_batch

    def watched(*arguments: Any, **more: Any) -> Any:
        values, keys = plain(*arguments, **more)
        fed.append(weakref.ref(values[0]))
        return values, keys

    monkeypatch.setattr(dali_loader, "fed_batch", watched)
    one = pipeline(dataset(volume_data), 1, prefetch=3, operations=[ops.flip()])
    for number, _ in enumerate(one):
        assert len(fed) > number
        assert all(ref() is not None for ref in fed[number:])
        assert all(ref() is None for ref in fed[: max(0, number - 4)])  # but it is given back


def test_a_closed_pipeline_lets_go_of_dali_and_can_be_read_again(volume_data: Packed) -> None:
    whole = pipeline(dataset(volume_data))
    passes = [samples(whole), samples(whole)]
    one = pipeline(dataset(volume_data))
    one.close()
    assert_same(samples(itertools.islice(iter(one), 2)), passes[0][:4])
    gone = weakref.ref(one.pipeline)
    one.close()
    one.close()
    gc.collect()
    assert gone() is None
    assert_same(samples(one), passes[1])


def test_after_a_failure_within_dali_the_next_pass_has_a_new_pipeline(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data), prefetch=1)
    wanted = samples(pipeline(dataset(volume_data)))

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    one.pipeline.run = fail
    with pytest.raises(dp.LoaderError, match="DALI could not run the operations: out of memory"):
        next(iter(one))
    assert_same(samples(one), wanted)


def test_a_batch_is_moved_whole_as_the_loader_s_is(volume_data: Packed) -> None:
    batch = next(iter(pipeline(dataset(volume_data))))
    moved = {name: value.to("meta") for name, value in batch.items()}
    assert moved["fields/density"].device.type == "meta"
    assert moved["__key__"] == batch["__key__"]
    assert {value.device.type for value in moved["__params__"].values()} == {"meta"}
    assert moved["__params__"].keys() == batch["__params__"].keys()
    assert batch["__params__"].cpu().keys() == batch["__params__"].keys()


def test_a_batch_outlives_its_pipeline_and_may_be_written_to(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data), operations=[ops.flip(probability=0)], shuffle=False)
    first = next(iter(one))
    first["fields/density"] += 1
    one.close()
    del one
    gc.collect()
    again = pipeline(dataset(volume_data), operations=[ops.flip(probability=0)], shuffle=False)
    (second, *_) = again
    assert torch.equal(first["fields/density"], second["fields/density"] + 1)
    for n, key in enumerate(first["__key__"]):
        stored = volume_data.values(key)["fields/density"]
        assert np.array_equal(second["fields/density"][n].numpy(), stored)


def test_a_pass_does_not_go_on_after_a_close(volume_data: Packed) -> None:
    one = pipeline(dataset(volume_data))
    passing = iter(one)
    next(passing)
    one.close()
    with pytest.raises(dp.LoaderError, match="is over: another has begun, or it was closed"):
        next(passing)


def test_an_error_of_the_loader_s_beginning_is_that_error(
    volume_data: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pipeline(dataset(volume_data), operations=[ops.flip()])
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    first = samples(one)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(dp.ConfigError, match="this process is rank 0 of 2 and was 0 of 1"):
        next(iter(one))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert len(first) == len(samples(one)) == SAMPLES


def test_a_run_that_ended_with_an_error_can_be_iterated_again(tmp_path: Path) -> None:
    data = damaged(tmp_path, 5)
    one = pipeline(dataset(data), 1, shuffle=False, operations=[ops.flip()])
    for _ in range(2):
        seen: list[str] = []
        with pytest.raises(dp.DecodeError, match="case-5"):
            seen.extend(key for batch in one for key in batch["__key__"])
        assert len(seen) == 5
