"""Every operation on points, on the CPU, against NumPy: with the parameters that it recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dataplane as dp
from dataplane import dali_ops as ops
from tests.datasets.packed import Packed
from tests.gpu_dali import reference
from tests.gpu_dali.cases import mesh, packed, run

pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")

_ROLES = {
    "points": ["points", "exact"],
    "normals": ["point_data/normals"],
    "vectors": ["point_data/velocity"],
}


def test_points_come_out_as_they_are_stored_with_offsets(
    mesh_set: dp.Dataset, mesh_data: Packed
) -> None:
    for key, sample in run(mesh_set, [], **_ROLES).items():
        for name, wanted in mesh_data.values(key).items():
            assert np.array_equal(sample[name], wanted)


def test_an_affine_map_moves_points_turns_vectors_and_keeps_normals_normal(
    mesh_set: dp.Dataset, mesh_data: Packed
) -> None:
    affine = ops.affine(
        degrees=120, scale=[(0.5, 2), (0.9, 1.1), (1, 3)], shift=5.0, centre=(1, 2, 3)
    )
    found = run(mesh_set, [affine], **_ROLES)
    matrices = set()
    for key, sample in found.items():
        stored, drawn = mesh_data.values(key), sample["params"]
        matrix, offset = drawn["0.affine.matrix"], drawn["0.affine.offset"]
        turn = drawn["0.affine.turn"]
        matrices.add(matrix.tobytes())
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        scales = np.linalg.norm(matrix, axis=0)
        np.testing.assert_allclose(matrix, turn * scales, atol=1e-12)
        assert (scales >= [0.5, 0.9, 1]).all()
        assert (scales <= [2, 1.1, 3]).all()
        shift = offset - ([1, 2, 3] - matrix @ [1, 2, 3])
        assert (np.abs(shift) <= 5).all()
        wanted = stored["points"] @ matrix.T + offset
        np.testing.assert_allclose(sample["points"], wanted, atol=2e-5)
        wanted = stored["exact"] @ matrix.T + offset
        assert sample["exact"].dtype == np.float64
        np.testing.assert_allclose(sample["exact"], wanted, rtol=1e-14)
        wanted = stored["point_data/velocity"] @ turn.T
        np.testing.assert_allclose(sample["point_data/velocity"], wanted, atol=1e-6)
        wanted = stored["point_data/normals"] @ np.linalg.inv(matrix)
        wanted /= np.linalg.norm(wanted, axis=1)[:, None]
        np.testing.assert_allclose(sample["point_data/normals"], wanted, atol=1e-6)
        assert np.array_equal(sample["point_data/pressure"], stored["point_data/pressure"])
    assert len(matrices) == len(found)


def test_normals_stay_perpendicular_to_the_surface_and_a_normal_of_zero_stays_zero(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(5)
    first, second = rng.standard_normal((2, 40, 3))
    normals = np.cross(first, second)
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    normals[0] = 0
    points = np.concatenate((first, second))
    data = packed(tmp_path, [{"points": points, "normals": normals}])
    dataset = dp.Dataset(data.url, cache=False)
    affine = [ops.affine(degrees=180, scale=[(0.2, 0.3), (1, 2), (4, 5)])]
    made = run(dataset, affine, points=["points"], normals=["normals"])["case-0"]
    along = made["points"]
    for edges in (along[:40], along[40:]):
        np.testing.assert_allclose((edges * made["normals"]).sum(1), 0, atol=1e-5)
    assert not made["normals"][0].any()
    np.testing.assert_allclose(np.linalg.norm(made["normals"][1:], axis=1), 1, atol=1e-6)


def test_an_affine_rotation_about_an_axis_is_right_handed(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"points": np.eye(3)}] * 3)
    dataset = dp.Dataset(data.url, cache=False)
    for sample in run(dataset, [ops.affine(degrees=90, axis="z")], points=["points"]).values():
        turn = sample["params"]["0.affine.turn"]
        angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
        np.testing.assert_allclose(turn, reference.rotation([0, 0, 1], angle), atol=1e-12)
        np.testing.assert_allclose(sample["points"], turn.T, atol=1e-15)


def test_jitter_is_normal_noise_of_each_point_cut_off(
    mesh_set: dp.Dataset, mesh_data: Packed
) -> None:
    found = run(mesh_set, [ops.jitter(0.5, clip=0.6)], **_ROLES)
    for key, sample in found.items():
        for name in _ROLES["points"]:
            stored = mesh_data.values(key)[name]
            keys = sample["params"][f"0.jitter.keys.{name}"]
            noise = np.clip(0.5 * reference.normal_noise(stored.shape, keys), -0.6, 0.6)
            assert (np.abs(noise) == 0.6).any()
            np.testing.assert_allclose(sample[name], stored + noise, atol=5e-6)
        for name in ("point_data/normals", "point_data/pressure"):
            assert np.array_equal(sample[name], mesh_data.values(key)[name])


def test_unit_scaling_fills_the_box_and_records_how_to_undo_it(
    mesh_set: dp.Dataset, mesh_data: Packed
) -> None:
    found = run(mesh_set, [ops.unit_scale()], points=["points"])
    for key, sample in found.items():
        stored, drawn = mesh_data.values(key)["points"], sample["params"]
        low, high = stored.min(0), stored.max(0)
        centre, scale = drawn["0.unit_scale.centre"], drawn["0.unit_scale.scale"]
        assert np.array_equal(centre, (low + high) * np.float32(0.5))
        assert scale == ((high - low) * np.float32(0.5)).max()
        assert np.array_equal(sample["points"], (stored - centre) / scale)
        assert np.abs(sample["points"]).max() == pytest.approx(1, abs=1e-6)


def test_unit_scaling_to_the_ball_is_about_the_mean(
    mesh_set: dp.Dataset, mesh_data: Packed
) -> None:
    for key, sample in run(mesh_set, [ops.unit_scale("ball")], points=["exact"]).items():
        stored = mesh_data.values(key)["exact"]
        away = stored - stored.mean(0)
        wanted = away / np.linalg.norm(away, axis=1).max()
        np.testing.assert_allclose(sample["exact"], wanted, atol=1e-6)


def test_points_that_are_all_the_same_are_moved_to_the_origin(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"points": np.full((5, 3), 7, "f4")}])
    dataset = dp.Dataset(data.url, cache=False)
    for to in ("box", "ball"):
        made = run(dataset, [ops.unit_scale(to)], points=["points"])["case-0"]  # type: ignore[arg-type]
        assert not made["points"].any()


def test_points_of_a_sample_without_any_pass_all_but_unit_scaling(tmp_path: Path) -> None:
    meshes = [mesh(0), {name: values[:0] for name, values in mesh(1).items()}]
    data = packed(tmp_path, meshes)
    dataset = dp.Dataset(data.url, cache=False)
    found = run(dataset, [ops.affine(degrees=30, scale=2.0), ops.jitter(0.1)], **_ROLES)
    assert found["case-1"]["points"].shape == (0, 3)
    assert found["case-1"]["point_data/pressure"].shape == (0,)
    with pytest.raises(dp.ConfigError, match=r"unit_scale: sample 'case-1' has no points"):
        run(dataset, [ops.unit_scale()], **_ROLES)
