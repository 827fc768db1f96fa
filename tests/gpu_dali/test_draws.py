"""Draws and geometry: what every operation's numbers and matrices are made of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dataplane.gpu.dali_draws import Draw, DrawSource
from dataplane.gpu.dali_geometry import cube_turns, inverse_map, rotation, turns_that_fit
from tests.gpu_dali import reference


def draw(**changed: object) -> Draw:
    named = {"seed": 1, "epoch": 2, "key": "case-3", "place": -1, **changed}
    return DrawSource(**named).of(4)  # type: ignore[arg-type]


def test_draws_are_those_that_they_were_when_this_was_written() -> None:
    """Runs that were begun with an earlier version are resumed with the same numbers."""
    one = draw()
    words = [one.word() for _ in range(9)]
    assert words[0] == draw().word() == 16889540463088749942
    assert words[-1] == 17570063725233323967


def test_draws_differ_by_each_of_what_names_them() -> None:
    other = {"seed": 2, "epoch": 3, "key": "case-4", "place": 0}
    words = {draw(**{name: value}).word() for name, value in other.items()}
    source = DrawSource(seed=1, epoch=2, key="case-3")
    words |= {source.of(operation).word() for operation in range(5)}
    assert len(words) == 9


def test_draws_are_uniform() -> None:
    one = draw()
    values = np.array([one.uniform(-2, 3) for _ in range(20_000)])
    assert values.min() >= -2
    assert values.max() < 3
    assert values.mean() == pytest.approx(0.5, abs=0.05)
    assert values.std() == pytest.approx(5 / 12**0.5, abs=0.05)
    counts = np.bincount([one.integer(7) for _ in range(14_000)], minlength=7)
    assert len(counts) == 7
    assert (np.abs(counts - 2000) < 250).all()
    factors = np.array([one.log_uniform(0.5, 2) for _ in range(5000)])
    assert np.log(factors).mean() == pytest.approx(0, abs=0.05)
    directions = np.array([one.direction() for _ in range(5000)])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(0), 0, atol=0.05)
    np.testing.assert_allclose((directions**2).mean(0), 1 / 3, atol=0.03)


def test_a_rotation_is_the_one_of_an_independent_construction() -> None:
    one = draw()
    for _ in range(20):
        axis, degrees = one.direction() * 3, one.uniform(-180, 180)
        made = rotation(axis, degrees)
        np.testing.assert_allclose(made, reference.rotation(axis, degrees), atol=1e-12)
    np.testing.assert_allclose(rotation([0, 0, 1], 90) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def test_the_turns_of_the_cube_are_its_24_rotations() -> None:
    turns = [np.array(turn) for turn in cube_turns(("yx", "zx", "zy"))]
    assert len(turns) == 24
    assert np.array_equal(turns[0], np.eye(3))
    assert all(round(np.linalg.det(turn)) == 1 for turn in turns)
    products = {(a @ b).tobytes() for a, b in itertools.product(turns, repeat=2)}
    assert products == {turn.astype(int).tobytes() for turn in turns}
    assert len(cube_turns(("yx",))) == 4


def test_turns_that_fit_keep_the_extents() -> None:
    turns = cube_turns(("yx", "zx", "zy"))
    assert len(turns_that_fit(turns, (4, 4, 4))) == 24
    assert len(turns_that_fit(turns, (4, 6, 6))) == 8
    assert len(turns_that_fit(turns, (4, 5, 6))) == 4
    assert turns_that_fit(cube_turns(("zy",)), (4, 5, 5))[0] == turns[0]


def test_the_map_of_a_right_angled_turn_has_no_rounding() -> None:
    for turn in cube_turns(("yx", "zx", "zy")):
        mapping = inverse_map(np.array(turn, float), (5, 6, 7))
        assert np.array_equal(mapping * 2, np.rint(mapping * 2))
