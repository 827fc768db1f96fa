"""Selections are shown as they are written: `repr` is the call that makes them again."""

from __future__ import annotations

import pytest

import dataplane as dp
from dataplane.datasets.selections import ArrayForm, Selection
from dataplane.errors import ConfigError

NAMES = {name: getattr(dp, name) for name in ("crop", "points", "rows", "steps", "whole")}


@pytest.mark.parametrize(
    "text",
    [
        "whole()",
        "crop((8, 8, 8))",
        "crop((8,), 'center')",
        "crop((4, 5), (0, 1), pad=0)",
        "crop({'z': 64, 2: 8})",
        "crop({'z': 64, 'y': 8}, {'z': 3, 'y': 0}, pad=-1.5)",
        "crop((4, 5), 'grid')",
        "crop({'z': 64}, 'grid', overlap=(8,), pad=0.5)",
        "points(1000)",
        "points(7, short='repeat')",
        "rows(4)",
        "rows(4, 2)",
        "rows(4, 0)",
        "steps(3)",
        "steps(3, 2)",
        "steps(3, 2, start=1, dimension='t')",
        "steps(3, start=0, dimension=0)",
        "steps(4) & crop({'z': 64}, 'center')",
        "steps(4) & (whole() & rows(3))",
        "steps(4) & whole() & rows(3)",
    ],
)
def test_a_selection_is_shown_as_it_is_written(text: str):
    made: Selection = eval(text, NAMES)
    assert repr(made) == text
    assert eval(repr(made), NAMES) == made


@pytest.mark.parametrize("pad", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_padding_that_is_no_plain_number_is_written_as_python_reads_it(pad: float):
    made = dp.crop((2, 2), pad=pad)
    assert repr(eval(repr(made), NAMES).pad) == repr(pad)


def test_messages_show_selections_as_they_are_written():
    array = ArrayForm("u", (8, 8), ("z", "y"))
    both = dp.crop({"z": 4}) & dp.rows(3)
    with pytest.raises(ConfigError, match=r"crop\(\{'z': 4\}\) and rows\(3\)"):
        both.region(array, draw=0)
