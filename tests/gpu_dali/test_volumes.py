"""Every operation on volumes, on the CPU, against NumPy: with the parameters that it recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane import dali_ops as ops
from tests.datasets.packed import Packed
from tests.gpu_dali import reference
from tests.gpu_dali.cases import KINDS, OTHERS, SHAPE, packed, run, volumes

pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")

_ALL = [f"types/{kind}" for kind in KINDS]


def arrays(data: Packed, *names: str) -> dp.Dataset:
    return dp.Dataset(data.url, arrays=list(names), cache=False)


def test_without_operations_every_type_comes_out_as_it_is_stored(volume_data: Packed) -> None:
    dataset = dp.Dataset(volume_data.url, cache=False)
    for key, sample in run(dataset, []).items():
        for name, wanted in volume_data.values(key).items():
            assert sample[name].dtype == wanted.dtype
            assert np.array_equal(sample[name], wanted)


def test_a_crop_is_the_box_at_the_place_that_was_drawn_for_every_type(volume_data: Packed) -> None:
    found = run(arrays(volume_data, *_ALL, "fields/velocity"), [ops.random_crop((3, 4, 5))])
    starts = set()
    for key, sample in found.items():
        z, y, x = sample["params"]["0.crop.start"]
        starts.add((z, y, x))
        for name in (*_ALL, "fields/velocity"):
            wanted = volume_data.values(key)[name][z : z + 3, y : y + 4, x : x + 5]
            assert sample[name].tobytes() == wanted.tobytes()
    assert len(starts) > 3


def test_crops_reach_every_place_that_fits(volume_data: Packed) -> None:
    dataset = arrays(volume_data, "fields/density")
    pipeline = dp.dali_pipeline(dataset, 7, [ops.random_crop((7, 8, 6))], seed=1, shuffle=True)
    starts = {
        tuple(start.tolist())
        for _ in range(12)
        for batch in pipeline
        for start in batch["__params__"]["0.crop.start"]
    }
    assert starts == {(z, 0, x) for z in range(2) for x in range(3)}


def test_a_centre_crop_takes_the_middle(volume_data: Packed) -> None:
    for key, sample in run(arrays(volume_data, "fields/density"), [ops.centre_crop(4)]).items():
        wanted = volume_data.values(key)["fields/density"][2:6, 2:6, 2:6]
        assert np.array_equal(sample["fields/density"], wanted)


def test_flips_are_exact_for_every_type_and_turn_vectors(volume_data: Packed) -> None:
    dataset = arrays(volume_data, *_ALL, "fields/velocity")
    found = run(dataset, [ops.flip()], vectors=["fields/velocity"])
    seen = set()
    for key, sample in found.items():
        axes = sample["params"]["0.flip.axes"]
        seen.add(tuple(axes))
        for name in _ALL:
            wanted = reference.flipped(volume_data.values(key)[name], axes)
            assert sample[name].tobytes() == np.ascontiguousarray(wanted).tobytes()
        wanted = reference.flipped(volume_data.values(key)["fields/velocity"], axes, vector=True)
        assert np.array_equal(sample["fields/velocity"], wanted)
    assert len(seen) > 2


def test_a_flip_along_x_changes_the_sign_of_the_first_component_alone(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 3, 3), "f4")
    values[0, 0, 0] = (1, 2, 3)
    data = packed(tmp_path, [{"v": values}])
    flip = [ops.flip("x", probability=1)]
    made = run(arrays(data, "v"), flip, vectors=["v"])["case-0"]["v"]
    assert made[0, 0, 2].tolist() == [-1, 2, 3]
    assert not made[0, 0, 0].any()


def test_right_angled_turns_are_exact_for_every_type_and_turn_vectors(volume_data: Packed) -> None:
    dataset = arrays(volume_data, *_ALL, "fields/velocity")
    found = run(dataset, [ops.rotate90()], vectors=["fields/velocity"])
    seen = set()
    for key, sample in found.items():
        turn = sample["params"]["0.rotate90.turn"]
        assert np.linalg.det(turn) == pytest.approx(1)
        seen.add(turn.tobytes())
        for name in _ALL:
            wanted = reference.turned(volume_data.values(key)[name], turn)
            assert sample[name].tobytes() == np.ascontiguousarray(wanted).tobytes(), name
        wanted = reference.turned(volume_data.values(key)["fields/velocity"], turn, vector=True)
        assert np.array_equal(sample["fields/velocity"], wanted)
    assert len(seen) > 3


def test_a_turn_about_z_takes_x_to_y(tmp_path: Path) -> None:
    values = np.zeros((3, 3, 3, 3), "f4")
    values[1, 1, 2] = (1, 0, 0)  # at the +x side, along +x
    data = packed(tmp_path, [{"v": values}] * 4)
    found = run(arrays(data, "v"), [ops.rotate90("yx")], vectors=["v"], seed=3)
    for sample in found.values():
        turn = sample["params"]["0.rotate90.turn"]
        x, y, z = (int(n) for n in turn @ (1, 0, 0))
        assert z == 0
        assert sample["v"][1 + z, 1 + y, 1 + x].tolist() == [x, y, z]


def test_volumes_of_unequal_extents_take_only_turns_that_keep_them(tmp_path: Path) -> None:
    data = packed(tmp_path, [volumes(number, (4, 6, 6)) for number in range(6)])
    found = run(arrays(data, "fields/density"), [ops.rotate90()], seed=2)
    seen = set()
    for key, sample in found.items():
        turn = sample["params"]["0.rotate90.turn"]
        seen.add(turn.tobytes())
        assert abs(turn[2, 2]) == 1  # z stays along z
        wanted = reference.turned(data.values(key)["fields/density"], turn)
        assert np.array_equal(sample["fields/density"], wanted)
    assert len(seen) > 2


@pytest.mark.parametrize("outside", ["edge", "zero"])
def test_a_rotation_interpolates_linearly_and_turns_vectors(
    volume_data: Packed, outside: str
) -> None:
    dataset = arrays(volume_data, "fields/density", "fields/velocity", "fields/label")
    rotate = [ops.rotate(40, outside=outside)]  # type: ignore[arg-type]
    found = run(dataset, rotate, vectors=["fields/velocity"])
    for key, sample in found.items():
        stored, drawn = volume_data.values(key), sample["params"]
        turn = reference.rotation(drawn["0.rotate.axis"], float(drawn["0.rotate.degrees"]))
        zero = outside == "zero"
        wanted = reference.linear(stored["fields/density"][..., None], turn, zero=zero)[..., 0]
        np.testing.assert_allclose(sample["fields/density"], wanted, atol=3e-5)
        wanted = reference.linear(stored["fields/velocity"], turn, zero=zero) @ turn.T
        np.testing.assert_allclose(sample["fields/velocity"], wanted, atol=3e-5)
        wanted, clear = reference.nearest(stored["fields/label"], turn, zero=zero)
        assert clear.mean() > 0.9
        assert np.array_equal(sample["fields/label"][clear], wanted[clear])


def test_a_rotation_with_spacing_turns_the_body_and_not_the_grid(volume_data: Packed) -> None:
    spacing = (2.0, 1.0, 0.5)
    rotate = [ops.rotate(60, axis="y", spacing=spacing)]
    for key, sample in run(arrays(volume_data, "fields/density"), rotate).items():
        assert sample["params"]["0.rotate.axis"].tolist() == [0, 1, 0]
        turn = reference.rotation([0, 1, 0], float(sample["params"]["0.rotate.degrees"]))
        scale = np.diag(spacing[::-1])
        forward = np.linalg.inv(scale) @ turn @ scale
        stored = volume_data.values(key)["fields/density"][..., None]
        wanted = reference.linear(stored, forward)[..., 0]
        np.testing.assert_allclose(sample["fields/density"], wanted, atol=3e-5)


def test_a_zoom_has_a_factor_for_each_axis_and_leaves_components(volume_data: Packed) -> None:
    dataset = arrays(volume_data, "fields/density", "fields/velocity")
    zoom = [ops.zoom(z=(0.5, 2.0), y=(0.8, 1.25), x=1.0)]
    for key, sample in run(dataset, zoom, vectors=["fields/velocity"]).items():
        z, y, x = sample["params"]["0.zoom.factors"].astype(float)
        assert 0.5 <= z <= 2
        assert 0.8 <= y <= 1.25
        assert x == 1
        for name in ("fields/density", "fields/velocity"):
            stored = volume_data.values(key)[name].reshape(*SHAPE, -1)
            wanted = reference.linear(stored, np.diag([x, y, z]))
            np.testing.assert_allclose(sample[name].reshape(wanted.shape), wanted, atol=3e-5)


def test_a_factor_above_one_enlarges_what_is_in_the_middle(tmp_path: Path) -> None:
    values = np.zeros((9, 9, 9), "f4")
    values[3:6, 3:6, 3:6] = 1
    data = packed(tmp_path, [{"v": values}])
    made = run(arrays(data, "v"), [ops.zoom(2.0)])["case-0"]
    assert made["v"].sum() > 4 * values.sum()
    assert made["params"]["0.zoom.factors"].tolist() == [2, 2, 2]


def test_a_rotation_and_a_zoom_behind_each_other_are_one_resampling(volume_data: Packed) -> None:
    operations = [ops.rotate(30), ops.zoom(z=(0.8, 1.2), x=(0.8, 1.2)), ops.rotate(10, axis="x")]
    dataset = arrays(volume_data, "fields/velocity")
    for key, sample in run(dataset, operations, vectors=["fields/velocity"]).items():
        drawn = sample["params"]
        first = reference.rotation(drawn["0.rotate.axis"], float(drawn["0.rotate.degrees"]))
        zoom = np.diag(drawn["1.zoom.factors"].astype(float)[::-1])
        last = reference.rotation([1, 0, 0], float(drawn["2.rotate.degrees"]))
        stored = volume_data.values(key)["fields/velocity"]
        wanted = reference.linear(stored, last @ zoom @ first) @ (last @ first).T
        np.testing.assert_allclose(sample["fields/velocity"], wanted, atol=3e-5)


def test_what_is_no_floating_point_number_is_never_interpolated(volume_data: Packed) -> None:
    names = [f"types/{kind}" for kind in OTHERS]
    for key, sample in run(arrays(volume_data, *names), [ops.rotate(45), ops.zoom(1.3)]).items():
        for name in names:
            stored = volume_data.values(key)[name]
            assert sample[name].dtype == stored.dtype
            assert set(sample[name].ravel().tolist()) <= set(stored.ravel().tolist())


def test_labels_of_floating_point_are_not_interpolated_when_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    data = packed(tmp_path, [{"a": rng.integers(0, 5, SHAPE).astype("f8")} for _ in range(3)])
    for sample in run(arrays(data, "a"), [ops.rotate(45)], labels=["a"]).values():
        assert set(sample["a"].ravel().tolist()) <= {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("kind", "atol"), [("f2", 4e-3), ("f8", 3e-5)])
def test_half_and_double_precision_are_interpolated_in_float32(
    volume_data: Packed, kind: str, atol: float
) -> None:
    for key, sample in run(arrays(volume_data, f"types/{kind}"), [ops.rotate(40)]).items():
        drawn = sample["params"]
        turn = reference.rotation(drawn["0.rotate.axis"], float(drawn["0.rotate.degrees"]))
        stored = volume_data.values(key)[f"types/{kind}"]
        assert sample[f"types/{kind}"].dtype == stored.dtype
        wanted = reference.linear(stored[..., None], turn)[..., 0]
        np.testing.assert_allclose(sample[f"types/{kind}"], wanted, atol=atol)


def test_an_image_and_its_label_never_part(tmp_path: Path) -> None:
    """The label is the image, so it must be so behind every operation that moves voxels."""
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 200, (10, 10, 10)) for _ in range(5)]
    data = packed(tmp_path, [{"image": a.astype("f4"), "label": a.astype("i8")} for a in images])
    operations = [ops.rotate90(), ops.random_crop(8), ops.flip(), ops.rotate(30), ops.zoom(0.9)]
    found = run(arrays(data, "image", "label"), operations, labels=["image", "label"])
    for sample in found.values():
        assert np.array_equal(sample["image"].astype("i8"), sample["label"])


def test_channels_may_come_first_and_go_out_so(tmp_path: Path) -> None:
    stored = [volumes(number)["fields/velocity"] for number in range(3)]
    last = packed(tmp_path / "last", [{"v": values} for values in stored])
    moved = [{"v": np.ascontiguousarray(np.moveaxis(values, -1, 0))} for values in stored]
    first = packed(tmp_path / "first", moved)
    operations = [ops.rotate90(), ops.rotate(20), ops.flip(), ops.random_crop(6)]
    wanted = run(arrays(last, "v"), operations, vectors=["v"])
    found = run(arrays(first, "v"), operations, vectors=["v"], layouts={"v": "CDHW"})
    for key, sample in found.items():
        assert sample["v"].shape == (3, 6, 6, 6)
        assert np.array_equal(np.moveaxis(sample["v"], 0, -1), wanted[key]["v"])


def test_a_first_dimension_that_is_named_a_channel_is_taken_for_one(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((2, 4, 5, 6)).astype("f4")
    names = {"v": ("channel", "z", "y", "x")}
    data = packed(tmp_path, [{"v": values}], dimension_names=names)
    made = run(arrays(data, "v"), [ops.random_crop((4, 3, 2))])["case-0"]
    z, y, x = made["params"]["0.crop.start"]
    assert np.array_equal(made["v"], values[:, z : z + 4, y : y + 3, x : x + 2])


def test_volumes_may_differ_in_size_and_a_crop_makes_them_equal(tmp_path: Path) -> None:
    shapes = [(6 + n % 3, 7, 5 + n % 2) for n in range(5)]
    data = packed(tmp_path, [volumes(n, shape) for n, shape in enumerate(shapes)])
    dataset = arrays(data, "fields/density", "fields/velocity")
    operations = [ops.flip(), ops.rotate(20), ops.random_crop((5, 6, 5))]
    pipeline = dp.dali_pipeline(dataset, 5, operations, vectors=["fields/velocity"], seed=1)
    (batch,) = pipeline
    assert batch["fields/density"].shape == (5, 5, 6, 5)
    assert batch["fields/velocity"].shape == (5, 5, 6, 5, 3)
    (batch,) = dp.dali_pipeline(dataset, 5, [ops.flip(probability=1)])
    for key, made in zip(batch["__key__"], batch["fields/density"], strict=True):
        assert np.array_equal(made.numpy(), data.values(key)["fields/density"][::-1, ::-1, ::-1])


def test_volumes_whose_first_extent_varies_come_out_with_offsets(tmp_path: Path) -> None:
    data = packed(tmp_path, [volumes(n, (4 + n, 5, 6)) for n in range(3)])
    (batch,) = dp.dali_pipeline(arrays(data, "fields/density"), 3, [ops.flip("x", probability=1)])
    offsets = batch["fields/density.offsets"].tolist()
    assert offsets == [0, 4, 9, 15]
    for n, key in enumerate(batch["__key__"]):
        made = batch["fields/density"][offsets[n] : offsets[n + 1]].numpy()
        assert np.array_equal(made, data.values(key)["fields/density"][:, :, ::-1])


def test_an_operation_with_probability_zero_changes_nothing(volume_data: Packed) -> None:
    operations = [
        ops.flip(probability=0),
        ops.rotate90(probability=0),
        ops.rotate(90, probability=0),
        ops.zoom(2.0, probability=0),
        ops.noise(1.0, arrays=["fields/density"], probability=0),
        ops.channel_drop(0.0, arrays=["fields/density"]),
    ]
    dataset = arrays(volume_data, "fields/density", "fields/velocity", "fields/label")
    for key, sample in run(dataset, operations, vectors=["fields/velocity"]).items():
        for name in dataset.array_names:
            assert np.array_equal(sample[name], volume_data.values(key)[name])


def test_not_a_number_stays_with_its_component(tmp_path: Path) -> None:
    values = np.random.default_rng(2).standard_normal((4, 4, 4, 3)).astype("f4")
    values[..., 1] = np.nan
    data = packed(tmp_path, [{"v": values}] * 3)
    operations = [ops.rotate90("zy"), ops.flip(), ops.random_crop(3)]
    for sample in run(arrays(data, "v"), operations, vectors=["v"]).values():
        assert np.isnan(sample["v"]).all(axis=(0, 1, 2)).sum() == 1
        assert np.isfinite(sample["v"]).all(axis=(0, 1, 2)).sum() == 2
