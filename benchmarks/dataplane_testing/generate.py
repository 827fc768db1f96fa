"""Seeded synthetic simulation results: turbulent volumes and surface meshes, as samples to pack.

They are for demos, benchmarks and tests that need gigabytes without a download, whose bytes behave
like real ones. They are not a solution of any flow.

The algorithm. White noise is filtered in Fourier space so that its energy spectrum falls as
`k^slope` (Kolmogorov's -5/3); a vector field is also projected to be free of divergence. Such a
field has the smooth large scales and the noisy mantissas that make lossless codecs reach 1.2–1.4
on real turbulence. A Fourier transform per sample would take longer than packing it, so a pair of
fields serves a few samples: each is `cos(a)·A + sin(a)·B`, with A and B shifted by amounts of its
own in the periodic box. The sum of two independent fields has the same spectrum as either, and no
two samples share a value pattern.

A mesh is a body of revolution with bumps. Its points lie along a spiral, so that any number of them
can be triangulated without a mesher; points are then renumbered within small windows, as meshers
leave them.

Everything is a pure function of its arguments, seed included. Thread-safe: no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataplane.errors import ConfigError
from dataplane.shards import SourceArray, SourceSample

__all__ = ["SurfaceMesh", "generate_samples", "surface_mesh", "turbulence", "turbulence_vector"]

Floats = npt.NDArray[np.float32]

KOLMOGOROV_SLOPE = -5 / 3
MIN_MESH_POINTS = 16
_MAX_SAMPLE_BYTES = 32 << 20
_MIN_SAMPLE_BYTES = 64 << 10
_SAMPLES_IN_TOTAL = 16  # a small total still gives about this many samples, to have an order
_SAMPLES_PER_BASE = 8  # samples mixed from one pair of fields; a transform costs about two mixes
_RENUMBER_WINDOW = 32  # point numbers move at most this far: connectivity then packs 4–5 times
_KINDS = ("volume", "mesh")
_VOLUME_CHANNELS = 4  # three of velocity, one of pressure
_MESH_BYTES_PER_POINT = 3 * 4 + 2 * 3 * 4 + 4 + 3 * 4  # points, two triangles, pressure, shear
_AIR_DENSITY_KG_PER_M3 = 1.204
_AIR_VISCOSITY_PA_S = 1.825e-5


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceMesh:
    """A triangulated surface with fields at its points.

    Attributes:
        points: float32[N,3], m.
        connectivity: int32[M,3] (int64 from 2^31 points on), point numbers of each triangle.
        point_data: `pressure` float32[N], Pa, and `wall_shear_stress` float32[N,3], Pa.
    """

    points: Floats
    connectivity: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    point_data: dict[str, Floats]


def turbulence(
    shape: Sequence[int], *, seed: int | Sequence[int], slope: float = KOLMOGOROV_SLOPE
) -> Floats:
    """Make a periodic random field whose energy spectrum falls as `k^slope`.

    Args:
        shape: elements along z, y, x; any number of dimensions from 1 to 3 works.
        seed: seed; equal seeds give equal fields.
        slope: exponent of the energy spectrum.

    Returns:
        float32[z,y,x] with mean 0 and standard deviation 1.

    Raises:
        ConfigError: the shape is empty or has more than three dimensions.

    Example:
        >>> field = turbulence((16, 16, 32), seed=7)
        >>> field.shape, field.dtype
        ((16, 16, 32), dtype('float32'))
    """
    shape = _checked(shape)
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    spectrum = np.fft.rfftn(noise)
    spectrum *= _amplitude(shape, slope)
    return _normalised(np.fft.irfftn(spectrum, s=shape, axes=range(len(shape))))


def turbulence_vector(
    shape: Sequence[int], *, seed: int | Sequence[int], slope: float = KOLMOGOROV_SLOPE
) -> Floats:
    """Make a periodic random vector field without divergence, spectrum as in `turbulence`.

    Returns:
        float32[z,y,x,c], c = (x, y, z) components; mean 0, root mean square 1 over all components.

    Raises:
        ConfigError: the shape is not three positive numbers.

    Example:
        >>> turbulence_vector((8, 8, 8), seed=7).shape
        (8, 8, 8, 3)
    """
    shape = _checked(shape)
    if len(shape) != 3:
        raise ConfigError(f"a vector field needs the shape (nz, ny, nx), got {tuple(shape)}")
    rng = np.random.default_rng(seed)
    amplitude = _amplitude(shape, slope)
    waves = _wave_numbers(shape)[::-1]  # components are (x, y, z), axes are (z, y, x)
    spectra = []
    for _ in range(3):
        spectrum = np.fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
        spectrum *= amplitude
        spectra.append(spectrum)
    squared = sum((wave * wave for wave in waves), np.zeros((), np.float32))
    along = sum((w * s for w, s in zip(waves, spectra, strict=True)), np.zeros((), np.complex64))
    along = along / np.where(squared == 0, np.float32(1), squared)
    field = np.empty((*shape, 3), np.float32)
    for component, (wave, spectrum) in enumerate(zip(waves, spectra, strict=True)):
        across = spectrum - wave * along
        field[..., component] = np.fft.irfftn(across, s=shape, axes=range(3))
    return _normalised(field)


def surface_mesh(n_points: int, *, seed: int | Sequence[int]) -> SurfaceMesh:
    """Make a closed, bumpy body of `n_points` points with pressure and wall shear stress.

    Args:
        n_points: exact number of points, at least MIN_MESH_POINTS.
        seed: seed; equal seeds give equal meshes.

    Raises:
        ConfigError: too few points.

    Example:
        >>> mesh = surface_mesh(1000, seed=7)
        >>> mesh.points.shape, int(mesh.connectivity.max())
        ((1000, 3), 999)
    """
    if n_points < MIN_MESH_POINTS:
        raise ConfigError(f"a mesh needs at least {MIN_MESH_POINTS} points, got {n_points}")
    rng = np.random.default_rng(seed)
    per_turn = max(4, round(np.sqrt(n_points)))
    turns = -(-n_points // per_turn)
    bumps = turbulence((turns, per_turn), seed=int(rng.integers(1 << 62)), slope=-4.0)
    gusts = turbulence((2, turns, per_turn), seed=int(rng.integers(1 << 62)))
    polar, azimuth = _spiral(n_points, per_turn)
    points = _body(polar, azimuth, bumps.reshape(-1)[:n_points], rng)
    speed = 20.0 + 20.0 * rng.random()  # m/s
    stagnation = np.float32(0.5 * _AIR_DENSITY_KG_PER_M3 * speed**2)  # Pa
    first, second = gusts.reshape(2, -1)[:, :n_points]
    # Potential flow around a sphere, and fluctuations of a tenth of the stagnation pressure.
    pressure = stagnation * (1 - np.float32(2.25) * np.sin(polar) ** 2 + np.float32(0.1) * first)
    friction = np.float32(0.004) * stagnation
    shear = np.empty((n_points, 3), np.float32)
    shear[:, 0] = friction * (np.sin(polar) ** 2 + np.float32(0.2) * second)
    shear[:, 1] = friction * (np.cos(polar) * np.cos(azimuth) + np.float32(0.2) * first)
    shear[:, 2] = friction * (np.cos(polar) * np.sin(azimuth) - np.float32(0.2) * second)
    order = _renumbering(n_points, rng)
    where = np.empty(n_points, np.int64)
    where[order] = np.arange(n_points)
    triangles = where[_spiral_triangles(n_points, per_turn)]
    return SurfaceMesh(
        points=points[order],
        connectivity=triangles.astype(np.int32) if n_points < 2**31 else triangles,
        point_data={"pressure": pressure[order], "wall_shear_stress": shear[order]},
    )


def generate_samples(
    total_bytes: int,
    *,
    seed: int,
    kinds: Sequence[str] = _KINDS,
    sample_bytes: int | None = None,
) -> Iterator[SourceSample]:
    """Yield samples until their arrays hold at least `total_bytes` decoded.

    Samples take turns between the kinds: `volume` has `fields/velocity` [z,y,x,c] and
    `fields/pressure` [z,y,x], the same shape in every sample; `mesh` has `points`,
    `cells/connectivity`, `point_data/pressure` and `point_data/wall_shear_stress`, with a number of
    points of its own in every sample.

    Args:
        total_bytes: decoded size to reach.
        seed: seed; equal arguments give equal samples, independent of earlier calls.
        kinds: kinds to make, in turn.
        sample_bytes: approximate size of a sample; by default a sixteenth of the total, within
            64 KiB and 32 MiB.

    Raises:
        ConfigError: no size, or an unknown kind.

    Example:
        >>> samples = list(generate_samples(1 << 20, seed=7))
        >>> samples[0].key, sorted(samples[0].arrays)
        ('volume-000000', ['fields/pressure', 'fields/velocity'])
    """
    if total_bytes < 1:
        raise ConfigError(f"the size to generate must be positive, got {total_bytes}")
    if not kinds or not set(kinds) <= set(_KINDS):
        raise ConfigError(f"unknown kind of sample in {tuple(kinds)}; known: {', '.join(_KINDS)}")
    if sample_bytes is None:
        sample_bytes = total_bytes // _SAMPLES_IN_TOTAL
        sample_bytes = min(max(sample_bytes, _MIN_SAMPLE_BYTES), _MAX_SAMPLE_BYTES)
    return _samples(total_bytes, seed, tuple(kinds), sample_bytes)


def _samples(
    total_bytes: int, seed: int, kinds: tuple[str, ...], sample_bytes: int
) -> Iterator[SourceSample]:
    volumes = _Volumes(seed, sample_bytes)
    made_bytes = 0
    index = 0
    while made_bytes < total_bytes:
        kind = kinds[index % len(kinds)]
        if kind == "volume":
            sample = volumes.make(index)
        else:
            sample = _mesh_sample(index, seed, sample_bytes)
        made_bytes += sum(array.values.nbytes for array in sample.arrays.values())
        index += 1
        yield sample


class _Volumes:
    """A maker of volume samples, with the pair of fields that the current few are mixed from."""

    def __init__(self, seed: int, sample_bytes: int) -> None:
        side = round((sample_bytes / (4 * _VOLUME_CHANNELS)) ** (1 / 3))
        # Multiples of 8 keep the transform fast and the chunks regular.
        self.side = max(8, side // 8 * 8)
        self._seed = seed
        self._group = -1
        self._velocities: list[Floats] = []
        self._pressures: list[Floats] = []

    def make(self, index: int) -> SourceSample:
        self._load(index // _SAMPLES_PER_BASE)
        rng = np.random.default_rng([self._seed, 1, index])
        wind = 10.0 + 30.0 * rng.random()  # m/s
        intensity = 0.05 + 0.15 * rng.random()  # root mean square of fluctuations over wind
        angle = rng.uniform(0, 2 * np.pi)
        shifts = rng.integers(self.side, size=(2, 3))
        velocity = _mixed(self._velocities, angle, shifts)
        velocity *= np.float32(wind * intensity)
        velocity[..., 0] += np.float32(wind)
        pressure = _mixed(self._pressures, angle, shifts)
        pressure *= np.float32(_AIR_DENSITY_KG_PER_M3 * (wind * intensity) ** 2)
        box_m = 1.0
        attributes = {
            "kind": "volume",
            "reynolds_number": round(
                _AIR_DENSITY_KG_PER_M3 * wind * box_m / _AIR_VISCOSITY_PA_S, 3
            ),
            "turbulence_intensity": round(intensity, 6),
            "mean_velocity": [round(wind, 6), 0.0, 0.0],
            "origin": [0.0, 0.0, 0.0],
            "spacing": [box_m / self.side] * 3,
        }
        grid = ("z", "y", "x")
        return SourceSample(
            key=f"volume-{index:06d}",
            arrays={
                "fields/velocity": SourceArray(
                    values=velocity, dimension_names=(*grid, "c"), units="m/s", attributes={}
                ),
                "fields/pressure": SourceArray(
                    values=pressure, dimension_names=grid, units="Pa", attributes={}
                ),
            },
            attributes=attributes,
        )

    def _load(self, group: int) -> None:
        """Make the pair of fields of a group of samples, unless it is the current one."""
        if group == self._group:
            return
        shape = (self.side,) * 3
        self._velocities = [
            turbulence_vector(shape, seed=[self._seed, 2, group, which]) for which in range(2)
        ]
        # Pressure fluctuations fall faster than velocity's: Obukhov's -7/3.
        self._pressures = [
            turbulence(shape, seed=[self._seed, 3, group, which], slope=-7 / 3)
            for which in range(2)
        ]
        self._group = group


def _mesh_sample(index: int, seed: int, sample_bytes: int) -> SourceSample:
    rng = np.random.default_rng([seed, 4, index])
    n_points = round(sample_bytes / _MESH_BYTES_PER_POINT * rng.uniform(0.8, 1.0))
    mesh = surface_mesh(max(n_points, MIN_MESH_POINTS), seed=[seed, 5, index])
    vector = ("point", "c")
    named = {
        "points": (mesh.points, vector, "m"),
        "cells/connectivity": (mesh.connectivity, ("cell", "corner"), None),
        "point_data/pressure": (mesh.point_data["pressure"], ("point",), "Pa"),
        "point_data/wall_shear_stress": (mesh.point_data["wall_shear_stress"], vector, "Pa"),
    }
    return SourceSample(
        key=f"mesh-{index:06d}",
        arrays={
            name: SourceArray(values=values, dimension_names=dims, units=units, attributes={})
            for name, (values, dims, units) in named.items()
        },
        attributes={
            "kind": "mesh",
            "angle_of_attack_deg": round(rng.uniform(-5, 15), 6),
            "reynolds_number": round(rng.uniform(1e6, 1e7), 3),
        },
    )


def _checked(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ConfigError(f"a field needs one to three positive dimensions, got {shape}")
    return shape


def _wave_numbers(shape: tuple[int, ...]) -> list[Floats]:
    """Cycles per element along each axis, shaped to broadcast over the half spectrum."""
    waves = []
    for axis, n in enumerate(shape):
        last = axis == len(shape) - 1
        frequencies = np.fft.rfftfreq(n) if last else np.fft.fftfreq(n)
        extent = [1] * len(shape)
        extent[axis] = -1
        waves.append(frequencies.astype(np.float32).reshape(extent))
    return waves


def _amplitude(shape: tuple[int, ...], slope: float) -> Floats:
    """Amplitude of each mode: a shell of radius k in d dimensions has about k^(d-1) modes."""
    squared = sum((wave * wave for wave in _wave_numbers(shape)), np.zeros((), np.float32))
    dimensions = max(1, sum(n > 1 for n in shape))
    exponent = (slope - (dimensions - 1)) / 4  # of k squared; energy is amplitude squared
    constant = squared == 0
    amplitude = np.where(constant, np.float32(1), squared) ** np.float32(exponent)
    amplitude[constant] = 0
    return np.asarray(amplitude, np.float32)


def _normalised(field: npt.NDArray[np.floating]) -> Floats:
    field = np.ascontiguousarray(field, np.float32)
    deviation = float(np.sqrt(np.mean(np.square(field), dtype=np.float64)))
    if deviation > 0:
        field *= np.float32(1 / deviation)
    return field


def _mixed(fields: Sequence[Floats], angle: float, shifts: npt.NDArray[np.int64]) -> Floats:
    """Return cos(angle)·A + sin(angle)·B, each shifted in its periodic box."""
    first, second = (
        np.roll(field, tuple(shift), axis=(0, 1, 2))
        for field, shift in zip(fields, shifts, strict=True)
    )
    first *= np.float32(np.cos(angle))
    second *= np.float32(np.sin(angle))
    first += second
    return first


def _spiral(n_points: int, per_turn: int) -> tuple[Floats, Floats]:
    """Polar and azimuthal angle of the points of a spiral from pole to pole, equal in area."""
    numbers = np.arange(n_points)
    polar = np.arccos(1 - 2 * (numbers + 0.5) / n_points)
    azimuth = 2 * np.pi * (numbers % per_turn) / per_turn
    return polar.astype(np.float32), azimuth.astype(np.float32)


def _spiral_triangles(n_points: int, per_turn: int) -> npt.NDArray[np.int64]:
    """Two triangles between each pair of neighbours along the spiral and the next turn."""
    start = np.arange(n_points - per_turn - 1)
    lower = np.stack([start, start + 1, start + per_turn], axis=1)
    upper = np.stack([start + 1, start + per_turn + 1, start + per_turn], axis=1)
    return np.stack([lower, upper], axis=1).reshape(-1, 3)


def _body(polar: Floats, azimuth: Floats, bumps: Floats, rng: np.random.Generator) -> Floats:
    """Place the points: an ellipsoid of car-like proportions with smooth bumps."""
    half_axes_m = np.array([2.3, 0.9, 0.7]) * rng.uniform(0.8, 1.2, size=3)
    radius = 1 + np.float32(0.02) * bumps * np.sin(polar)
    points = np.empty((len(polar), 3), np.float32)
    points[:, 0] = -np.cos(polar)
    points[:, 1] = radius * np.sin(polar) * np.cos(azimuth)
    points[:, 2] = radius * np.sin(polar) * np.sin(azimuth)
    points *= half_axes_m.astype(np.float32)
    return points


def _renumbering(n_points: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Order points at random within windows, as meshers leave them: near in space, not in line."""
    windows = np.arange(n_points) // _RENUMBER_WINDOW
    return np.lexsort((rng.random(n_points), windows))
