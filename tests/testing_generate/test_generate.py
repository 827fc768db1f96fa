"""Generated fields and meshes have the statistics that their docstrings claim."""

import numcodecs
import numpy as np
import pytest

from dataplane.errors import ConfigError
from dataplane_testing.generate import (
    generate_samples,
    surface_mesh,
    turbulence,
    turbulence_vector,
)


def _shell_spectrum(field):
    """Energy per shell of integer wave number, shells 0 … n/2."""
    n = field.shape[0]
    energy = np.abs(np.fft.fftn(field.astype(np.float64))) ** 2
    waves = np.stack(np.meshgrid(*[np.fft.fftfreq(n, 1 / n)] * 3, indexing="ij"))
    shell = np.rint(np.sqrt((waves**2).sum(axis=0))).astype(int)
    return np.bincount(shell.ravel(), energy.ravel())[: n // 2 + 1]


def _fitted_slope(field):
    spectrum = _shell_spectrum(field)
    k = np.arange(4, len(spectrum) - 1)
    return np.polyfit(np.log(k), np.log(spectrum[k]), 1)[0]


def test_the_energy_spectrum_falls_as_kolmogorov_says():
    assert _fitted_slope(turbulence((64, 64, 64), seed=1)) == pytest.approx(-5 / 3, abs=0.1)


def test_the_slope_is_the_callers():
    assert _fitted_slope(turbulence((64, 64, 64), seed=1, slope=-3)) == pytest.approx(-3, abs=0.1)


def test_a_scalar_field_is_float32_centred_and_of_unit_deviation():
    field = turbulence((20, 30, 40), seed=2)
    assert field.dtype == np.float32
    assert field.flags.c_contiguous
    assert field.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert field.std(dtype=np.float64) == pytest.approx(1, rel=1e-5)


def test_a_vector_field_has_no_divergence():
    field = turbulence_vector((16, 24, 32), seed=3).astype(np.float64)
    divergence = np.zeros(field.shape[:3], complex)
    gradient = 0.0
    for component, axis in ((0, 2), (1, 1), (2, 0)):
        n = field.shape[axis]
        wave = np.fft.fftfreq(n).reshape([-1 if a == axis else 1 for a in range(3)])
        # The Nyquist mode has no sign, so its derivative is not defined on the grid.
        wave = np.where(np.abs(wave) == 0.5, 0, wave)
        part = wave * np.fft.fftn(field[..., component])
        divergence += part
        gradient += (np.abs(part) ** 2).sum()
    inside = np.ones(field.shape[:3], bool)
    inside[8, :, :] = inside[:, 12, :] = inside[:, :, 16] = False
    assert (np.abs(divergence[inside]) ** 2).sum() < 1e-8 * gradient


def test_equal_seeds_give_equal_bytes_and_others_do_not():
    assert np.array_equal(turbulence((8, 8, 8), seed=5), turbulence((8, 8, 8), seed=5))
    assert not np.array_equal(turbulence((8, 8, 8), seed=5), turbulence((8, 8, 8), seed=6))


@pytest.mark.parametrize("shape", [(), (0, 4), (4, -1, 4), (2, 2, 2, 2)])
def test_an_impossible_shape_is_refused(shape):
    with pytest.raises(ConfigError):
        turbulence(shape, seed=0)


def test_a_vector_field_of_a_plane_is_refused():
    with pytest.raises(ConfigError, match="nz, ny, nx"):
        turbulence_vector((8, 8), seed=0)


@pytest.mark.parametrize("n_points", [16, 17, 1000, 12345])
def test_a_mesh_has_exactly_the_points_asked_for_and_uses_each(n_points):
    mesh = surface_mesh(n_points, seed=4)
    assert mesh.points.shape == (n_points, 3)
    assert mesh.points.dtype == np.float32
    assert mesh.connectivity.dtype == np.int32
    assert np.array_equal(np.unique(mesh.connectivity), np.arange(n_points))
    assert mesh.point_data["pressure"].shape == (n_points,)
    assert mesh.point_data["wall_shear_stress"].shape == (n_points, 3)


def test_triangles_join_neighbours_and_no_edge_has_more_than_two():
    mesh = surface_mesh(5000, seed=4)
    edges = np.concatenate([mesh.connectivity[:, [0, 1]], mesh.connectivity[:, [1, 2]]])
    edges = np.concatenate([edges, mesh.connectivity[:, [2, 0]]])
    counts = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)[1]
    assert counts.max() == 2
    # Each side of an edge is walked in its own direction: the surface is oriented.
    assert len(np.unique(edges, axis=0)) == len(edges)
    corners = mesh.points[mesh.connectivity]
    length = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    assert np.median(length) < 0.1
    assert length.max() < 1.5


