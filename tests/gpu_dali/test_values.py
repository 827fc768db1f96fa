"""Operations on values: normalise, noise, channel drop, cast, against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch.utils.data

import dataplane as dp
from dataplane import dali_ops as ops
from tests.datasets.packed import Packed
from tests.gpu_dali import reference
from tests.gpu_dali.cases import SAMPLES, mesh, packed, run, volumes

pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")


def everything(data: Packed, name: str, keys: list[int] | None = None) -> np.ndarray:
    numbers = range(SAMPLES) if keys is None else keys
    return np.concatenate([data.values(f"case-{n}")[name].astype("f8").ravel() for n in numbers])


def normalised(values: np.ndarray, mean: object, std: object) -> np.ndarray:
    return (values.astype("f4") - np.array(mean, "f4")) / np.array(std, "f4")


def test_an_array_is_normalised_by_the_statistics_of_the_whole_dataset(
    volume_data: Packed, volume_set: dp.Dataset
) -> None:
    both = everything(volume_data, "fields/density")
    made = run(volume_set, [ops.normalise("fields/density")])
    for key, sample in made.items():
        stored = volume_data.values(key)["fields/density"]
        wanted = normalised(stored, both.mean(), both.std())
        np.testing.assert_allclose(sample["fields/density"], wanted, atol=1e-6)
    values = np.concatenate([sample["fields/density"].ravel() for sample in made.values()])
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-5)


def test_mean_and_deviation_that_are_given_are_taken_bit_for_bit(
    volume_data: Packed, volume_set: dp.Dataset
) -> None:
    operations = [
        ops.normalise("fields/density", mean=4.7, std=0.3),
        ops.normalise("fields/velocity", mean=[1, 2, 3], std=[0.5, 0.7, 0.9]),
    ]
    for key, sample in run(volume_set, operations).items():
        stored = volume_data.values(key)
        wanted = normalised(stored["fields/density"], 4.7, 0.3)
        assert np.array_equal(sample["fields/density"], wanted)
        wanted = normalised(stored["fields/velocity"], [1, 2, 3], [0.5, 0.7, 0.9])
        assert np.array_equal(sample["fields/velocity"], wanted)


def test_components_may_each_have_their_own_statistics(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    stored = [(rng.standard_normal((17, 18, 19, 3)) * [1, 2, 3] + n).astype("f4") for n in range(3)]
    data = packed(tmp_path, [{"v": values} for values in stored])
    both = np.concatenate([values.reshape(-1, 3).astype("f8") for values in stored])
    operation = ops.normalise("v", per_component=True)
    for key, sample in run(dp.Dataset(data.url, cache=False), [operation]).items():
        wanted = normalised(stored[int(key[-1])], both.mean(0), both.std(0))
        np.testing.assert_allclose(sample["v"], wanted, atol=1e-6)


def test_a_subset_is_normalised_by_its_own_samples(volume_data: Packed) -> None:
    whole = dp.Dataset(volume_data.url, arrays=["fields/density"], cache=False)
    subset = torch.utils.data.Subset(whole, [1, 4, 4])
    both = everything(volume_data, "fields/density", [1, 4])
    for key, sample in run(subset, [ops.normalise("fields/density")], shuffle=False).items():
        stored = volume_data.values(key)["fields/density"]
        wanted = normalised(stored, both.mean(), both.std())
        np.testing.assert_allclose(sample["fields/density"], wanted, atol=1e-6)


def test_what_is_not_finite_has_no_part_in_the_statistics(tmp_path: Path) -> None:
    values = np.array([[1.0, 2.0, 3.0, np.nan, np.inf], [5.0, 6.0, np.nan, np.nan, np.nan]], "f4")
    data = packed(tmp_path, [{"a": row} for row in values])
    dataset = dp.Dataset(data.url, cache=False)
    finite = values[np.isfinite(values)].astype("f8")
    for key, sample in run(dataset, [ops.normalise("a")]).items():
        wanted = normalised(values[int(key[-1])], finite.mean(), finite.std())
        np.testing.assert_allclose(sample["a"], wanted, atol=1e-6)


def test_a_constant_array_becomes_zero(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"a": np.full(9, 3, "i4")}] * 2)
    made = run(dp.Dataset(data.url, cache=False), [ops.normalise("a")])
    assert made["case-0"]["a"].dtype == np.float32
    assert not made["case-0"]["a"].any()


def test_points_are_normalised_too(mesh_data: Packed, mesh_set: dp.Dataset) -> None:
    values = [mesh(n)["point_data/pressure"].astype("f8") for n in range(SAMPLES)]
    both = np.concatenate(values)
    for key, sample in run(mesh_set, [ops.normalise("point_data/pressure")]).items():
        stored = mesh_data.values(key)["point_data/pressure"]
        wanted = normalised(stored, both.mean(), both.std())
        np.testing.assert_allclose(sample["point_data/pressure"], wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["fields/density", "fields/pair", "types/f2", "types/f8"])
def test_noise_is_the_hash_of_each_element_s_number(
    volume_data: Packed, volume_set: dp.Dataset, name: str
) -> None:
    found = run(volume_set, [ops.noise((0.1, 0.5), arrays=[name])])
    for key, sample in found.items():
        stored = volume_data.values(key)[name]
        drawn = sample["params"]
        assert 0.1 <= drawn["0.noise.std"] <= 0.5
        noise = reference.normal_noise(stored.shape, drawn[f"0.noise.keys.{name}"])
        wanted = stored + float(drawn["0.noise.std"]) * noise
        assert sample[name].dtype == stored.dtype
        atol = {2: 4e-3, 4: 2e-6, 8: 2e-6}[stored.dtype.itemsize]
        np.testing.assert_allclose(sample[name], wanted, atol=atol)
    assert len({sample["params"]["0.noise.std"].item() for sample in found.values()}) == SAMPLES


def test_noise_is_normal_and_differs_between_samples_arrays_and_neighbours(
    tmp_path: Path,
) -> None:
    zeros = {name: np.zeros((24, 24, 24), "f4") for name in ("a", "b")}
    data = packed(tmp_path, [zeros] * 4)
    dataset = dp.Dataset(data.url, cache=False)
    found = run(dataset, [ops.noise(1.0, arrays=["a", "b"])])
    parts = [sample[name].ravel() for sample in found.values() for name in ("a", "b")]
    values = np.concatenate(parts)
    count = len(values)
    assert values.mean() == pytest.approx(0, abs=4 / count**0.5)
    assert values.std() == pytest.approx(1, abs=4 / (2 * count) ** 0.5)
    assert (values**3).mean() == pytest.approx(0, abs=4 * (15 / count) ** 0.5)
    assert (values**4).mean() == pytest.approx(3, abs=4 * (96 / count) ** 0.5)
    for part in parts:
        for distance in (1, 24, 24 * 24):
            assert (part[distance:] * part[:-distance]).mean() == pytest.approx(0, abs=0.05)
    for i, one in enumerate(parts):
        for other in parts[:i]:
            assert (one * other).mean() == pytest.approx(0, abs=0.05)


def test_noise_falls_on_what_a_crop_left_and_on_a_few_samples_with_a_probability(
    volume_data: Packed, volume_set: dp.Dataset
) -> None:
    operations = [ops.random_crop(5), ops.noise(0.3, arrays=["fields/density"], probability=0.5)]
    found = run(volume_set, operations, seed=9)
    noisy = 0
    for key, sample in found.items():
        z, y, x = sample["params"]["0.crop.start"]
        box = volume_data.values(key)["fields/density"][z : z + 5, y : y + 5, x : x + 5]
        std = float(sample["params"]["1.noise.std"])
        noisy += std > 0
        keys = sample["params"]["1.noise.keys.fields/density"]
        wanted = box + std * reference.normal_noise(box.shape, keys)
        np.testing.assert_allclose(sample["fields/density"], wanted, atol=2e-6)
    assert 0 < noisy < SAMPLES


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u1", "i2", "u4", "i8"])
def test_a_dropped_channel_is_zero_and_the_others_are_untouched(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(6)
    values = [(rng.standard_normal((4, 4, 4, 5)) * 50).astype(kind) for _ in range(6)]
    data = packed(tmp_path, [{"a": one} for one in values])
    dataset = dp.Dataset(data.url, cache=False)
    kept = 0
    for key, sample in run(dataset, [ops.channel_drop(0.4, arrays=["a"])]).items():
        keep = sample["params"]["0.channel_drop.keep.a"]
        kept += int(keep.sum())
        stored = values[int(key[-1])]
        assert np.array_equal(sample["a"], np.where(keep, stored, 0))
    assert 0 < kept < 30


def test_a_dropped_channel_is_zero_whatever_it_held_and_vectors_are_dropped_whole(
    tmp_path: Path,
) -> None:
    data = packed(tmp_path, [{"v": np.full((2, 2, 2, 3), np.nan, "f4")}] * 2)
    drop = [ops.channel_drop(1.0, arrays=["v"])]
    for sample in run(dp.Dataset(data.url, cache=False), drop, vectors=["v"]).values():
        assert not sample["v"].any()
    data = packed(tmp_path / "more", [{"v": np.ones((2, 2, 2, 3), "f4")}] * 12)
    drop = [ops.channel_drop(0.5, arrays=["v"])]
    found = run(dp.Dataset(data.url, cache=False), drop, vectors=["v"])
    assert {sample["v"].sum() for sample in found.values()} == {0, 24}


def test_arrays_at_points_and_scalars_are_dropped_as_one_channel(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"p": np.arange(5.0), "s": np.array(3.0)}] * 8)
    found = run(dp.Dataset(data.url, cache=False), [ops.channel_drop(0.5, arrays=["p", "s"])])
    for sample in found.values():
        keep = sample["params"]["0.channel_drop.keep.p"].item()
        assert np.array_equal(sample["p"], np.arange(5.0) * keep)
        assert sample["s"] == 3.0 * sample["params"]["0.channel_drop.keep.s"].item()


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_a_cast_to_floating_point_gives_the_nearest_number(
    volume_data: Packed, volume_set: dp.Dataset, kind: str
) -> None:
    names = ["fields/density", "types/f8", "types/i2"]
    for key, sample in run(volume_set, [ops.cast(kind, arrays=names)]).items():
        for name in names:
            stored = volume_data.values(key)[name]
            exact = stored.astype("f4" if kind == "float16" else "f8")  # it goes through float32
            wanted = exact.astype(kind)
            assert sample[name].dtype == wanted.dtype
            # Of two that are equally near DALI takes the larger one, and NumPy the even one.
            assert np.array_equal(np.abs(sample[name] - exact), np.abs(wanted - exact))


def test_a_cast_to_whole_numbers_rounds_and_keeps_within_their_range(tmp_path: Path) -> None:
    values = np.array([-300.0, -1.6, -0.4, 0.4, 1.6, 254.7, 300.0], "f4")
    data = packed(tmp_path, [{"a": values}])
    made = run(dp.Dataset(data.url, cache=False), [ops.cast("uint8", arrays=["a"])])["case-0"]["a"]
    assert made.tolist() == [0, 0, 0, 0, 2, 255, 255]


def test_a_cast_takes_all_volumes_of_floating_point_but_labels(tmp_path: Path) -> None:
    data = packed(tmp_path, [volumes(n) for n in range(2)])
    names = ["fields/density", "fields/velocity", "fields/label", "types/f8", "global_data/mach"]
    dataset = dp.Dataset(data.url, arrays=names, cache=False)
    for sample in run(dataset, [ops.cast("float16")], labels=["types/f8"]).values():
        kinds = [sample[name].dtype.name for name in names]
        assert kinds == ["float16", "float16", "int32", "float64", "float64"]


@pytest.mark.parametrize("measure", [False, True])
def test_statistics_are_those_of_the_index_or_measured_once(
    volume_data: Packed, volume_set: dp.Dataset, measure: bool
) -> None:
    both = everything(volume_data, "fields/density")
    known = ops.statistics(volume_set, "fields/density", measure=measure)
    assert known.mean == pytest.approx([both.mean()])
    assert known.std == pytest.approx([both.std()])
    subset = torch.utils.data.Subset(volume_set, [2, 5, 5])
    known = ops.statistics(subset, "fields/density", measure=measure)
    assert known.mean == pytest.approx([everything(volume_data, "fields/density", [2, 5]).mean()])


def test_components_can_be_measured_where_the_index_has_none(
    volume_data: Packed, volume_set: dp.Dataset
) -> None:
    with pytest.raises(dp.ConfigError, match=r"no statistics of each component.*measure=True"):
        ops.statistics(volume_set, "fields/velocity", per_component=True)
    known = ops.statistics(volume_set, "fields/velocity", per_component=True, measure=True)
    both = everything(volume_data, "fields/velocity").reshape(-1, 3)
    assert known.mean == pytest.approx(both.mean(0))
    assert known.std == pytest.approx(both.std(0))
    operation = ops.normalise("fields/velocity", mean=known.mean, std=known.std)
    for key, sample in run(volume_set, [operation]).items():
        stored = volume_data.values(key)["fields/velocity"]
        wanted = normalised(stored, known.mean, known.std)
        assert np.array_equal(sample["fields/velocity"], wanted)


def test_an_array_of_many_dimensions_that_is_no_volume_gets_all_but_noise(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((3, 4, 5)).astype("f4")
    data = packed(tmp_path, [{"a": values}] * 4)
    dataset = dp.Dataset(data.url, cache=False)
    operations = [ops.normalise("a", mean=1, std=2), ops.channel_drop(0.5, arrays=["a"])]
    for sample in run(dataset, operations, volumes=[]).values():
        keep = sample["params"]["1.channel_drop.keep.a"]
        assert np.array_equal(sample["a"], normalised(values, 1, 2) * keep)
    with pytest.raises(dp.ConfigError, match="'a' is no volume, and has 3 dimensions"):
        run(dataset, [ops.noise(1, arrays=["a"])], volumes=[])


def test_rows_may_differ_in_length(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"a": np.full((2, 3 + n), n, "f4")} for n in range(3)])
    dataset = dp.Dataset(data.url, cache=False)
    (batch,) = dp.dali_pipeline(dataset, 3, [ops.normalise("a", mean=0, std=2)])
    assert [part.tolist() for part in batch["a"]] == [[[n / 2] * (3 + n)] * 2 for n in range(3)]
    with pytest.raises(dp.ConfigError, match="rows whose length varies"):
        dp.dali_pipeline(dataset, 3, [ops.noise(1, arrays=["a"])])
