"""The flows that the examples learn from are exact."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest


@pytest.mark.parametrize("number", range(4))
def test_the_pressure_of_a_vortex_solves_its_poisson_equation(
    modules: dict[str, ModuleType], number: int
) -> None:
    volumes = modules["train_volumes"]
    arrays = volumes.taylor_green(number, cells=16, seed=5).arrays
    velocity = arrays["fields/velocity"].values.astype(float)
    pressure = arrays["fields/pressure"].values.astype(float)
    waves = 2j * np.pi * np.fft.fftfreq(16, 1 / 16)

    def derivative(field: np.ndarray, component: int) -> np.ndarray:
        axis = 2 - component  # components are x, y, z; axes are z, y, x
        shape = [16 if one == axis else 1 for one in range(3)]
        return np.fft.ifft(np.fft.fft(field, axis=axis) * waves.reshape(shape), axis=axis).real

    gradients = np.array([[derivative(velocity[..., i], j) for j in range(3)] for i in range(3)])
    assert np.abs(velocity).max() > 0.5
    np.testing.assert_allclose(np.trace(gradients), 0, atol=1e-4)
    laplacian = sum(derivative(derivative(pressure, j), j) for j in range(3))
    source = -volumes.DENSITY * np.einsum("ij...,ji...->...", gradients, gradients)
    np.testing.assert_allclose(laplacian, source, atol=1e-4 * np.abs(source).max())


def test_a_sphere_has_the_pressure_of_the_textbook(modules: dict[str, ModuleType]) -> None:
    meshes = modules["train_meshes"]
    normals, _ = meshes.sphere(9, 12)
    wind = np.array([1.0, 0.0, 0.0])
    found = meshes.pressure_coefficient(np.full(3, 0.7), normals, wind)
    np.testing.assert_allclose(found, 1 - 2.25 * (1 - normals[:, 0] ** 2), atol=1e-9)


def test_a_spheroid_has_the_speed_at_its_waist_that_its_closed_form_gives(
    modules: dict[str, ModuleType],
) -> None:
    """Source: Lamb, Hydrodynamics, §105: the added mass of a prolate spheroid along its axis."""
    long, short = 2.0, 0.5
    eccentricity = np.sqrt(1 - (short / long) ** 2)
    logarithm = np.log((1 + eccentricity) / (1 - eccentricity))
    alpha = 2 * (1 - eccentricity**2) / eccentricity**3 * (logarithm / 2 - eccentricity)
    waist, wind = np.array([[0.0, 1.0, 0.0]]), np.array([1.0, 0.0, 0.0])
    axes = np.array([long, short, short])
    found = modules["train_meshes"].pressure_coefficient(axes, waist, wind)
    assert found == pytest.approx([1 - (2 / (2 - alpha)) ** 2], abs=1e-6)


def test_a_generated_mesh_is_closed_and_its_normals_are_those_of_its_triangles(
    modules: dict[str, ModuleType],
) -> None:
    sample = modules["train_meshes"].ellipsoid(3, points=600, seed=1)
    points = sample.arrays["points"].values
    triangles = sample.arrays["cells/connectivity"].values
    normals = sample.arrays["point_data/normals"].values
    edges = np.concatenate([triangles[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges)  # each edge once in each direction
    assert {(b, a) for a, b in directed} == directed
    a, b, c = points[triangles].swapaxes(0, 1)
    outward = np.cross(b - a, c - a)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert ((outward * normals[triangles].mean(axis=1)).sum(axis=1) > 0.8).all()
    sizes = {len(modules["train_meshes"].ellipsoid(n, points=600, seed=1).arrays["points"].values)
             for n in range(8)}  # fmt: skip
    assert len(sizes) > 1