def test_a_mesh_with_too_few_points_is_refused():
    with pytest.raises(ConfigError, match="at least 16"):
        surface_mesh(15, seed=0)


def test_samples_reach_the_size_asked_for_with_little_over():
    samples = list(generate_samples(4 << 20, seed=1))
    sizes = [sum(a.values.nbytes for a in s.arrays.values()) for s in samples]
    assert sum(sizes) >= 4 << 20
    assert sum(sizes[:-1]) < 4 << 20
    assert len(samples) >= 16


def test_samples_take_turns_and_have_keys_and_units():
    samples = list(generate_samples(1 << 20, seed=1))
    assert [s.key.split("-")[0] for s in samples[:4]] == ["volume", "mesh", "volume", "mesh"]
    assert len({s.key for s in samples}) == len(samples)
    velocity = samples[0].arrays["fields/velocity"]
    assert velocity.dimension_names == ("z", "y", "x", "c")
    assert velocity.values.shape == (*samples[0].arrays["fields/pressure"].values.shape, 3)
    assert (velocity.units, samples[0].arrays["fields/pressure"].units) == ("m/s", "Pa")
    assert samples[0].attributes["reynolds_number"] > 0


def test_one_kind_can_be_asked_for():
    assert {s.attributes["kind"] for s in generate_samples(1 << 20, seed=1, kinds=("mesh",))} == {
        "mesh"
    }


def test_volumes_share_a_shape_and_differ_in_every_field():
    volumes = [
        s.arrays["fields/velocity"].values
        for s in generate_samples(8 << 16, seed=1, kinds=("volume",))
    ]
    fluctuations = [v - v.mean(axis=(0, 1, 2)) for v in volumes]
    assert len({v.shape for v in volumes}) == 1
    flat = np.stack([(f / f.std()).ravel() for f in fluctuations])
    correlation = flat @ flat.T / flat.shape[1]
    assert np.abs(correlation - np.eye(len(volumes))).max() < 0.8


def test_a_sample_does_not_depend_on_how_many_follow():
    few = list(generate_samples(1 << 18, seed=9, sample_bytes=1 << 16))
    many = list(generate_samples(1 << 20, seed=9, sample_bytes=1 << 16))
    for a, b in zip(few, many, strict=False):
        assert a.key == b.key
        for name in a.arrays:
            assert np.array_equal(a.arrays[name].values, b.arrays[name].values)


@pytest.mark.parametrize("kind", ["volume", "mesh"])
def test_fields_pack_like_turbulence(kind):
    (sample, *_) = generate_samples(1 << 22, seed=3, kinds=(kind,), sample_bytes=1 << 22)
    codec = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)
    for name, array in sample.arrays.items():
        if array.values.dtype == np.float32:
            ratio = array.values.nbytes / len(codec.encode(np.ascontiguousarray(array.values)))
            assert 1.1 < ratio < 1.6, name


@pytest.mark.parametrize("arguments", [{"total_bytes": 0}, {"total_bytes": 1, "kinds": ("gas",)}])
def test_impossible_samples_are_refused_at_the_call(arguments):
    with pytest.raises(ConfigError):
        generate_samples(seed=0, **arguments)
